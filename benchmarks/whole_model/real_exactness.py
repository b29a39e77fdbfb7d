"""Prints the largest relative error of the importance of a real model's neurons, compared with zeroing them in float64.

    python -m benchmarks.whole_model.real_exactness --model DIR --texts FILE [--lengths 30 200 512 700] [--neurons 30]

The model is a dense Llama, Qwen2, Qwen3 or Gemma 3. A document has the first tokens of the texts. Brute force sets
the parameters of a neuron to zero and runs the module of its sublayer again, with the document alone, in float64,
also where transformers computes in float32. The neurons are spread evenly over the site, in the first, the middle and
the last layer. Importance is measured in a batch with a document of twice the length, padded on either side, in
float64 and in float32. An error is relative to the neuron's importance. Neurons below 1e-6 of the largest importance
of their layer and site are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import sdpa_mask

import pymultiling as pml
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.probes.verification.zeroing import zeroed
from tests.support.brute_force import float64_throughout

FLOOR = 1e-6  # of the largest importance of a layer and site


def attend(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention in the dtype of its inputs. The module keeps the probabilities. mask: True where a key is seen."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() if mask is None else mask
    module.probabilities = (q @ k.mT * scaling).masked_fill(~seen, -torch.inf).softmax(-1)
    return (module.probabilities @ v).transpose(1, 2), None


def neuron_parameters(layer: nn.Module, site: str, n: int) -> list[Tensor]:
    """Returns views of the parameters of neuron n."""
    attention, ffn = layer.self_attn, layer.mlp
    if site == "ffn":
        return [ffn.gate_proj.weight[n], ffn.up_proj.weight[n], ffn.down_proj.weight[:, n]]
    if site == "o":
        return [attention.o_proj.weight[:, n]]
    projection = getattr(attention, f"{site}_proj")
    return [projection.weight[n], *([] if projection.bias is None else [projection.bias[n]])]


def record_inputs(model: nn.Module, layers: list[int], tokens: Tensor) -> dict[nn.Module, tuple[Any, Any]]:
    """Returns {module: (args, kwargs)} of the attention and the FFN of the layers in a forward over the document."""
    inputs: dict[nn.Module, tuple[Any, Any]] = {}

    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[module] = args, kwargs

    modules = [getattr(model.model.layers[index], name) for index in layers for name in ("self_attn", "mlp")]
    hooks = [module.register_forward_pre_hook(record, with_kwargs=True) for module in modules]
    model.model(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return inputs


def sublayer(layer: nn.Module, site: str, inputs: dict[nn.Module, tuple[Any, Any]]) -> Callable[[], Tensor]:
    """Returns a function that runs a sublayer again, and returns the tensor whose squared change is the importance."""
    module = layer.mlp if site == "ffn" else layer.self_attn
    args, kwargs = inputs[module]
    if site in ("q", "k"):

        def probabilities() -> Tensor:
            module(*args, **kwargs)
            return module.probabilities

        return probabilities
    # Gemma 3 has norms behind the sublayers, and calls the norm in front of the FFN by another name.
    behind = {"ffn": "post_feedforward_layernorm"}.get(site, "post_attention_layernorm")
    norm = getattr(layer, behind) if hasattr(layer, "post_feedforward_layernorm") else nn.Identity()
    return lambda: norm(module(*args, **kwargs) if site == "ffn" else module(*args, **kwargs)[0])


def brute_force(model: nn.Module, layers: list[int], tokens: Tensor, count: int) -> dict[tuple[str, int], Tensor]:
    """Returns {(site, layer): importance of `count` evenly spaced neurons} of one document (1, tokens)."""
    model.set_attn_implementation("benchmark")
    inputs = record_inputs(model, layers, tokens)
    importance = {}
    for index in layers:
        layer = model.model.layers[index]
        for site in pml.SITES:
            run = sublayer(layer, site, inputs)
            before, changes = run(), []
            for n in evenly_spaced(width(layer, site), count):
                with zeroed(neuron_parameters(layer, site, n)):
                    changes.append((run() - before).square().sum())
            importance[site, index] = torch.stack(changes)
    model.set_attn_implementation("sdpa")
    return importance


def width(layer: nn.Module, site: str) -> int:
    """Returns how many neurons the site has."""
    if site == "ffn":
        return layer.mlp.gate_proj.out_features
    return layer.self_attn.o_proj.in_features if site == "o" else getattr(layer.self_attn, f"{site}_proj").out_features


def evenly_spaced(width: int, count: int) -> list[int]:
    """Returns at most `count` of the numbers below `width`."""
    return torch.linspace(0, width - 1, count).long().unique().tolist()


def in_a_batch(model: nn.Module, tokens: Tensor, other: Tensor, side: str) -> dict[str, Tensor]:
    """Returns {site: (layers, neurons)}, the importance of a document that is measured beside a longer one."""
    length, longer = tokens.shape[1], other.shape[1]
    mask = torch.ones(2, longer, dtype=torch.long)
    batch = torch.cat((torch.zeros_like(other), other))
    own = slice(0, length) if side == "right" else slice(longer - length, longer)
    mask[0] = 0
    mask[0, own], batch[0, own] = 1, tokens[0]
    return {site: values[0] for site, values in pml.importance(model, batch, mask).items()}


def load_in_both_dtypes(folder: Path) -> dict[torch.dtype, nn.Module]:
    """Returns {dtype: the model in a folder}, in float64 and in float32, ready for `brute_force`."""
    AttentionInterface.register("benchmark", attend)
    AttentionMaskInterface.register("benchmark", sdpa_mask)
    return {
        dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float64, torch.float32)
    }


@torch.no_grad()
def largest_errors(
    models: dict[torch.dtype, nn.Module], ids: Tensor, length: int, neurons: int
) -> list[dict[str, object]]:
    """Returns a row for each dtype and side of the padding, with the largest relative error at each site.

    Column "compared" has the number of neurons of all layers and sites that are not left out.

    Args:
        models: as `load_in_both_dtypes` returns them.
        ids: (1, tokens) int64, at least twice `length` of them, unless the longer document is to be shorter.
        length: tokens of the document.
        neurons: neurons of a site and layer.
    """
    count = models[torch.float64].config.num_hidden_layers
    tokens, other = ids[:, :length], ids[:, : 2 * length]
    with float64_throughout(models[torch.float64]):
        exact = brute_force(models[torch.float64], [0, count // 2, count - 1], tokens, neurons)
    rows = []
    for dtype, model in models.items():
        for side in ("right", "left"):
            with float64_throughout(model) if dtype == torch.float64 else nullcontext():
                measured = in_a_batch(model, tokens, other, side)
            errors: dict[str, float] = dict.fromkeys(pml.SITES, 0.0)
            compared = 0
            for (site, index), truth in exact.items():
                values = measured[site][index].double()
                counted = truth >= FLOOR * values.max()
                error = (values[evenly_spaced(len(values), neurons)] - truth).abs() / truth
                errors[site] = max([errors[site], *error[counted].tolist()])
                compared += int(counted.sum())
            name = str(dtype).removeprefix("torch.")
            rows.append({"tokens": length, "dtype": name, "padding": side, "compared": compared, **errors})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--texts", type=Path, required=True, help="a text file (may be .gz)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[30, 200, 512, 700], help="tokens of a document")
    parser.add_argument("--neurons", type=int, default=30, help="neurons of a site and layer (%(default)s)")
    options = parser.parse_args()
    models = load_in_both_dtypes(options.model)
    text = "\n".join(read_texts(options.texts, CorpusReport()))[: 20 * max(options.lengths)]
    ids = AutoTokenizer.from_pretrained(options.model)(text, return_tensors="pt")["input_ids"]
    for length in options.lengths:
        rows = largest_errors(models, ids, length, options.neurons)
        print(pandas.DataFrame(rows).to_string(index=False, float_format="{:.1e}".format), flush=True)


if __name__ == "__main__":
    main()
