"""Measures resident memory and throughput of passes over a large corpus with the demo model.

    python -m benchmarks.endurance.streaming FOLDER --out benchmarks/results

FOLDER contains a file LANGUAGE.txt.gz for each language. `pml.activations` or `pml.detect` reads, tokenises, batches
and measures all languages and writes checkpoints. The process's resident memory is recorded once a second and written
to streaming_activations.csv and .png (or streaming_detect.csv and .png). It is in MiB, also in the column that is named
"MB".

Then every language is measured alone and compared with a bare loop over its batches, which are prepared beforehand and
kept in memory. For activations the bare loop runs plain forwards of the Hugging Face model without its head, and for
detect it runs the measured forwards. streaming_throughput.csv has the times of both.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import matplotlib

matplotlib.use("Agg")
import pandas
import torch
from matplotlib import pyplot
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.endurance.survival import corpus_files
from benchmarks.measuring.memory import resident_mib
from pymultiling import demo_model
from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.chunks import ChunkSize, chunks
from pymultiling.data.shards import shards_of
from pymultiling.data.streams import stream
from pymultiling.data.tokenising import Tokenisation
from pymultiling.probes.importance import ImportanceProbe

MAX_LENGTH, BATCH_TOKENS = 512, 4096


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = demo_model.load()
    files = corpus_files(arguments.out, arguments.corpora)
    files = {language: files[language] for language in arguments.languages or files}
    passes = {
        "activations": (pml.activations, {}),
        "detect": (pml.detect, {"sites": tuple(arguments.sites.split(","))}),
    }
    rows = []
    for name in arguments.what:
        function, options = passes[name]
        options = dict(options, max_length=MAX_LENGTH, batch_tokens=BATCH_TOKENS, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            with MemoryRecorder() as memory:
                started = time.monotonic()
                function(model, tokenizer, files, checkpoint=Path(folder) / "all", **options)
                seconds = time.monotonic() - started
            write_memory(memory, name, arguments.out)
            after_a_minute = [mebibytes for second, mebibytes in memory.samples if second >= 60]
            if after_a_minute:
                low, high = min(after_a_minute), max(after_a_minute)
                print(f"{name}: resident memory after the first minute {low:.0f} to {high:.0f} MiB", flush=True)
            for language in arguments.compare or list(files):
                batches = prepare_batches(files[language], tokenizer)
                started = time.monotonic()
                function(model, tokenizer, {language: files[language]}, checkpoint=Path(folder) / language, **options)
                streamed = time.monotonic() - started
                started = time.monotonic()
                run_bare_loop(model, batches, options.get("sites"))
                bare = time.monotonic() - started
                tokens = sum(batch.tokens for batch in batches)
                padded = sum(batch.input_ids.numel() for batch in batches)
                rows.append((name, language, tokens, 1 - tokens / padded, streamed, bare))
                print(f"{name}, {language}: {streamed:.1f} s, bare loop {bare:.1f} s", flush=True)
        print(f"{name}: {len(files)} languages in {seconds:.0f} s", flush=True)
    columns = ["function", "language", "tokens", "padding", "seconds", "bare loop, seconds"]
    table = pandas.DataFrame(rows, columns=columns)
    table.to_csv(arguments.out / "streaming_throughput.csv", index=False, float_format="%.4g")
    for name, part in table.groupby("function"):
        tokens, streamed, bare = part.tokens.sum(), part.seconds.sum(), part["bare loop, seconds"].sum()
        padding = 1 - tokens / (part.tokens / (1 - part.padding)).sum()
        print(
            f"{name}: {tokens:,} tokens, {tokens / streamed:,.0f} per second; "
            f"bare loop: {tokens / bare:,.0f} per second; time ratio {streamed / bare:.3f}; padding {padding:.1%}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, metavar="FOLDER", help="folder with a LANGUAGE.txt.gz for each language")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results files")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=("activations", "detect"),
        default=["activations"],
        help="passes to run (default: activations)",
    )
    parser.add_argument("--sites", default="ffn,v,o", help="sites of detect (%(default)s)")
    parser.add_argument("--languages", nargs="+", help="languages to measure (default: all)")
    parser.add_argument("--compare", nargs="+", help="languages to compare with the bare loop (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch (%(default)s)")
    return parser.parse_args()


class MemoryRecorder:
    """A context manager that records the resident memory of this process once a second.

    Attributes:
        samples: (seconds since the block began, resident MiB) of each second.
    """

    def __enter__(self) -> Self:
        self.samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(1.0):
            self.samples.append((time.monotonic() - started, resident_mib()))


def write_memory(memory: MemoryRecorder, name: str, out: Path) -> None:
    """Writes the recorded memory of the pass `name` to the folder `out`, as a table and as a plot."""
    # The column keeps its name, so that the files of earlier runs can be compared.
    table = pandas.DataFrame(memory.samples, columns=["seconds", "MB"])
    table.to_csv(out / f"streaming_{name}.csv", index=False, float_format="%.1f")
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot([second / 60 for second, _ in memory.samples], [mebibytes for _, mebibytes in memory.samples])
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", title=f"pml.{name} over a large corpus")
    axes.set_ylim(bottom=0)
    figure.savefig(out / f"streaming_{name}.png", dpi=120)


def prepare_batches(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    """Returns the batches that a pass over the corpus file makes."""
    tokenisation = Tokenisation(tokenizer, MAX_LENGTH)
    source = chunks("", shards_of(path), tokenisation.fields, ChunkSize.of(BATCH_TOKENS))
    parts = (documents for _, documents in stream(source, tokenisation, workers=1))
    return [batch for part in parts for batch in make_batches(part, BATCH_TOKENS, window=len(part.lengths))]


@torch.no_grad()
def run_bare_loop(model: PreTrainedModel, batches: list[Batch], sites: tuple[str, ...] | None) -> None:
    """Runs plain forwards of all batches, or forwards that measure the importance of `sites` if it is not None."""
    if sites is None:
        for batch in batches:
            model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        return
    with ImportanceProbe(model, sites) as probe:
        for batch in batches:
            probe.measure(batch.input_ids, batch.attention_mask)


if __name__ == "__main__":
    main()
