"""Runs of `pymultiling detect` that are killed at random moments and started again, against one that is not.

    python -m benchmarks.endurance.survival                                        the texts in the package
    python -m benchmarks.endurance.survival --corpora FOLDER --kills 30            every LANGUAGE.txt.gz there

A random model with one layer reads them, so that the texts, and not the model, decide how long it takes. Each trial is killed once
with SIGKILL, at a moment drawn evenly from the undisturbed run's time, and started again with the same command. Prints a line a
trial, and exits with 1 unless all end with the same minimum, votes and counts bit for bit, and sums to 1e-12.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import pymultiling as pml
from pymultiling import demo_model

SUMS = 1e-12  # largest relative difference


def main() -> int:
    arguments = parse()
    folder = Path(arguments.work or tempfile.mkdtemp(prefix="survival-"))
    command = detect_command(folder, arguments)
    started = time.monotonic()
    run(command, folder / "undisturbed").wait()
    seconds = time.monotonic() - started
    truth = statistics(folder / "undisturbed")
    texts = sum(one.documents for one in truth.values())
    print(f"undisturbed: {seconds:.1f} s, {len(truth)} corpora, {texts:,} documents", flush=True)
    drawn, same = random.Random(arguments.seed), 0
    for trial in range(arguments.kills):
        moment = drawn.uniform(0, seconds)
        out = folder / f"trial-{trial}"
        first = run(command, out)
        try:
            first.wait(moment)
            how = "ended before"
        except subprocess.TimeoutExpired:
            first.send_signal(signal.SIGKILL)
            first.wait()
            how = "killed"
        started = time.monotonic()
        status = run(command, out).wait()
        again = time.monotonic() - started
        worst = difference(statistics(out), truth) if status == 0 else float("inf")
        same += worst <= SUMS
        print(f"{trial + 1}: {how} at {moment:.1f} s, again {again:.1f} s, sums differ by {worst:.1e}", flush=True)
    print(f"{same} of {arguments.kills} ended with the same result")
    return same != arguments.kills


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="a folder with LANGUAGE.txt.gz")
    parser.add_argument("--languages", nargs="+", help="some of them")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="between two states")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a folder for what is written")
    return parser.parse_args()


def detect_command(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """All of it but where it writes."""
    model = folder / "model"
    _, tokenizer = demo_model.load()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    command = [sys.executable, "-m", "pymultiling", "detect", "--model", str(model), "--batch-tokens", "8192"]
    command += ["--sites", "ffn,v,o", "--max-length", "64", "--checkpoint-seconds", str(arguments.seconds)]
    files = files_of(folder, arguments.corpora)
    for language in arguments.languages or files:
        command += ["--corpus", f"{language}={files[language]}"]
    return command


def files_of(folder: Path, corpora: Path | None) -> dict[str, Path]:
    """{language: its file}; the embedded texts are written to the folder."""
    if corpora is not None:
        paths = sorted(corpora.glob("*.txt.gz"))
        return {path.name.partition(".")[0]: path for path in paths if path.name.count(".") == 2}
    files = {language: folder / f"{language}.txt" for language in demo_model.corpora()}
    for language, texts in demo_model.corpora().items():
        files[language].write_text("\n".join(text.replace("\n", " ") for text in texts), "utf-8")
    return files


def run(command: list[str], out: Path) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    with open(out / "log.txt", "a") as log:
        command = [*command, "--checkpoint", str(out / "state"), "--out", str(out / "results")]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def statistics(out: Path) -> dict[str, pml.NeuronStatistics]:
    return {path.stem: pml.NeuronStatistics.load(path) for path in sorted((out / "results" / "statistics").iterdir())}


def difference(found: dict[str, pml.NeuronStatistics], truth: dict[str, pml.NeuronStatistics]) -> float:
    """Largest relative difference of a sum; infinite where anything else differs."""
    worst = 0.0
    for language, one in truth.items():
        other = found[language]
        same = (other.documents, other.tokens) == (one.documents, one.tokens)
        for site in one.sum:
            same &= torch.equal(other.minimum[site], one.minimum[site]) and torch.equal(
                other.votes[site], one.votes[site]
            )
            change = (other.sum[site] - one.sum[site]).abs() / one.sum[site].abs().clamp(min=1e-300)
            worst = max(worst, change.max().item())
        worst = worst if same else float("inf")
    return worst


if __name__ == "__main__":
    sys.exit(main())
