"""A large corpus through the embedded model: resident memory over time, and throughput against a bare loop.

    python -m benchmarks.endurance.streaming FOLDER --out benchmarks/results        every LANGUAGE.txt.gz in the folder

`pml.activations` and `pml.detect` read, tokenise, batch, measure and write checkpoints, one language after the other. After each
language a bare loop runs over its batches, which were prepared before and lie in memory: for activations plain forwards of
the Hugging Face model (without the head), for detect the forwards that are measured. Writes streaming_throughput.csv, and for
each streaming_activations.csv and .png, or streaming_detect: the process's resident memory, once a second, during the pass over
all languages.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import pandas
import torch
from matplotlib import pyplot

import pymultiling as pml
from benchmarks.endurance.survival import files_of
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
    files = files_of(arguments.out, arguments.corpora)
    files = {language: files[language] for language in arguments.languages or files}
    measures = {
        "activations": (pml.activations, {}),
        "detect": (pml.detect, {"sites": tuple(arguments.sites.split(","))}),
    }
    rows = []
    for name in arguments.what:
        function, options = measures[name]
        options = dict(options, max_length=MAX_LENGTH, batch_tokens=BATCH_TOKENS, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            with Memory() as memory:
                started = time.monotonic()
                function(model, tokenizer, files, checkpoint=Path(folder) / "all", **options)
                seconds = time.monotonic() - started
            save(memory, name, arguments.out)
            late = [megabytes for second, megabytes in memory.seen if second >= 60]
            if late:
                print(f"{name}: resident after the first minute {min(late):.0f} to {max(late):.0f} MB", flush=True)
            for language in arguments.compare or list(files):
                prepared = prepare(files[language], tokenizer)
                started = time.monotonic()
                function(model, tokenizer, {language: files[language]}, checkpoint=Path(folder) / language, **options)
                streamed = time.monotonic() - started
                started = time.monotonic()
                bare(model, prepared, options.get("sites"))
                alone = time.monotonic() - started
                tokens = sum(batch.tokens for batch in prepared)
                padded = sum(batch.input_ids.numel() for batch in prepared)
                rows.append((name, language, tokens, 1 - tokens / padded, streamed, alone))
                print(f"{name}, {language}: {streamed:.1f} s, the bare loop {alone:.1f} s", flush=True)
        print(f"{name}: {len(files)} languages in {seconds:.0f} s", flush=True)
    columns = ["function", "language", "tokens", "padding", "seconds", "bare loop, seconds"]
    table = pandas.DataFrame(rows, columns=columns)
    table.to_csv(arguments.out / "streaming_throughput.csv", index=False, float_format="%.4g")
    for name, part in table.groupby("function"):
        tokens, streamed, alone = part.tokens.sum(), part.seconds.sum(), part["bare loop, seconds"].sum()
        padding = 1 - tokens / (part.tokens / (1 - part.padding)).sum()
        print(
            f"{name}: {tokens:,} tokens, {tokens / streamed:,.0f} a second; the bare loop {tokens / alone:,.0f} a second: "
            f"{streamed / alone:.3f} times its time; padding {padding:.1%}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--what", nargs="+", choices=("activations", "detect"), default=["activations"])
    parser.add_argument("--sites", default="ffn,v,o", help="of detect")
    parser.add_argument("--languages", nargs="+", help="some of them")
    parser.add_argument("--compare", nargs="+", help="the bare loop on some of them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


class Memory:
    """Resident memory of this process, once a second: (seconds, MB)."""

    def __enter__(self) -> Memory:
        self.seen, self._end = [], threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._end.wait(1.0):
            resident = int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
            self.seen.append((time.monotonic() - started, resident))


def save(memory: Memory, name: str, out: Path) -> None:
    table = pandas.DataFrame(memory.seen, columns=["seconds", "MB"])
    table.to_csv(out / f"streaming_{name}.csv", index=False, float_format="%.1f")
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot([second / 60 for second, _ in memory.seen], [megabytes for _, megabytes in memory.seen])
    axes.set(xlabel="minutes", ylabel="resident memory, MB", title=f"pml.{name} over a large corpus")
    axes.set_ylim(bottom=0)
    figure.savefig(out / f"streaming_{name}.png", dpi=120)


def prepare(path: Path, tokenizer) -> list[Batch]:
    """The batches that a pass over the file makes."""
    tokenisation = Tokenisation(tokenizer, MAX_LENGTH)
    source = chunks("", shards_of(path), tokenisation.fields, ChunkSize.of(BATCH_TOKENS))
    parts = (documents for _, documents in stream(source, tokenisation, workers=1))
    return [batch for part in parts for batch in make_batches(part, BATCH_TOKENS, window=len(part.lengths))]


@torch.no_grad()
def bare(model, prepared: list[Batch], sites: tuple[str, ...] | None) -> None:
    """Plain forwards, or where there are sites those that are measured."""
    if sites is None:
        for batch in prepared:
            model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        return
    with ImportanceProbe(model, sites) as probe:
        for batch in prepared:
            probe.measure(batch.input_ids, batch.attention_mask)


if __name__ == "__main__":
    main()
