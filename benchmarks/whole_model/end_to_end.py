"""Measures time and memory of importance relative to the plain forward of the same model.

    python -m benchmarks.whole_model.end_to_end [--out FILE.json]

Times are measured alternately in one process, peak memory in a separate process for each row. The plain forward is
transformers' sdpa forward of the decoder without the language model head, which importance does not run either. With
the head every ratio would be smaller. Columns with "MB" are in MiB.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import pymultiling as pml
from benchmarks.measuring.environment import describe
from benchmarks.measuring.memory import peak_mib
from benchmarks.operators.attention import attention
from benchmarks.operators.published import published_q
from benchmarks.operators.shapes import SHAPES, Shape
from pymultiling.neurons.sites import SITES
from pymultiling.ops import qk_importance
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.runtime.alternating import alternate, ratio

ROUNDS = 9
VOCABULARY = 1024
MEASURED = {"ffn + v + o": ("ffn", "v", "o"), "all five sites": SITES}
MODES = ("forward", "activation counts", *MEASURED)


def random_llama(shape: Shape) -> LlamaForCausalLM:
    """Returns a model with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def random_tokens(documents: int, length: int) -> Tensor:
    """Returns (documents, length) int64."""
    return torch.randint(0, VOCABULARY, (documents, length), generator=torch.Generator().manual_seed(1))


def make_batch_run(
    model: PreTrainedModel, mode: str, documents: int, length: int, qk: Literal["exact", "fast"] = "exact"
) -> Callable[[], object]:
    """Returns a function that runs a mode once on one batch.

    Args:
        model: the model.
        mode: one of MODES: the plain forward, or a measurement. A measurement computes the norms of the weights anew.
        documents: number of documents of the batch.
        length: tokens of a document.
        qk: how the importance of query and key neurons is computed.
    """
    tokens = random_tokens(documents, length)

    @torch.no_grad()
    def run() -> object:
        if mode == "forward":
            return model.base_model(input_ids=tokens, use_cache=False)
        if mode == "activation counts":
            mask = torch.ones_like(tokens)
            return ActivationProbe(model).measure(tokens, mask, mask.bool())
        with ImportanceProbe(model, MEASURED[mode], qk=qk) as probe:
            return probe.measure(tokens)

    return run


def make_detection_run(model: LlamaForCausalLM, documents: int, length: int) -> Callable[[], object]:
    """Returns a function that runs `detect` on a generated corpus of `documents` documents of `length` tokens."""

    def tokenizer(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[(len(text) + position) % VOCABULARY for position in range(length)] for text in texts]}

    def run() -> object:
        texts = (str(number) for number in range(documents))
        return pml.detect(model, tokenizer, {"any": texts}, batch_tokens=length, max_length=length, progress=False)

    return run


def time_over_forward(shape: Shape) -> list[dict[str, object]]:
    """Returns rows with the times of all modes."""
    model = random_llama(shape)
    seconds = alternate({mode: make_batch_run(model, mode, 1, shape.length) for mode in MODES}, ROUNDS)
    return [
        {
            "l": shape.length,
            "run": mode,
            "median ms": round(1e3 * statistics.median(seconds[mode]), 1),
            "times forward": round(ratio(seconds, mode, "forward"), 3),
        }
        for mode in MODES
    ]


def qk_over_published(shape: Shape) -> dict[str, object]:
    """Returns a row that compares exact q and k of one layer with the published formulation, which only gives q."""
    problem = attention(shape)
    runs = {
        "ours": lambda: qk_importance(**problem._asdict()),
        "published": lambda: published_q(problem.q, problem.k, problem.scale),
    }
    seconds = alternate(runs, 3)
    return {
        "l": shape.length,
        "ours, q and k, ms": round(1e3 * statistics.median(seconds["ours"]), 1),
        "published, q, ms": round(1e3 * statistics.median(seconds["published"]), 1),
        "times faster": round(ratio(seconds, "published", "ours"), 1),
    }


def peak_over_forward(shape: Shape) -> list[dict[str, object]]:
    """Returns rows with the peak memory of all modes."""
    peaks = {mode: in_process(shape, mode, 1, shape.length)["peak MB"] for mode in MODES}
    return [
        {"l": shape.length, "run": mode, "peak MB": round(peak), "MB over forward": round(peak - peaks["forward"], 1)}
        for mode, peak in peaks.items()
    ]


def over_documents(shape: Shape) -> list[dict[str, object]]:
    """Returns rows with time and memory of `detect` with all five sites, for growing corpora."""
    rows: list[dict[str, object]] = []
    for documents in (1, 10, 100):
        measured = in_process(shape, "detect", documents, shape.length)
        rows.append(
            {
                "documents": documents,
                "tokens": documents * shape.length,
                "seconds": round(measured["seconds"], 2),
                "ms a document": round(1e3 * measured["seconds"] / documents),
                "peak MB": round(measured["peak MB"]),
            }
        )
    return rows


def in_process(shape: Shape, mode: str, documents: int, length: int) -> dict[str, float]:
    """Runs `worker` in a separate process and returns its result."""
    command = [sys.executable, "-m", __spec__.name, "--worker", shape.name, mode, str(documents), str(length)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def worker(name: str, mode: str, documents: str, length: str) -> None:
    """Runs a mode in this process after a warm-up, and prints its seconds and the process's peak memory."""
    shape = next(shape for shape in SHAPES if shape.name == name)
    model = random_llama(shape)

    def runner(count: int) -> Callable[[], object]:
        if mode == "detect":
            return make_detection_run(model, count, int(length))
        return make_batch_run(model, mode, count, int(length))

    runner(1)()
    run = runner(int(documents))
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak MB": peak_mib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="results file to write")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    tables = {
        "time over the plain forward, one document": [row for shape in SHAPES for row in time_over_forward(shape)],
        "q and k of one layer against the published formulation": [qk_over_published(shape) for shape in SHAPES],
        "peak memory over the plain forward": [row for shape in SHAPES for row in peak_over_forward(shape)],
        "growth with the corpus": over_documents(SHAPES[0]),
    }
    for title, rows in tables.items():
        print(f"\n{title}\n{pandas.DataFrame(rows).to_string(index=False)}")
    if options.out:
        options.out.write_text(json.dumps({"environment": describe(), **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
