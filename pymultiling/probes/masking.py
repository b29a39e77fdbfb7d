"""Switches neurons off inside a model: their activations are changed during the forward, and weights stay unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from pymultiling.models.decoder import Decoder
from pymultiling.models.unwrap import refuse_replicas, without_prompt
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.neuron_changes import THREADS, Threads, change_neurons
from pymultiling.probes.row_sets import check_rows
from pymultiling.probes.verification.entry import require_verified, sites_of_sets


@contextmanager
def deactivate(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet | None],
    rows: Tensor | Sequence[int] | None = None,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    threads: Threads = "own",
    verify: bool = True,
) -> Iterator[nn.Module]:
    """Switches neurons off: inside the block, the model runs as if all parameters of the neurons were zero.

        x[n] becomes scale x[n], or mean[n], for every neuron n of the set

    x is the input of the down projection for FFN neurons, the input of o_proj for O neurons, and the output of the
    projection (bias included) for Q, K and V neurons. Weights are not changed. Neurons of an expert are changed in the
    tokens that are routed to it, and the router is not changed.

    If several sets are given, each row of the batch runs under its own set, in the same forward. Contexts can be
    nested; the inner change is applied after the outer one, so with scale 0 the union of the sets is off. On exit
    everything is removed, also after an exception. Inside the block the model cannot be copied or pickled, and
    `save_pretrained` and `state_dict` give it as it was.

    The neurons are off in the thread, or the asyncio task, that entered the block; other threads run the model as it
    is. They are also off in what this thread starts by calling the model: `torch.nn.DataParallel`, and backward passes.
    With the gradient checkpointing of transformers, layers are recomputed with the neurons that were off in the
    forward, also after the block. With `torch.utils.checkpoint` called on parts of the model, the backward pass must be
    inside the block.

    Source: arXiv 2402.18815, section 2.

    Args:
        model: a Hugging Face decoder of a supported family; it may be compiled.
        neurons: the set of neurons to switch off; or a list of sets for the rows of the batch, in which None means that
            all neurons are on.
        rows: only with a list: for each row of the batch the index of its set in the list, (batch,) int. None: row r is
            under set r. In `model.generate` the rows are the prompts; all beams and samples of a prompt are under its
            set.
        scale: the factor of the neurons' activations: 0 switches the neurons off, 2 doubles their activations.
        mean: {site: (layers, neurons)}, the values that the neurons are set to, such as those of `mean_activations`.
            None: the neurons are scaled.
        threads: "own": the neurons are off where the block was entered. "all": they are off in all threads, such as
            those that are started inside the block.
        verify: as in `importance`, for the sites of the sets.

    Yields:
        The model.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them; weights are not in memory; or a module of a
            site of the sets computes something else than its weights say.
        ValueError: `neurons` is neither a set nor a list of sets; a set is of a model of another shape, or has
            attention neurons in a layer that has no attention; `rows` has an index that is not in the list, or not as
            many entries as the batch has rows; `scale` is not finite; `mean` is of another model, lacks a site of the
            sets, or is given together with a scale; `threads` is none of the known values.

    Warns:
        UserWarning: a set has no neurons; or a thread that was started inside the block runs the model, without the
            change.
    """
    refuse_replicas(model)
    decoder = Decoder(without_prompt(model))
    if threads not in THREADS:
        raise ValueError(f"threads must be one of {THREADS}, got {threads!r}")
    if isinstance(neurons, NeuronSet):
        if rows is not None:
            raise ValueError("rows choose among several sets: give a list of them")
        check_sets(decoder, {"the set": neurons})
        require_verified(decoder, sites_of_sets([neurons]), verify)
        with change_neurons(decoder, [neurons], scale, mean, threads):
            yield model
        return
    if isinstance(neurons, Mapping) or not neurons:
        raise ValueError("neurons must be a set of neurons or a list of some; of a dictionary give list(sets.values())")
    check_sets(decoder, {f"set {number}": neuron_set for number, neuron_set in enumerate(neurons)})
    require_verified(decoder, sites_of_sets(neurons), verify)
    ids = check_rows(rows, len(neurons))
    with change_neurons(decoder, neurons, scale, mean, threads) as row_sets, row_sets.in_generate(threads == "all"):
        row_sets.assign(ids)
        yield model


def check_sets(decoder: Decoder, named_sets: Mapping[str, NeuronSet | None]) -> None:
    """Checks that sets fit the model. Messages use the names of the sets.

    Raises:
        ValueError: a set is of a model of another shape, or has attention neurons in a layer that has no attention.

    Warns:
        UserWarning: a set has no neurons.
    """
    for name, neurons in named_sets.items():
        if neurons is None:
            continue
        decoder.check_set(neurons, name)
        if len(neurons) == 0:
            warnings.warn(f"{name} has no neurons: under it the model runs as it is", stacklevel=2)
