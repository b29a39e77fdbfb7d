"""Measures ILO (arXiv 2503.11280) of FLORES-200 sentences in every layer, and its time and memory.

    python -m benchmarks.experiments.ilo_flores flores200_devtest.tsv.gz --out benchmarks/results

The first 31 languages of the file are those of the paper. The demo model knows eight languages, and seven of them are
among these 31. So its values only show that the method runs, and not what large models do. --model selects another
model.

The time to find a layer's nearest neighbours is compared with the time of the matrix products alone, by running both
alternately.
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.measuring.environment import describe, describe_device
from benchmarks.measuring.memory import added_mib
from benchmarks.operators.bench_nearest_neighbors import multiply_all
from pymultiling import demo_model
from pymultiling.data.parallel_texts import read_columns
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import ilo
from pymultiling.methods.retrieval import cka, retrieval
from pymultiling.ops import nearest_neighbors
from pymultiling.results import plots
from pymultiling.runtime.alternating import alternate, ratio

ROUNDS = 7


def main() -> None:
    arguments = _arguments()
    columns = read_columns(arguments.path)
    corpus = {name: columns[name][: arguments.sentences] for name in list(columns)[: arguments.languages]}
    model, tokenizer = _load_model(arguments.model)
    model = model.to(arguments.device)
    seconds: dict[str, float] = {}
    with _timed(seconds, "embeddings"):
        options = {"folder": arguments.folder, "batch_tokens": arguments.batch_tokens, "progress": True}
        points = sentence_embeddings(model, tokenizer, corpus, **options)
    tables = {}
    options = {"k": arguments.k, "tau": arguments.tau, "metric": arguments.metric, "device": arguments.device}

    def measure() -> None:
        with _timed(seconds, "ilo"):
            tables["ilo"] = ilo(points, **options)

    added = added_mib(measure)
    with _timed(seconds, "retrieval"):
        tables["retrieval"] = retrieval(points, metric=arguments.metric, device=arguments.device)
    with _timed(seconds, "cka"):
        tables["cka"] = cka(points, device=arguments.device)
    print(tables["ilo"].pivot(index="language", columns="layer", values="ilo").loc[list(corpus)].round(3).to_string())
    means = tables["ilo"].groupby("layer")[["bridge", "reach", "ilo"]].mean()
    for name, column in (("retrieval", "accuracy"), ("cka", "cka")):
        means[name] = tables[name].groupby("layer")[column].mean()
    print("", means.round(3).T.to_string(), sep="\n")
    results = {
        "machine": describe() | describe_device(torch.device(arguments.device)),
        "languages": len(corpus),
        "sentences": sum(map(len, corpus.values())),
        "layers": len(means),
        "seconds": seconds,
        "MB that ilo takes over the points": round(added, 1),  # in MiB, as all MB of results files
        "one layer, on the CPU": measure_one_layer(
            torch.cat([embeddings[:, -1] for embeddings in points.values()]), arguments
        ),
    }
    print("", json.dumps(results, indent=1), sep="\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "ilo_flores.json").write_text(json.dumps(results, indent=1) + "\n")
        for name, table in tables.items():
            table.to_csv(arguments.out / f"{name}_flores.csv", index=False, float_format="%.4f")
        plots.save(plots.ilo(tables["ilo"]), arguments.out / "ilo_flores.png")


def measure_one_layer(points: torch.Tensor, arguments: argparse.Namespace) -> dict[str, object]:
    """Compares the time to find the neighbours of a layer's points with the time of the matrix products alone."""
    runs = {
        "neighbours": lambda: nearest_neighbors(points, arguments.k, metric=arguments.metric),
        "products alone": lambda: multiply_all(points),
    }
    seconds = alternate(runs, ROUNDS)
    return {
        "points": tuple(points.shape),
        **{f"seconds, {name}": round(statistics.median(times), 3) for name, times in seconds.items()},
        "neighbours over products alone": round(ratio(seconds, "neighbours", "products alone"), 3),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Stores the duration of the block in seconds[name]."""
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def _load_model(folder: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the model and tokenizer of a folder, or the demo model."""
    if folder is None:
        return demo_model.load()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), AutoTokenizer.from_pretrained(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "path", type=Path, help="a FLORES .tsv.gz: a header with id and languages, then one record per sentence"
    )
    parser.add_argument(
        "--languages",
        type=int,
        default=31,
        help="number of languages, from the first column on (%(default)s: those of the paper)",
    )
    parser.add_argument("--sentences", type=int, help="number of sentences per language (default: all)")
    parser.add_argument("--model", help="model folder (default: the demo model)")
    parser.add_argument("--device", default="cpu", help="device of model, ilo, retrieval and cka (%(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a batch (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder to store the embeddings in, instead of memory")
    parser.add_argument("--k", type=int, default=5, help="number of nearest neighbours (%(default)s)")
    parser.add_argument("--tau", type=int, default=3, help="threshold tau of ILO (%(default)s)")
    parser.add_argument("--metric", default="cosine", help="cosine or euclidean (%(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder for the tables, the plot and ilo_flores.json (default: only print)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
