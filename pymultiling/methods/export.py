"""Checkpoints in which neurons are off: the weights are changed, so that any program that loads them runs them so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.methods.export_card import model_card
from pymultiling.methods.export_changes import Change, ParameterNames, changes_of_set
from pymultiling.models.adapters import MERGE, is_of_peft
from pymultiling.models.checkpoint_folder import CheckpointFolder, fetch_folder
from pymultiling.models.decoder import Decoder
from pymultiling.models.deltas import refuse_deltas
from pymultiling.models.linear import PlainLinear
from pymultiling.models.loading import load_without_weights
from pymultiling.models.pretrained import pretrained, uncompiled
from pymultiling.models.unwrap import refuse_quantisation_mark, unwrap
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets
from pymultiling.probes.set_masks import check_mean
from pymultiling.probes.verification.entry import require_verified, sites_of_sets
from pymultiling.runtime.new_folder import new_folder, require_new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ExportDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(
    model: nn.Module | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    neurons: NeuronSet | Mapping[str, NeuronSet],
    out: str | Path,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    dtype: ExportDtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    verify: bool = True,
) -> None:
    """Writes an ordinary checkpoint whose model computes what the model computes in a block of `deactivate`.

        W[:, n], for the neurons n of the inputs of W (ffn, o), and W[n, :] and b[n], for those of its outputs (q, k,
        v), are multiplied by `scale`. With `mean` they become 0, b[n] (q, k, v) becomes mean[n], and the bias behind
        ffn and o neurons becomes b + sum_n W[:, n] mean[n].

    If the scale is 0 or a power of two, with either sign, logits are bit for bit those inside `deactivate`, where the
    same code computes both: same dtype, device, attention and experts implementation. (Of experts, `deactivate`
    computes what transformers' experts implementation "eager" does.) For other scales and for ffn and o neurons with a
    mean, both agree to rounding. A model whose activations are infinite or NaN at these neurons is not covered.

    A model given as a folder is not loaded: its files of weights are copied tensor by tensor, so that one tensor at a
    time is in memory, and it may be larger than the memory. A model in memory is saved into a temporary folder first,
    beside `out`.

    The folder has the weights in as many files as before, config.json, the tokenizer, and a model card README.md. It is
    written completely or not at all.

    Args:
        model: a Hugging Face decoder of a supported family, a folder that `save_pretrained` wrote, or a name on the
            Hub. The model is not changed.
        tokenizer: the model's tokenizer; None: the folder's own is copied, if it has one.
        neurons: the set, or {name: set}.
        out: the folder to write, which does not exist yet or is empty. Of {name: set}, each set gets a folder of its
            name in it.
        scale: the factor of the neurons' activations: 0 switches the neurons off, 2 doubles their activations.
        mean: {site: (layers, neurons)}, as in `deactivate`. Only modules that have a bias can hold it.
        dtype: the dtype of the weights; "auto": as the model has them.
        revision: a branch, tag or commit of a model on the Hub; None: the main branch.
        trust_remote_code: whether Python code that comes with a folder may run.
        verify: as in `importance`, for the sites of the sets and for a model in memory.

    Raises:
        CheckpointError: `out` exists and is not empty; or the model's folder is missing, incomplete or damaged.
        UnsupportedModel: as `deactivate`; the weights are quantised, several modules share one, or the folder holds
            them under unknown names; or no bias can hold the mean.
        ValueError: a set is of a model of another shape, a name of a set cannot be that of a folder, the model trains
            some neurons; or `scale`, `mean` or `dtype` as in `deactivate`.
        OSError: the folder cannot be written.

    Warns:
        UserWarning: a set has no neurons.
    """
    sets = _named_sets(neurons)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    require_new_folder(out)
    source = None
    if isinstance(model, nn.Module):
        decoder, base_model = _decoder_in_memory(model), _hub_name(pretrained(model).config._name_or_path)
    else:
        source = CheckpointFolder(fetch_folder(str(model), revision))
        decoder = Decoder(load_without_weights(str(source.folder), trust_remote_code=trust_remote_code))
        base_model = _hub_name(str(model))
    check_sets(decoder, {"the set" if name is None else f"set {name}": one for name, one in sets.items()})
    check_mean(decoder, list(sets.values()), scale, mean)
    if source is None:
        require_verified(decoder, sites_of_sets(sets.values()), verify)
    names = ParameterNames(decoder.model)
    weight = partial(_weight, decoder, names, source)
    changes = {name: changes_of_set(decoder, names, one, scale, mean, weight) for name, one in sets.items()}
    with new_folder(out) as folder, _saved(decoder, source, folder) as saved:
        for name, one in sets.items():
            target = folder if name is None else folder / name
            saved.copy(target, _by_key(decoder, saved, changes[name]), DTYPES[dtype])
            if tokenizer is not None:
                tokenizer.save_pretrained(target)
            card = model_card(one, name, base_model, scale, mean is not None)
            (target / "README.md").write_text(card, "utf-8")


def _named_sets(neurons: NeuronSet | Mapping[str, NeuronSet]) -> dict[str | None, NeuronSet]:
    """Returns {name: set}, with the name None for the only one.

    Raises:
        ValueError: these are no sets, or a name cannot be that of a folder.
    """
    if isinstance(neurons, NeuronSet):
        return {None: neurons}
    if not isinstance(neurons, Mapping) or not neurons:
        raise ValueError("neurons must be a set of neurons, or {name: set} with at least one")
    named: dict[str | None, NeuronSet] = {}
    for name, one in neurons.items():
        if not name or name.startswith(".") or set(name) & set("/\\:") or not name.isprintable():
            raise ValueError(f"{name!r} cannot be the name of a folder: name the sets by codes such as fr")
        named[name] = one
    return named


def _decoder_in_memory(model: nn.Module) -> Decoder:
    """Returns the decoder of a model whose weights can be saved.

    Raises:
        UnsupportedModel: they cannot.
        ValueError: the model trains some neurons.
    """
    decoder = Decoder(uncompiled(unwrap(model)))
    refuse_quantisation_mark(decoder.model)
    refuse_deltas(decoder.model)
    decoder.require_weights()
    if decoder.tensor_parallel.count > 1:
        raise UnsupportedModel("the model is spread over processes (tp_plan): give its folder, or load it whole")
    for name, module in decoder.model.named_modules():
        if is_of_peft(module):
            raise UnsupportedModel(f"{name} is an adapter of PEFT, which a checkpoint holds apart: {MERGE}")
        if name.rpartition(".")[2] == "_orig_mod":
            raise UnsupportedModel(
                f"{name.removesuffix('._orig_mod')} is compiled, and would be saved under other names: give the "
                "model's folder, or the model before torch.compile"
            )
    return decoder


def _hub_name(name: str) -> str | None:
    """Returns the name of a model on the Hub, or None for what can only be a folder."""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None


def _weight(decoder: Decoder, names: ParameterNames, source: CheckpointFolder | None, module: PlainLinear) -> Tensor:
    """Returns the weight of a module as it is stored, from the module or from the folder."""
    if source is None:
        return module.weight.detach()
    (key,) = source.keys_of(
        names.name(module, "weight"), module.weight.shape, pretrained(decoder.model).base_model_prefix
    ).values()
    return source.read(key)


@contextmanager
def _saved(decoder: Decoder, source: CheckpointFolder | None, folder: Path) -> Iterator[CheckpointFolder]:
    """Yields the folder of the model. A model in memory is saved inside `folder`, and removed from there at the end."""
    if source is not None:
        yield source
        return
    with TemporaryDirectory(prefix=".model.", dir=folder) as saved:
        pretrained(decoder.model).save_pretrained(saved)
        yield CheckpointFolder(Path(saved))


def _by_key(
    decoder: Decoder, saved: CheckpointFolder, changes: Mapping[str, list[Change]]
) -> dict[str, Callable[[Tensor], None]]:
    """Returns {key of the folder: a function that changes its tensor in place}."""
    prefix = pretrained(decoder.model).base_model_prefix
    by_key: dict[str, list[Change]] = {}
    for parameter, all_changes in changes.items():
        keys = saved.keys_of(parameter, decoder.model.get_parameter(parameter).shape, prefix)
        for change in all_changes:
            key = keys[None] if None in keys else keys[change.expert]
            by_key.setdefault(key, []).append(change)
    return {key: partial(_apply, key_changes) for key, key_changes in by_key.items()}


def _apply(changes: list[Change], tensor: Tensor) -> None:
    for change in changes:
        change.apply(tensor)
