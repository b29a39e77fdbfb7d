"""What training takes of memory, by the number of neurons that train, on a random Llama, as a table.

    python -m benchmarks.whole_model.tuning_memory [--out FILE.json]

Two steps of AdamW on one document of 256 tokens, in a process for each row; float32.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas
import torch

import pymultiling as pml
from benchmarks.measuring.environment import describe
from benchmarks.measuring.memory import added_mb
from benchmarks.operators.shapes import SHAPES
from benchmarks.whole_model.end_to_end import VOCABULARY, random_llama
from pymultiling.models.decoder import Decoder

COUNTS = (1, 4, 16, 64, 256)  # neurons of every layer and site
ALL = "all parameters"


def random_neurons(model, count: int) -> pml.NeuronSet:
    """The first ones of every layer and site."""
    decoder = Decoder(model)
    widths = decoder.widths().items()
    return pml.NeuronSet({site: (torch.arange(width) < count).repeat(len(decoder.layers), 1) for site, width in widths})


def worker(what: str) -> dict[str, float]:
    model = random_llama(SHAPES[0]).requires_grad_(True)
    neurons = 0
    if what != ALL:
        chosen = random_neurons(model, int(what))
        pml.train_only(model, chosen)
        neurons = len(chosen)
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    ids = torch.randint(VOCABULARY, (1, 256), generator=torch.Generator().manual_seed(0))

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

    peak = added_mb(steps)
    state = (value for moments in optimizer.state.values() for value in moments.values())
    count = sum(one.numel() for one in parameters)
    return {
        "neurons": neurons,
        "parameters": count,
        "optimizer MiB": sum(value.nbytes for value in state) / 2**20,
        "gradients MiB": sum(one.grad.nbytes for one in parameters) / 2**20,
        "peak over the model MiB": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker)))
        return
    rows = []
    for what in (*map(str, COUNTS), ALL):
        command = [sys.executable, "-m", __spec__.name, "--worker", what]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"trained": what, **json.loads(done.stdout)})
    print(pandas.DataFrame(rows).round(2).to_string(index=False))
    if options.out:
        options.out.write_text(json.dumps({"environment": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
