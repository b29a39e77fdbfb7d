"""Measures how long the GPU is idle during `pymultiling.detect`, for a few batches of the demo model's texts."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

import pymultiling as pml
from benchmarks.gpu.device_timing import device_events
from benchmarks.gpu.model_runs import random_llama
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import Workload
from pymultiling import demo_model

BATCHES = 2
CHARACTERS_PER_TOKEN = 2.9  # of English texts, for the demo model's tokenizer
LONGEST_GAPS = 5


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for the second of two calls. The first one imports, allocates and loads kernels."""
    model = random_llama(workload.shape, workload.vocabulary, device)
    _, tokenizer = demo_model.load()
    length, tokens = workload.shape.length, workload.documents * workload.shape.length
    texts = list(_first_lines(demo_model.corpora()["en"], BATCHES * tokens * CHARACTERS_PER_TOKEN))

    def detect() -> None:
        pml.detect(model, tokenizer, {"en": texts}, max_length=length, batch_tokens=tokens, pack=length, progress=False)

    def measure_detection() -> dict[str, object]:
        detect()
        if device.type != "cuda":
            raise SkipRow("a GPU's idle time is what is measured")
        return idle_time(device_events(detect, device))

    row = {"call": f"detect, about {BATCHES} batches of {workload.documents} x {length}"}
    rows.add("detection", row, measure_detection)


def _first_lines(lines: Iterable[str], characters: float) -> Iterator[str]:
    """Yields the first lines, until they have a number of characters."""
    for line in lines:
        if characters <= 0:
            return
        characters -= len(line)
        yield line


def idle_time(events: list[dict[str, Any]]) -> dict[str, object]:
    """Returns how long the GPU was busy and idle between the start of the first event and the end of the last.

    Args:
        events: "ts" and "dur" of each event, its start and duration in microseconds. Events may overlap.
    """
    busy, gaps = 0.0, []
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    first, end = spans[0][0], spans[0][0]
    for start, stop in spans:
        if start > end:
            gaps.append(start - end)
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return {
        "span ms": round((end - first) / 1e3, 2),
        "busy ms": round(busy / 1e3, 2),
        "idle share": round(1 - busy / (end - first), 4),
        "longest gaps ms": [round(gap / 1e3, 2) for gap in sorted(gaps, reverse=True)[:LONGEST_GAPS]],
        "events": len(events),
    }
