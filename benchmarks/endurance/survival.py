"""Kills and restarts runs of `pymultiling detect`, and compares their results with those of an undisturbed run.

    python -m benchmarks.endurance.survival                                 with the texts in the package
    python -m benchmarks.endurance.survival --corpora FOLDER --kills 30     with every LANGUAGE.txt.gz in FOLDER

The model is random and has one layer, so that reading the texts takes most of the time. Each trial is killed once with
SIGKILL, at a moment drawn uniformly from the duration of the undisturbed run, and started again with the same command.
Prints a line for each trial. The exit status is 0 if every trial has the same minimum, votes and counts bit for bit,
and the same sums up to 1e-12, and 1 otherwise.
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

SUM_TOLERANCE = 1e-12  # largest relative difference of sums


def main() -> int:
    arguments = parse()
    folder = Path(arguments.work or tempfile.mkdtemp(prefix="survival-"))
    command = detect_command(folder, arguments)
    started = time.monotonic()
    run(command, folder / "undisturbed").wait()
    seconds = time.monotonic() - started
    expected = load_statistics(folder / "undisturbed")
    documents = sum(statistics.documents for statistics in expected.values())
    print(f"undisturbed: {seconds:.1f} s, {len(expected)} corpora, {documents:,} documents", flush=True)
    generator, same = random.Random(arguments.seed), 0
    for trial in range(arguments.kills):
        moment = generator.uniform(0, seconds)
        out = folder / f"trial-{trial}"
        process = run(command, out)
        try:
            process.wait(moment)
            event = "ended before the kill"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            event = "killed"
        started = time.monotonic()
        status = run(command, out).wait()
        restarted = time.monotonic() - started
        worst = difference(load_statistics(out), expected) if status == 0 else None
        same += worst is not None and worst <= SUM_TOLERANCE
        outcome = describe_difference(worst) if status == 0 else f"it failed with exit status {status}"
        print(f"{trial + 1}: {event} at {moment:.1f} s, restarted run {restarted:.1f} s, {outcome}", flush=True)
    print(f"{same} of {arguments.kills} ended with the same result")
    return int(same != arguments.kills)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora",
        type=Path,
        help="folder with a LANGUAGE.txt.gz for each language (default: the texts in the package)",
    )
    parser.add_argument("--languages", nargs="+", help="languages to use (default: all)")
    parser.add_argument("--kills", type=int, default=5, help="number of trials (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds between two checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    parser.add_argument("--work", type=Path, help="folder for the results and logs (default: a temporary folder)")
    return parser.parse_args()


def detect_command(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Writes a random model and, without --corpora, the package's texts to `folder`.

    Returns:
        The words of the command. `run` adds the options with the output folders.
    """
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
    files = corpus_files(folder, arguments.corpora)
    for language in arguments.languages or files:
        command += ["--corpus", f"{language}={files[language]}"]
    return command


def corpus_files(folder: Path, corpora: Path | None) -> dict[str, Path]:
    """Returns {language: file} for the corpora.

    Args:
        folder: where the texts of the package are written if `corpora` is None.
        corpora: folder with a LANGUAGE.txt.gz for each language, or None for the texts of the package.
    """
    if corpora is not None:
        paths = sorted(corpora.glob("*.txt.gz"))
        # LANGUAGE.heldout.txt.gz has three dots. Held-out texts are left out.
        return {path.name.partition(".")[0]: path for path in paths if path.name.count(".") == 2}
    files = {language: folder / f"{language}.txt" for language in demo_model.corpora()}
    for language, texts in demo_model.corpora().items():
        files[language].write_text("\n".join(text.replace("\n", " ") for text in texts), "utf-8")
    return files


def run(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Starts the command. Its results, its checkpoint and its log are in `out`."""
    out.mkdir(exist_ok=True)
    with (out / "log.txt").open("a") as log:
        command = [*command, "--checkpoint", str(out / "state"), "--out", str(out / "results")]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def load_statistics(out: Path) -> dict[str, pml.NeuronStatistics]:
    """Returns the statistics that a run wrote, by language."""
    return {path.stem: pml.NeuronStatistics.load(path) for path in sorted((out / "results" / "statistics").iterdir())}


def difference(actual: dict[str, pml.NeuronStatistics], expected: dict[str, pml.NeuronStatistics]) -> float | None:
    """Returns the largest relative difference of a sum, or None if anything else differs."""
    worst = 0.0
    for language, truth in expected.items():
        statistics = actual[language]
        same = (statistics.documents, statistics.tokens) == (truth.documents, truth.tokens)
        for site in truth.sum:
            same &= torch.equal(statistics.minimum[site], truth.minimum[site])
            same &= torch.equal(statistics.votes[site], truth.votes[site])
            change = (statistics.sum[site] - truth.sum[site]).abs() / truth.sum[site].abs().clamp(min=1e-300)
            worst = max(worst, change.max().item())
        if not same:
            return None
    return worst


def describe_difference(worst: float | None) -> str:
    """Returns what `difference` found, in words."""
    if worst is None:
        return "numbers of documents or tokens, smallest importance or votes differ"
    return f"sums differ by {worst:.1e}"


if __name__ == "__main__":
    sys.exit(main())
