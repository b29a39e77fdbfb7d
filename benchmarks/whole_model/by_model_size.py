"""Measures time and memory of importance and activation counts for models of several sizes.

    python -m benchmarks.whole_model.by_model_size --models DIR DIR --length 256 --out FILE.json

Each model is measured in its own process, in float32, with one document in a forward. The plain forward is
transformers' forward of the decoder without the language model head. Times are measured alternately. Memory is the peak
above the memory of the loaded model, in MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import pymultiling as pml
from benchmarks.measuring.alternating import alternate, ratio
from benchmarks.measuring.environment import describe
from benchmarks.measuring.memory import added_mib
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe


def make_runs(model: nn.Module, tokens: Tensor) -> dict[str, Callable[[], object]]:
    """Returns {name: function}. Each function runs one forward over the document, plain or with a probe."""

    def forward() -> object:
        with torch.no_grad():
            return model.base_model(input_ids=tokens, use_cache=False)

    def count() -> object:
        mask = torch.ones_like(tokens)
        return ActivationProbe(model).measure(tokens, mask, mask.bool())

    def importance(sites: tuple[str, ...], qk: str = "exact") -> Callable[[], object]:
        def run() -> object:
            with ImportanceProbe(model, sites, qk=qk) as probe:
                return probe.measure(tokens)

        return run

    return {
        "forward": forward,
        "activation counts": count,
        "ffn, v, o": importance(("ffn", "v", "o")),
        "all sites": importance(pml.SITES),
        "all sites, fast q and k": importance(pml.SITES, "fast"),
    }


def peak_of(run: Callable[[], object]) -> float:
    """MiB of a run's peak above what is resident before it, after freed memory was given back to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return added_mib(run)


def measure(folder: Path, length: int, rounds: int) -> dict[str, object]:
    """Returns the row of the table for the model in a folder. `length` is the number of tokens of the document."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (1, length), generator=generator)
    runs = make_runs(model, tokens)
    seconds = alternate(runs, rounds)
    memory = {name: peak_of(run) for name, run in runs.items()}
    return {
        "model": folder.name,
        "parameters, millions": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6),
        "tokens a second, plain forward": round(length / statistics.median(seconds["forward"])),
        **{f"{name}, times forward": round(ratio(seconds, name, "forward"), 2) for name in runs if name != "forward"},
        **{f"{name}, MiB over forward": round(memory[name] - memory["forward"]) for name in runs if name != "forward"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of Hugging Face models")
    parser.add_argument("--length", type=int, default=256, help="tokens in the document (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="number of times that each run is timed (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.models[0], options.length, options.rounds)))
        return
    rows = []
    for folder in options.models:
        command = [sys.executable, "-m", __spec__.name, "--worker", "--models", str(folder)]
        command += ["--length", str(options.length), "--rounds", str(options.rounds)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    print(pandas.DataFrame(rows).T.to_string(header=False))
    if options.out:
        options.out.write_text(json.dumps({"environment": describe(), "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
