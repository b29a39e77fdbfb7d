"""ILO (arXiv 2503.11280) of FLORES-200 sentences in every layer: a table by layer and language, and the times.

    python benchmarks/ilo_flores.py flores200_devtest.tsv.gz --out benchmarks/results

The paper's 31 languages are the file's first. The embedded model knows eight languages, seven of them among these: its
numbers show that the measure runs, not what large models do. --model takes the folder of another.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import torch

from pymultiling import embedded, plots
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import ilo
from pymultiling.plots.spaces import ilo as plot_ilo


def parallel(path: Path, languages: int, sentences: int | None) -> dict[str, list[str | None]]:
    """{language: sentences} of the first columns behind the id, and the first rows; "" is a missing sentence."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        names, *rows = (line.rstrip("\n").split("\t") for line in file)  # no quoting: quotation marks are text
    found = {name: [row[place] or None for row in rows[:sentences]] for place, name in enumerate(names)}
    return {name: found[name] for name in names[1 : languages + 1]}


def main() -> None:
    arguments = _arguments()
    corpus = parallel(arguments.path, arguments.languages, arguments.sentences)
    model, tokenizer = _model(arguments.model)
    model = model.to(arguments.device)
    started = time.perf_counter()
    options = {"folder": arguments.folder, "batch_tokens": arguments.batch_tokens, "progress": True}
    points = sentence_embeddings(model, tokenizer, corpus, **options)
    embedded_in = time.perf_counter() - started
    started = time.perf_counter()
    options = {"k": arguments.k, "tau": arguments.tau, "metric": arguments.metric}
    table = ilo(points, device=arguments.device, **options)
    measured_in = time.perf_counter() - started
    print(table.pivot(index="language", columns="layer", values="ilo").loc[list(corpus)].round(3).to_string())
    print("mean".ljust(8), table.groupby("layer")[["bridge", "reach", "ilo"]].mean().round(3).T.to_string(), sep="\n")
    count, layers = sum(map(len, corpus.values())), table["layer"].nunique()
    print(f"{len(corpus)} languages, {count:,} sentences, {layers} layers: embeddings {embedded_in:.1f} s, ILO "
          f"{measured_in:.1f} s ({measured_in / layers:.2f} s a layer), {torch.get_num_threads()} threads")  # fmt: skip
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(arguments.out / "ilo_flores.csv", index=False, float_format="%.6f")
        plots.save(plot_ilo(table), arguments.out / "ilo_flores.png")


def _model(folder: str | None):
    if folder is None:
        return embedded.load()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), AutoTokenizer.from_pretrained(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a FLORES .tsv.gz: a header row with id and languages, then sentences")
    parser.add_argument("--languages", type=int, default=31, help="the first columns; 31: the paper's")
    parser.add_argument("--sentences", type=int, help="the first rows of each; all if not given")
    parser.add_argument("--model", help="folder of a model; the embedded one if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="keeps the embeddings as files there, not in memory")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--tau", type=int, default=3)
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--out", type=Path, help="folder for ilo_flores.csv and ilo_flores.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
