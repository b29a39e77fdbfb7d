"""Training the parameters of some neurons and nothing else (arXiv 2402.18815, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pymultiling.errors import CheckpointError, UnsupportedModel
from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.deltas import COLUMNS, ROWS, Delta, has_deltas
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.tuning/1"
WHAT = "what train_only trained"
MASK = "neurons."  # in a file, in front of a site's name


def train_only(model: nn.Module, neurons: NeuronSet) -> NeuronTuning:
    """Makes the model train the parameters of `neurons`, and nothing else.

        q, k, v:  row n of the projection, and of its bias
        ffn:      row n of gate and up, and of their biases; column n of down
        o:        column n of o_proj

    Everything else is frozen: embeddings, head, norms, other rows and columns, the biases of down and o_proj. What
    trains are differences D to the chosen entries, W + D, which the model owns and adds while it runs; W is neither
    written to nor copied. The gradient of D is W's own, in the chosen entries. Gradients, optimizer state and D take
    memory in proportion to the neurons; D is float32 also where the model is in 16 bits.

        with pml.train_only(model, neurons) as trained:
            optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)      # or a Trainer of the model
            ...
            trained.merge()                  # an ordinary model; without it the block's end puts back the old one

    Works with Trainer, accelerate, autocast, gradient checkpointing, torch.compile, `generate` and `deactivate`. Make
    the optimizer inside. Weight decay pulls D to zero: towards the weights the model had.

    While it trains, `state_dict`, and so `save_pretrained` and Trainer's checkpoints, give the ordinary model that
    `merge` would make (in copies of the matrices that train). `load_state_dict` of such a state, as Trainer resumes,
    goes into D, as exact as the weights' dtype is: of a 16-bit model also `NeuronTuning.save` D, which loses nothing.
    `importance` and `detect`, which read weights, refuse such a model: merge first.

    Of a mixture of experts the attention's neurons can be trained, the FFN's cannot: all experts share two parameters,
    which no single linear module adds to.

    Source: arXiv 2402.18815, section 3.3; the differences, and their dtype, are ours.

    Args:
        model: a Hugging Face decoder of a supported family.
        neurons: what to train.

    Returns:
        NeuronTuning, which ends it.

    Raises:
        UnsupportedModel: the model's neurons are not where a known family has them, or its weights are not in memory;
            the set has FFN neurons of experts.
        ValueError: the set is of a model of another shape, or empty; the model trains neurons already.
    """
    decoder = Decoder(model)
    decoder.require_weights()
    if decoder.tensor_parallel.count > 1:
        raise UnsupportedModel("the model is spread over processes (tp_plan): load it whole to train some neurons")
    neurons.check_fits(decoder.widths(), len(decoder.layers))
    if len(neurons) == 0:
        raise ValueError("the set has no neurons: nothing would be trained")
    if decoder.layers[0].experts is not None and len(neurons.only("ffn")):
        raise UnsupportedModel(
            "the set has FFN neurons of experts, which cannot be trained alone: give neurons.only('q', 'k', 'v', 'o')"
        )
    if has_deltas(decoder.base_model):
        raise ValueError(
            "the model trains neurons already: first call merge() or remove() of what train_only returned, or train the "
            "union of the sets"
        )
    return NeuronTuning(decoder, neurons)


class NeuronTuning:
    """A model that trains some neurons: `train_only` makes it. As a context manager it removes what was not merged.

    Attributes:
        neurons: the set that is trained.
    """

    def __init__(self, decoder: Decoder, neurons: NeuronSet):
        self.neurons = neurons
        self._frozen = [parameter for parameter in decoder.model.parameters() if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        names = {
            module: name for name, module in decoder.base_model.named_modules()
        }  # the same with and without a head
        self._deltas = {
            names[module]: Delta(module, index, dimension)
            for number, layer in enumerate(decoder.layers)
            for module, dimension, index in _chosen(layer, number, neurons)
        }

    def parameters(self) -> list[nn.Parameter]:
        """What trains; the only parameters of the model with requires_grad, unless you change that."""
        return list(self._named().values())

    def merge(self) -> None:
        """Adds the differences to the weights, in their dtype, and ends training: an ordinary model again."""
        self._end(Delta.merge)

    def remove(self) -> None:
        """Drops the differences and ends training: the model is, bit for bit, what it was."""
        self._end(Delta.remove)

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes the differences and the set to a safetensors file; metadata are strings kept beside them."""
        tensors = {name: delta.detach().contiguous() for name, delta in self._named().items()}
        masks = {MASK + site: mask.to(torch.uint8).contiguous() for site, mask in self.neurons.sites.items()}
        save_tensors(path, tensors | masks, FORMAT, metadata)

    @classmethod
    def load(cls, model: nn.Module, path: str | Path) -> NeuronTuning:
        """`train_only` with the set and the differences of a file that `save` wrote: training goes on, or `merge` it.

        Raises:
            CheckpointError: the file is damaged, something else, or of a model of another shape.
            UnsupportedModel, ValueError: as `train_only`.
        """
        tensors, _ = load_tensors(path, FORMAT, WHAT)
        decoder = Decoder(model)
        try:
            neurons = NeuronSet({name[len(MASK) :]: tensors.pop(name).bool() for name in _masks_of(tensors)})
            neurons.check_fits(decoder.widths(), len(decoder.layers))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        tuning = train_only(model, neurons)
        try:
            tuning._fill(tensors, path)
        except CheckpointError:
            tuning.remove()
            raise
        return tuning

    def __enter__(self) -> NeuronTuning:
        return self

    def __exit__(self, *_) -> None:
        if self._deltas:
            self.remove()

    def _named(self) -> dict[str, nn.Parameter]:
        self._check_on()
        return {f"{path}.{name}": delta for path, one in self._deltas.items() for name, delta in one.parameters()}

    @torch.no_grad()
    def _fill(self, tensors: dict[str, Tensor], path: str | Path) -> None:
        own = self._named()
        for name in sorted(own.keys() | tensors.keys()):
            shapes = [tuple(some[name].shape) if name in some else "not there" for some in (tensors, own)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(f"{path} is of another model: {name} is {shapes[0]}, this model's {shapes[1]}")
            own[name].copy_(tensors[name])

    def _end(self, how) -> None:
        self._check_on()
        while self._deltas:
            how(self._deltas.popitem()[1])
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def _check_on(self) -> None:
        if not self._deltas:
            raise ValueError("this training has ended, merged or removed: call train_only again")


def _masks_of(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in tensors if name.startswith(MASK)]


def _chosen(layer: Layer, number: int, neurons: NeuronSet) -> Iterator[tuple[nn.Module, int, Tensor]]:
    """The linear modules of a layer that hold the neurons' parameters, and which of their rows or columns those are."""
    rows: dict[nn.Module, list[Tensor]] = {}  # the parts of a fused projection share a module
    parts = (("q", layer.q), ("k", layer.k), ("v", layer.v), ("ffn", layer.gate), ("ffn", layer.up))
    for site, part in parts:
        if part is None:  # a plain FFN has no up, experts have neither
            continue
        rows.setdefault(part.module, []).append(part.row_indices()[_members(neurons, site, number)])
    found = [(module, ROWS, torch.cat(some)) for module, some in rows.items()]
    found += [
        (module, COLUMNS, _members(neurons, site, number))
        for site, module in (("ffn", layer.down), ("o", layer.o))
        if module is not None
    ]
    yield from (one for one in found if len(one[2]))


def _members(neurons: NeuronSet, site: str, number: int) -> Tensor:
    """The neurons of the set at a site of a layer, in ascending order."""
    mask = neurons.sites.get(site)
    return torch.empty(0, dtype=torch.int64) if mask is None else mask[number].nonzero().squeeze(1)
