"""Measures the memory of training, depending on the number of neurons that are trained.

    python -m benchmarks.whole_model.tuning_memory [--out FILE.json]

Each row is measured in its own process: two steps of AdamW in float32, on one document of 256 tokens, with a random
Llama. "peak over the model" is the peak memory above the memory of the loaded model.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas
import torch
from torch import nn

import pymultiling as pml
from benchmarks.measuring.environment import describe
from benchmarks.measuring.memory import added_mib
from benchmarks.operators.shapes import SHAPES
from benchmarks.whole_model.end_to_end import VOCABULARY, random_llama
from pymultiling.models.decoder import Decoder

COUNTS = (1, 4, 16, 64, 256)  # neurons per layer and site
ALL = "all parameters"


def first_neurons(model: nn.Module, count: int) -> pml.NeuronSet:
    """Returns the first `count` neurons of every layer and site."""
    decoder = Decoder(model)
    widths = decoder.widths().items()
    return pml.NeuronSet({site: (torch.arange(width) < count).repeat(len(decoder.layers), 1) for site, width in widths})


def measure(trained: str) -> dict[str, float]:
    """Trains a random model and returns the columns of a row.

    Args:
        trained: number of neurons per layer and site that are trained, as text, or ALL.

    Returns:
        The columns. "neurons" is the number of trained neurons of all layers and sites, and 0 for ALL.
    """
    model = random_llama(SHAPES[0]).requires_grad_(True)
    neurons = 0
    if trained != ALL:
        selected = first_neurons(model, int(trained))
        pml.train_only(model, selected)
        neurons = len(selected)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    ids = torch.randint(VOCABULARY, (1, 256), generator=torch.Generator().manual_seed(0))

    def train() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

    peak = added_mib(train)
    state = (value for moments in optimizer.state.values() for value in moments.values())
    count = sum(parameter.numel() for parameter in parameters)
    return {
        "neurons": neurons,
        "parameters": count,
        "optimizer MiB": sum(value.nbytes for value in state) / 2**20,
        "gradients MiB": sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None) / 2**20,
        "peak over the model MiB": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker)))
        return
    rows = []
    for trained in (*map(str, COUNTS), ALL):
        command = [sys.executable, "-m", __spec__.name, "--worker", trained]
        completed = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"trained": trained, **json.loads(completed.stdout)})
    print(pandas.DataFrame(rows).round(2).to_string(index=False))
    if options.out:
        options.out.write_text(json.dumps({"environment": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
