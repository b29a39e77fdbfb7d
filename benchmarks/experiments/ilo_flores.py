"""ILO (arXiv 2503.11280) of FLORES-200 sentences in every layer: a table by layer and language, times and memory.

    python -m benchmarks.experiments.ilo_flores flores200_devtest.tsv.gz --out benchmarks/results

The paper's 31 languages are the file's first. The embedded model knows eight languages, seven of them among these: its
numbers show that the measure runs, not what large models do. --model takes the folder of another.

The time of a layer's neighbours is compared, in turn, with the time of their matrix products alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.measuring.alternating import alternate, ratio
from benchmarks.measuring.environment import describe, describe_device
from benchmarks.measuring.memory import added_mb
from benchmarks.operators.bench_nearest_neighbors import products
from pymultiling import demo_model
from pymultiling.data.parallel_texts import read_columns
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import ilo
from pymultiling.methods.retrieval import cka, retrieval
from pymultiling.ops import nearest_neighbors
from pymultiling.results import plots

ROUNDS = 7


def main() -> None:
    arguments = _arguments()
    columns = read_columns(arguments.path)
    corpus = {name: columns[name][: arguments.sentences] for name in list(columns)[: arguments.languages]}
    model, tokenizer = _model(arguments.model)
    model, seconds = model.to(arguments.device), {}
    with _timed(seconds, "embeddings"):
        options = {"folder": arguments.folder, "batch_tokens": arguments.batch_tokens, "progress": True}
        points = sentence_embeddings(model, tokenizer, corpus, **options)
    tables = {}
    options = {"k": arguments.k, "tau": arguments.tau, "metric": arguments.metric, "device": arguments.device}

    def measure() -> None:
        with _timed(seconds, "ilo"):
            tables["ilo"] = ilo(points, **options)

    added = added_mb(measure)
    with _timed(seconds, "retrieval"):
        tables["retrieval"] = retrieval(points, metric=arguments.metric, device=arguments.device)
    with _timed(seconds, "cka"):
        tables["cka"] = cka(points, device=arguments.device)
    print(tables["ilo"].pivot(index="language", columns="layer", values="ilo").loc[list(corpus)].round(3).to_string())
    means = tables["ilo"].groupby("layer")[["bridge", "reach", "ilo"]].mean()
    for name, column in (("retrieval", "accuracy"), ("cka", "cka")):
        means[name] = tables[name].groupby("layer")[column].mean()
    print("", means.round(3).T.to_string(), sep="\n")
    found = {
        "machine": describe() | describe_device(torch.device(arguments.device)),
        "languages": len(corpus),
        "sentences": sum(map(len, corpus.values())),
        "layers": len(means),
        "seconds": seconds,
        "MB that ilo takes over the points": round(added, 1),
        "one layer, on the CPU": one_layer(torch.cat([one[:, -1] for one in points.values()]), arguments),
    }
    print("", json.dumps(found, indent=1), sep="\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "ilo_flores.json").write_text(json.dumps(found, indent=1) + "\n")
        for name, table in tables.items():
            table.to_csv(arguments.out / f"{name}_flores.csv", index=False, float_format="%.4f")
        plots.save(plots.ilo(tables["ilo"]), arguments.out / "ilo_flores.png")


def one_layer(points: torch.Tensor, arguments: argparse.Namespace) -> dict[str, object]:
    """Neighbours of the last layer's points, and the matrix products alone."""
    runs = {
        "neighbours": lambda: nearest_neighbors(points, arguments.k, metric=arguments.metric),
        "products alone": lambda: products(points),
    }
    seconds = alternate(runs, ROUNDS)
    return {
        "points": tuple(points.shape),
        **{f"seconds, {name}": round(statistics.median(some), 3) for name, some in seconds.items()},
        "neighbours over products alone": round(ratio(seconds, "neighbours", "products alone"), 3),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def _model(folder: str | None):
    if folder is None:
        return demo_model.load()
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
    parser.add_argument("--out", type=Path, help="folder for the tables, the plot and ilo_flores.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
