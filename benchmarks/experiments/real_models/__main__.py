"""Measures what the project claims on a real model, and writes it as Markdown and as JSON.

    python -m benchmarks.experiments.real_models --model DIR --corpora FOLDER --parallel FILE.tsv.gz --out FOLDER

The model is a dense Llama, Qwen2, Qwen3 or Gemma 3. Each part is a section with tables: prices, exactness, fast, sets,
lens, lape, ternary and mwork. The files are OUT/MODEL.md and OUT/MODEL.json, and are written after each part. A run
that was interrupted goes on with the parts that are missing; for a part to be measured again, delete it from the JSON
file. The texts are those of real_selection: FOLDER has LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz for each language,
and FILE sentences in English and their translations, such as FLORES.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.parts import PARTS
from benchmarks.experiments.real_models.record import read_record, write_record
from benchmarks.experiments.real_models.sample import add_options, sample_of
from benchmarks.measuring.environment import describe


def part_names(text: str) -> list[str]:
    """Returns the names in "A,B"."""
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="real_models", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the texts of each language")
    parser.add_argument("--parallel", type=Path, required=True, help="sentences in all languages (.tsv)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; the files have the model's name")
    parser.add_argument("--parts", type=part_names, default=list(PARTS), help="such as prices,sets (default: all)")
    parser.add_argument("--minutes", type=float, help="begin no part after so many minutes (default: no limit)")
    add_options(parser)
    options = parser.parse_args(arguments)
    sample, model = sample_of(options), options.model.resolve().name
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{model}.json"
    record = read_record(path, model, sample)
    inputs = Inputs(options.model, options.corpora, options.parallel, sample, record["bits"])
    start = time.monotonic()
    for name in PARTS:
        if name not in options.parts or name in record["parts"]:
            continue
        begun = time.monotonic()
        if options.minutes is not None and begun - start > 60 * options.minutes:
            print(f"{options.minutes} minutes are over: {name} and the parts after it are missing")
            break
        environment = describe()  # before the part, since the checkout may change meanwhile
        tables = PARTS[name].measure(inputs)
        seconds = round(time.monotonic() - begun)
        record["parts"][name] = {"environment": environment, "seconds": seconds, "tables": tables}
        record["bits"] = inputs.bits
        write_record(path, record)
        print(f"{name}: {seconds} s", flush=True)


if __name__ == "__main__":
    main()
