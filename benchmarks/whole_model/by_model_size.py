"""Measures time and memory of importance and activation counts for models of several sizes.

    python -m benchmarks.whole_model.by_model_size --models DIR DIR --length 256 --out FILE.json

Each model is measured in its own process, in float32 or bfloat16 (`--dtype`), with one document in a forward. The plain
forward is transformers' forward of the decoder without the language model head. A call of `importance` computes the
norms of the weights each time; "in a pass" are the batches of `detect` after the first, which has computed them. Times
are measured alternately. Memory is the peak above the memory of the loaded model, in MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import pandas
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.measuring.environment import describe
from benchmarks.measuring.memory import added_mib
from benchmarks.whole_model.end_to_end import MEASURED, make_batch_run, random_tokens
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.runtime.alternating import alternate, ratio

IMPORTANCE: dict[str, tuple[str, Literal["exact", "fast"]]] = {  # the mode of end_to_end.py, and that of q and k
    "ffn, v, o": ("ffn + v + o", "exact"),
    "all sites": ("all five sites", "exact"),
    "all sites, fast q and k": ("all five sites", "fast"),
}


def make_runs(model: PreTrainedModel, length: int, probes: ExitStack) -> dict[str, Callable[[], object]]:
    """Returns {name: function}. Each function runs one forward over a document, plain or with a probe.

    Args:
        model: the model.
        length: number of tokens of the document.
        probes: is entered. It keeps the probes of the runs "in a pass".
    """
    runs = {name: make_batch_run(model, name, 1, length) for name in ("forward", "activation counts")}
    for name, (mode, qk) in IMPORTANCE.items():
        probe = probes.enter_context(ImportanceProbe(model, MEASURED[mode], qk=qk))
        runs[name] = make_batch_run(model, mode, 1, length, qk=qk)
        runs[f"{name}, in a pass"] = partial(probe.measure, random_tokens(1, length))
    return runs


def peak_of(run: Callable[[], object]) -> float:
    """MiB of a run's peak above what is resident before it, after freed memory was given back to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return added_mib(run)


def measure(folder: Path, dtype: str, length: int, rounds: int) -> dict[str, object]:
    """Returns the row of the table for the model in a folder.

    Args:
        folder: the model's.
        dtype: name of the dtype in which it is loaded.
        length: number of tokens of the document.
        rounds: how often each run is timed.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with ExitStack() as probes:
        runs = make_runs(model, length, probes)
        seconds = alternate(runs, rounds)
        memory = {name: peak_of(run) for name, run in runs.items()}
    return {
        "model": folder.name,
        "dtype": dtype,
        "parameters, millions": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6),
        "tokens a second, plain forward": round(length / statistics.median(seconds["forward"])),
        **{f"{name}, times forward": round(ratio(seconds, name, "forward"), 2) for name in runs if name != "forward"},
        **{f"{name}, MiB over forward": round(memory[name] - memory["forward"]) for name in runs if name != "forward"},
    }


def measure_in_process(folder: Path, dtype: str, length: int, rounds: int) -> dict[str, object]:
    """Returns what `measure` returns, from a process of its own. Arguments are as in `measure`."""
    command = [sys.executable, "-m", __spec__.name, "--worker", "--models", str(folder)]
    command += ["--dtype", dtype, "--length", str(length), "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of Hugging Face models")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens in the document (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="number of times that each run is timed (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.models[0], options.dtype, options.length, options.rounds)))
        return
    rows = [measure_in_process(folder, options.dtype, options.length, options.rounds) for folder in options.models]
    print(pandas.DataFrame(rows).T.to_string(header=False))
    if options.out:
        options.out.write_text(json.dumps({"environment": describe(), "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
