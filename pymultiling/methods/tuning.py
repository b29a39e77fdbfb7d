"""Training the parameters of chosen neurons and nothing else (arXiv 2402.18815, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pymultiling.errors import CheckpointError, UnsupportedModel
from pymultiling.models.decoder import AttentionLayer, Decoder, Layer
from pymultiling.models.deltas import COLUMNS, DELTAS, ROWS, Delta, has_deltas
from pymultiling.models.own_weights import require_own_weights
from pymultiling.models.unwrap import refuse_quantisation_mark
from pymultiling.neurons.sets import NeuronSet, mask_schema
from pymultiling.neurons.sites import SITES
from pymultiling.neurons.widths import width_schemas, widths_from_tensors, widths_to_tensors
from pymultiling.probes.verification.entry import require_verified, sites_of_sets
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import FLOATS, TensorSchema, open_tensors

if TYPE_CHECKING:
    from pymultiling.models.linear import Linear, PlainLinear, Projection

FORMAT = "pymultiling.tuning/1"
CONTENTS = "the differences that train_only trained"
MASK_PREFIX = "neurons."  # in a file, before the name of a site


def train_only(model: nn.Module, neurons: NeuronSet, *, verify: bool = True) -> NeuronTuning:
    """Makes the parameters of `neurons` trainable and freezes everything else.

        q, k, v:  row n of the projection, and of its bias
        ffn:      row n of gate and up, and of their biases; column n of down
        o:        column n of o_proj

    The embeddings, the head, norms, all other rows and columns, and the biases of down and o_proj are frozen. The
    trained parameters are differences D to the chosen entries of each weight W. A forward computes with W + D, and W
    itself is neither changed nor copied. The gradient of D is that of W in the chosen entries. The memory of gradients,
    optimizer state and D is proportional to the number of neurons. D is float32, also for a model in 16 bits; for a
    float64 model it is float64.

        with pml.train_only(model, neurons) as trained:
            optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4)      # or a Trainer of the model
            ...
            trained.merge()                  # an ordinary model; without it the end of the block restores the old one

    It works with Trainer, accelerate, autocast, gradient checkpointing, torch.compile, `generate` and `deactivate`.
    Create the optimizer inside the block. Weight decay pulls D to zero, that is towards the weights that the model had.

    Inside the block `state_dict`, and so `save_pretrained` and the checkpoints of Trainer, give the ordinary model that
    `merge` would make (with copies of the matrices that train). `load_state_dict` of such a state, as Trainer does
    when it resumes, sets D. It is as exact as the weights' dtype: for a 16-bit model save D too, with
    `NeuronTuning.save`, which loses nothing. `importance` and `detect` read weights and refuse such a model: merge
    first.

    In a mixture of experts the neurons of the attention can be trained, those of the FFN cannot: all experts share two
    parameters, so there is no linear module of an expert that could add D.

    Source: arXiv 2402.18815, section 3.3. The differences and their dtype are this package's own.

    Args:
        model: a Hugging Face decoder of a supported family. It is changed in place.
        neurons: the neurons to train.
        verify: as in `importance`, for the sites of the set.

    Returns:
        A `NeuronTuning`, whose `merge` or `remove` ends the training.

    Raises:
        UnsupportedModel: the model's neurons are not where its family has them, or no known family fits; its weights
            are not in memory, or it is marked as quantised; it is spread over processes, or is inside
            DistributedDataParallel; the set has FFN neurons of experts; or a module to train computes its weight from
            other tensors (a parametrization, an adapter of PEFT), shares it with another module, is not called by the
            model's forward, or computes something else than its weights say.
        ValueError: the set is empty or of a model of another shape; or the model trains neurons already.
    """
    if isinstance(model, DistributedDataParallel):
        raise UnsupportedModel(
            "DistributedDataParallel would not add up the gradients of parameters that the model gets now: call "
            "train_only on its module, and then DistributedDataParallel"
        )
    decoder = Decoder(model)
    refuse_quantisation_mark(decoder.model)
    decoder.require_weights()
    if decoder.tensor_parallel.count > 1:
        raise UnsupportedModel("the model is spread over processes (tp_plan): load it whole to train some neurons")
    decoder.check_set(neurons)
    if len(neurons) == 0:
        raise ValueError("the set has no neurons, so that nothing would be trained: give a set with some")
    if any(layer.experts is not None for layer in decoder.layers) and len(neurons.only("ffn")):
        raise UnsupportedModel(
            "the set has FFN neurons of experts, which cannot be trained alone: give neurons.only('q', 'k', 'v', 'o')"
        )
    if has_deltas(decoder.base_model):
        raise ValueError(
            "the model trains neurons already: first call merge() or remove() of what train_only returned, or train "
            "the union of the sets"
        )
    require_own_weights(decoder, [module for module, _, _ in _trained_parts(decoder, neurons)])
    require_verified(decoder, sites_of_sets([neurons]), verify)
    return NeuronTuning(decoder, neurons)


class NeuronTuning:
    """A model that trains some of its neurons, as `train_only` returns it.

    As a context manager it calls `remove` at the end of the block, unless `merge` or `remove` was called before.

    Args:
        decoder: the model. Users do not make this object: `train_only` and `load` do.
        neurons: the set to train.

    Attributes:
        neurons: the set that is trained.
    """

    def __init__(self, decoder: Decoder, neurons: NeuronSet):
        self.neurons = neurons
        self._frozen = [parameter for parameter in decoder.model.parameters() if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        # Names in the base model, which are the same with and without a head.
        names = {module: name for name, module in decoder.base_model.named_modules()}
        self._deltas = {
            names[module]: Delta(cast("PlainLinear", module), index, dimension)
            for module, dimension, index in _trained_parts(decoder, neurons)
        }

    def __repr__(self) -> str:
        return f"NeuronTuning({self.neurons!r}, {len(self._deltas)} changed parameters)"

    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that train, for an optimizer.

        They are the only parameters of the model with requires_grad, unless the caller changes that.

        Returns:
            The differences, float32 (float64 for a float64 model).

        Raises:
            ValueError: the training has ended.
        """
        return list(self._named_parameters().values())

    def merge(self) -> None:
        """Adds the differences to the weights, rounded to their dtype, and ends the training.

        After it the model is an ordinary model again.

        Raises:
            ValueError: the training has ended.
        """
        self._require_active()
        while self._deltas:
            self._deltas.popitem()[1].merge()
        self._unfreeze()

    def remove(self) -> None:
        """Discards the differences and ends the training: the model is bit for bit what it was before.

        Raises:
            ValueError: the training has ended.
        """
        self._require_active()
        while self._deltas:
            self._deltas.popitem()[1].remove()
        self._unfreeze()

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes the differences and the set of neurons to a safetensors file.

        Args:
            path: the file.
            **metadata: strings to store in the file, such as language="fr".

        Raises:
            ValueError: the training has ended.
        """
        tensors = {name: delta.detach().contiguous() for name, delta in self._named_parameters().items()}
        masks = {MASK_PREFIX + site: mask.to(torch.uint8).contiguous() for site, mask in self.neurons.sites.items()}
        save_tensors(path, tensors | masks | widths_to_tensors(self.neurons.widths), FORMAT, metadata)

    @classmethod
    def load(cls, model: nn.Module, path: str | Path) -> NeuronTuning:
        """Calls `train_only` with the set and the differences of a file that `save` wrote.

        Training can go on from there, or `merge` makes the trained model.

        Args:
            model: the model that was trained, with its original weights; with or without a head.
            path: the file.

        Returns:
            A `NeuronTuning`, as `train_only` returns it.

        Raises:
            CheckpointError: the file is missing or damaged, holds something else, or is of a model of another shape.
            UnsupportedModel: as `train_only`.
            ValueError: as `train_only`.
        """
        neurons, differences = read_tuning(path)
        decoder = Decoder(model)
        try:
            decoder.check_set(neurons)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        tuning = train_only(model, neurons)
        try:
            tuning._load_differences(differences, path)
        except CheckpointError:
            tuning.remove()
            raise
        return tuning

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._deltas:
            self.remove()

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        self._require_active()
        return {f"{path}.{name}": value for path, delta in self._deltas.items() for name, value in delta.parameters()}

    @torch.no_grad()
    def _load_differences(self, tensors: dict[str, Tensor], path: str | Path) -> None:
        parameters = self._named_parameters()
        for name in sorted(parameters.keys() | tensors.keys()):
            loaded_shape = tuple(tensors[name].shape) if name in tensors else "missing"
            shape = tuple(parameters[name].shape) if name in parameters else "missing"
            if loaded_shape != shape:
                raise CheckpointError(
                    f"{path} is of another model: {name} is {loaded_shape} in the file and {shape} in this model; load "
                    "the model that was trained"
                )
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])

    def _unfreeze(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def _require_active(self) -> None:
        if not self._deltas:
            raise ValueError("this training has ended, merged or removed: call train_only again")


def read_tuning(path: str | Path) -> tuple[NeuronSet, dict[str, Tensor]]:
    """Reads a file that `NeuronTuning.save` wrote, and checks all that can be checked without the model.

    Returns:
        The set, and {name: difference}.

    Raises:
        CheckpointError: the file is missing or damaged, or holds something else.
    """
    with open_tensors(path, FORMAT, CONTENTS) as file:
        sites: list[str] = [site for site in SITES if MASK_PREFIX + site in file.shapes]
        if not sites:
            raise file.damaged("it has no site")
        schemas = {MASK_PREFIX + site: mask_schema(site) for site in sites}
        names = [name for name in file.shapes if name.rpartition(".")[2] in DELTAS]
        for name in names:
            is_bias = name.endswith(".bias")
            schemas[name] = TensorSchema(
                FLOATS, (f"rows of {name}",) if is_bias else (f"rows of {name}", f"columns of {name}")
            )
        tensors = file.read(schemas | width_schemas(file, sites))
        masks = {site: tensors[MASK_PREFIX + site].bool() for site in sites}
        neurons = NeuronSet(masks, widths_from_tensors(file, tensors, masks))
    return neurons, {name: tensors[name] for name in names}


def _trained_parts(decoder: Decoder, neurons: NeuronSet) -> Iterator[tuple[Linear, int, Tensor]]:
    """Yields `_trained_parts_of_layer` of all layers."""
    for number, layer in enumerate(decoder.layers):
        yield from _trained_parts_of_layer(layer, number, neurons)


def _trained_parts_of_layer(layer: Layer, number: int, neurons: NeuronSet) -> Iterator[tuple[Linear, int, Tensor]]:
    """Yields the linear modules of layer `number` that hold parameters of the neurons, and their rows or columns.

    The three values are the module, ROWS or COLUMNS, and the indices of the rows or columns, (n,) int64 with n > 0.
    """
    rows: dict[Linear, list[Tensor]] = {}  # the parts of a fused projection share a module
    projections: list[tuple[str, Projection | None]] = [("ffn", layer.gate), ("ffn", layer.up)]
    if isinstance(layer, AttentionLayer):
        projections = [("q", layer.q), ("k", layer.k), ("v", layer.v), *projections]
    for site, projection in projections:
        if projection is None:  # a plain FFN has no up, experts have neither, and some layers no k or v
            continue
        rows.setdefault(projection.module, []).append(projection.row_indices()[_members(neurons, site, number)])
    parts = [(module, ROWS, torch.cat(indices)) for module, indices in rows.items()]
    if layer.down is not None:
        parts.append((layer.down, COLUMNS, _members(neurons, "ffn", number)))
    if isinstance(layer, AttentionLayer):
        parts.append((layer.o, COLUMNS, _members(neurons, "o", number)))
    for module, dimension, index in parts:
        if len(index):
            yield module, dimension, index


def _members(neurons: NeuronSet, site: str, number: int) -> Tensor:
    """Returns the members of the set at a site of layer `number`, (n,) int64, in ascending order."""
    mask = neurons.sites.get(site)
    return torch.empty(0, dtype=torch.int64) if mask is None else mask[number].nonzero().squeeze(1)
