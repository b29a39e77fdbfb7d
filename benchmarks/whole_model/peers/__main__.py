"""Times pymultiling and other ways to get the same numbers from a model, in turn.

    python -m benchmarks.whole_model.peers --model FOLDER_OF_A_MODEL [--length 256] [--out FILE.json]

The model's modules must have Llama's names (SmolLM2, Llama, Qwen2). Rows of pymultiling are those of by_model_size.py.
Beside them are

* plain PyTorch: hooks cache tensors, and the operators' references, compiled by torch.compile, compute from them,
* TransformerLens and nnsight, where they are installed: they cache the same tensors, and the same references (not
  compiled) compute from them. Neither package has importance itself, so only the caching is theirs,
* the published formulation of query importance (arXiv 2402.18815, eq. 9-11, our implementation), with the attention of
  "sdpa" beside it. On tensors that TransformerLens or nnsight cache it would take as long, so they have no such row.

"one neuron off" is a forward without one FFN neuron. Who computes importance by such forwards needs one for every
neuron. Forwards are without the head, except those of TransformerLens, which cannot stop before it: compare its rows
with its own "forward". It also chooses "eager" attention; the others run "sdpa".

The column "differs" compares the numbers with pymultiling's: how many counts differ, or the largest difference, divided
by the largest number of the same site. Kernels round differently, so a gate next to 0 may change its sign, and with it
a count (none with --dtype float64). What depends on the weights alone is computed before the measurement, except in the
rows of pymultiling that are not "in a pass".
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import pymultiling as pml
from benchmarks.measuring.environment import describe
from benchmarks.whole_model.by_model_size import make_runs
from benchmarks.whole_model.end_to_end import random_tokens
from benchmarks.whole_model.peers.formulas import GATE, HIDDEN, MIXED, Formulas
from benchmarks.whole_model.peers.lens import Lens
from benchmarks.whole_model.peers.peer import Peer
from benchmarks.whole_model.peers.plain import Hooked, published_queries
from benchmarks.whole_model.peers.traced import Traced
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.runtime.alternating import alternate, ratio

OURS, PLAIN, PUBLISHED = "pymultiling", "plain PyTorch, torch.compile", "published formulation"
FORWARD, COUNTS, FFN_V_O, ONE_OFF, QUERIES = "forward", "activation counts", "ffn, v, o", "one neuron off", "q"
NEURON = (1, 3)  # layer and index of the neuron that is off
Numbers = dict[str, Tensor]  # what a run computes, by name
Run = Callable[[], Numbers]


def our_numbers(model: PreTrainedModel, tokens: Tensor) -> dict[str, Numbers]:
    """Returns {computed: numbers} by pymultiling, with which the others are compared."""
    mask = torch.ones_like(tokens)
    with ImportanceProbe(model, ("ffn", "v", "o")) as probe:
        importance = probe.measure(tokens)
    with ImportanceProbe(model, ("q",), rope="post") as probe:
        queries = probe.measure(tokens)["q"]
    return {
        COUNTS: {"counts": ActivationProbe(model).measure(tokens, mask, mask.bool())},
        FFN_V_O: {site: values[0] for site, values in importance.items()},
        QUERIES: {"q": queries[0]},
        ONE_OFF: one_off(model, tokens),
    }


def one_off(model: PreTrainedModel, tokens: Tensor) -> Numbers:
    """Returns the last hidden states without NEURON, by pymultiling."""
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    neurons = torch.zeros(layers, width, dtype=torch.bool)
    neurons[NEURON] = True
    with pml.deactivate(model, pml.NeuronSet({"ffn": neurons})):
        return {"states": model.base_model(input_ids=tokens, use_cache=False).last_hidden_state}


def runs_of(peer: Peer, formulas: Formulas) -> dict[str, Run]:
    """Returns {computed: function} of a peer."""

    def forward() -> Numbers:
        peer.forward()
        return {}

    return {
        FORWARD: forward,
        COUNTS: lambda: {"counts": formulas.counts(peer.cache((GATE,)))},
        FFN_V_O: lambda: formulas.importance(peer.cache((HIDDEN, MIXED))),
        ONE_OFF: lambda: {"states": peer.without(*NEURON)},
    }


def open_others(model: PreTrainedModel, folder: Path, tokens: Tensor) -> Iterator[tuple[str, str, Run | str]]:
    """Yields (by, computed, function) of every other way. Instead of the function: why it cannot run.

    Each has a copy of the model, because some change its modules.
    """
    formulas = Formulas(model)
    makers: dict[str, tuple[Callable[[PreTrainedModel], Peer], Formulas]] = {
        PLAIN: (lambda own: Hooked(own, tokens), Formulas(model, partial(torch.compile, dynamic=False))),
        "transformer_lens": (lambda own: Lens(own, folder, tokens), formulas),
        "nnsight": (lambda own: Traced(own, tokens), formulas),
    }
    for name, (make, computing) in makers.items():
        try:
            peer = make(copy.deepcopy(model))
        except ImportError as error:
            yield name, FORWARD, f"not installed ({error})"
        else:
            by = name if name == PLAIN else f"{name} {version(name)}"
            for computed, run in runs_of(peer, computing).items():
                yield by, computed, run
    published = published_queries(copy.deepcopy(model), tokens)
    yield PUBLISHED, QUERIES, lambda: {"q": published()}


def difference(numbers: Numbers, expected: Numbers) -> str:
    """Returns how the numbers differ: of integers how many, of others the largest difference over the largest value."""
    pairs = [(numbers[name], expected[name]) for name in numbers]
    if not pairs[0][0].is_floating_point():
        return f"{sum(int((a != b).sum()) for a, b in pairs)} of {sum(a.numel() for a, _ in pairs)}"
    return f"{max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs):.1e}"


@torch.no_grad()
def measure(folder: Path, dtype: str, length: int, rounds: int) -> list[dict[str, object]]:
    """Returns the rows of the table. The first is the plain forward.

    Args:
        folder: the model's.
        dtype: name of the dtype in which it is loaded.
        length: number of tokens of the document.
        rounds: how often each run is timed.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokens = random_tokens(1, length)
    expected = our_numbers(model, tokens)
    rows: dict[str, dict[str, object]] = {}
    with ExitStack() as probes:
        runs: dict[str, Callable[[], object]] = make_runs(model, length, probes)
        runs[ONE_OFF] = lambda: one_off(model, tokens)
        rows |= {name: {"by": "transformers" if name == FORWARD else OURS, "computed": name} for name in runs}
        for by, computed, run in open_others(model, folder, tokens):
            name = f"{by}: {computed}"
            rows[name] = {"by": by, "computed": computed}
            if isinstance(run, str):
                rows[name]["differs"] = run
                continue
            if computed in expected:
                rows[name]["differs"] = difference(run(), expected[computed])
            runs[name] = run
        seconds = alternate(runs, rounds)
    for name in runs:
        rows[name] |= {
            "median ms": round(1e3 * statistics.median(seconds[name]), 2),
            "times forward": round(ratio(seconds, name, FORWARD), 2),
        }
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a Hugging Face model")
    dtypes = ("float32", "bfloat16", "float64")
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="(default: %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens in the document (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="number of times that each run is timed (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows = measure(options.model, options.dtype, options.length, options.rounds)
    print(pandas.DataFrame(rows).fillna("").to_string(index=False))
    if options.out:
        what = {"model": options.model.name, "dtype": options.dtype, "tokens": options.length, "rounds": options.rounds}
        options.out.write_text(json.dumps({"environment": describe(), **what, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
