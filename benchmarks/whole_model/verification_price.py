"""Measures what the verification of a model costs, in plain forwards of 64 tokens.

    python -m benchmarks.whole_model.verification_price --models DIR DIR --dtypes float32 bfloat16

The plain forward is transformers' forward of the decoder without the language model head. Copies of layers, which run
beyond the lengths at which attention changes, are reported apart, with the plain forward of the longest such length.
Everything is timed alternately on one thread, in CPU time of the process, so that other processes matter little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from pymultiling.models.decoder import Decoder
from pymultiling.probes.verification.thresholds import MARGIN, lengths_beyond
from pymultiling.probes.verification.verify import TOKENS, verify, verify_body, verify_copies
from pymultiling.runtime.alternating import alternate, ratio

PLAIN, ALL, COPIES, PLAIN_LONG = "plain", "verification", "copies", "plain, long"


def make_runs(decoder: Decoder) -> dict[str, Callable[[], object]]:
    """Returns {name: function}: the plain forwards, the verification, and its copies where it needs some."""
    runs: dict[str, Callable[[], object]] = {
        PLAIN: lambda: run_plain(decoder, TOKENS),
        ALL: lambda: verify_body(decoder, verify(decoder).example),
    }
    length, has_long = lengths_beyond(decoder, TOKENS - MARGIN)
    if length is not None or has_long:
        runs[COPIES] = lambda: verify_copies(decoder)
        runs[PLAIN_LONG] = lambda: run_plain(decoder, length or TOKENS)
    return runs


@torch.no_grad()
def run_plain(decoder: Decoder, length: int) -> None:
    """Runs the decoder without its head on one document."""
    tokens = torch.arange(length)[None]
    decoder.forward(tokens, torch.ones_like(tokens))


def measure(model: nn.Module, rounds: int) -> dict[str, object]:
    """Returns the milliseconds of each run (medians), and the ratios."""
    decoder = Decoder(model)
    seconds = alternate(make_runs(decoder), rounds, time.process_time)
    without = [whole - copies for whole, copies in zip(seconds[ALL], seconds.get(COPIES, [0.0] * rounds), strict=True)]
    seconds["without copies"] = without
    row: dict[str, object] = {f"{name}, ms": round(1e3 * statistics.median(times)) for name, times in seconds.items()}
    row["without copies / plain"] = round(ratio(seconds, "without copies", PLAIN), 2)
    if COPIES in seconds:
        row["copies / plain, long"] = round(ratio(seconds, COPIES, PLAIN_LONG), 2)
    return row


def load(folder: Path, dtype: torch.dtype, is_random: bool) -> nn.Module:
    """Loads a model, or makes one with random weights from its configuration."""
    if is_random:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype).eval()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders with models")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="dtypes of the weights")
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is timed")
    parser.add_argument("--random", action="store_true", help="random weights: only config.json is read")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for folder in arguments.models:
        for dtype in arguments.dtypes:
            model = load(folder, getattr(torch, dtype), arguments.random)
            rows[f"{folder.name}, {dtype}"] = measure(model, arguments.rounds)
    print(pandas.DataFrame.from_dict(rows, orient="index").to_string())


if __name__ == "__main__":
    main()
