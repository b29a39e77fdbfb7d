"""Writes the package data of a training checkpoint: float16 weights, tokenizer, texts and README."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from pymultiling import demo_model
from pymultiling.demo_model.training.construction import make_batches, make_model
from pymultiling.demo_model.training.data import Corpora, sample_bytes, write_lines
from pymultiling.demo_model.training.report import write_report
from pymultiling.demo_model.training.run_files import CHECKPOINT, CURVE, read_curve
from pymultiling.demo_model.training.settings import Settings
from pymultiling.demo_model.training.tokenizer import save_tokenizer

# Bytes of the packaged texts of each language, line ends included.
DETECTION_BYTES = 150_000
HELDOUT_BYTES = 90_000


def write_texts(corpora: Corpora, folder: Path, seed: int) -> None:
    """Writes detection texts, which are training lines, and held-out texts of every language."""
    for language in demo_model.LANGUAGES:
        detection = sample_bytes(corpora.texts(language, "train"), DETECTION_BYTES, seed)
        heldout = sample_bytes(corpora.texts(language, "heldout"), HELDOUT_BYTES, seed)
        write_lines(folder / f"{language}.txt.gz", detection)
        write_lines(folder / f"{language}.heldout.txt.gz", heldout)


def write_model(checkpoint: dict, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the weights of a training checkpoint, rounded to float16, with the configuration and the tokenizer.

    Args:
        checkpoint: the content of the file CHECKPOINT. Its entries "settings" and "model" are used.
        tokenizer: the tokenizer of the run.
        folder: the folder of the model.
    """
    model = make_model(Settings(**checkpoint["settings"]), tokenizer)
    model.load_state_dict(checkpoint["model"])
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def export(data: Path, out: Path, *, report: bool) -> None:
    """Writes the texts, the model and the tokenizer of a training run into the package.

    Args:
        data: the folder of the corpora.
        out: the output folder of the run.
        report: also measure the written model, and write the README and the plot of the loss.
    """
    package = Path(demo_model.__file__).parent
    corpora = Corpora(data)
    checkpoint = torch.load(out / CHECKPOINT, weights_only=True)
    settings = Settings(**checkpoint["settings"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer", local_files_only=True)
    write_texts(corpora, package / "text", settings.seed)
    write_model(checkpoint, tokenizer, package / "model")
    if not report:
        return
    batches = make_batches(corpora, tokenizer, settings)
    write_report(
        package,
        corpora=corpora,
        settings=settings,
        steps=checkpoint["step"],
        cpu_seconds=checkpoint["cpu_seconds"],
        curve=[row for row in read_curve(out / CURVE) if int(row["step"]) <= checkpoint["step"]],
        sizes=batches.sizes,
        shares=batches.shares,
    )
