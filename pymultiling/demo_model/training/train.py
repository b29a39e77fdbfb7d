"""Training of the embedded model: `python -m pymultiling.demo_model.training.train --data DIR --out DIR`.

`--resume` goes on from the last checkpoint in the output folder; `--export`
trains nothing, but rounds that checkpoint to float16, measures it and writes
the package data and the README beside this file.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pymultiling.demo_model import LANGUAGES
from pymultiling.demo_model.training.data import Batches, Corpora, Stream, sample_bytes
from pymultiling.demo_model.training.tokenizer import save_tokenizer, train_tokenizer


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a run, besides the data."""

    steps: int = 4800
    seed: int = 0
    vocabulary: int = 8000
    hidden: int = 224
    layers: int = 6
    ffn: int = 640
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    positions: int = 512
    batch_tokens: int = 4096
    length: int = 128
    long_length: int = 512
    long_every: int = 8
    alpha: float = 0.6
    peak_lr: float = 3e-3
    final_lr: float = 3e-5
    warmup: int = 200
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    tokenizer_bytes: int = 500_000


# More text for scripts of two or three bytes a character, so that their merges
# get a fair share of the vocabulary.
TOKENIZER_WEIGHTS = {"zh": 1.6, "hi": 1.5, "ru": 1.3}

CHECKPOINT = "checkpoint.pt"
CURVE = "losses.csv"
LOG_EVERY, HELDOUT_EVERY, SAVE_EVERY = 50, 250, 300
HELDOUT_SEQUENCES = 32


def make_tokenizer(corpora: Corpora, settings: Settings) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a balanced sample of the training text."""
    texts: list[str] = []
    for language in LANGUAGES:
        budget = int(settings.tokenizer_bytes * TOKENIZER_WEIGHTS.get(language, 1))
        texts += sample_bytes(corpora.texts(language, "train"), budget, settings.seed)
    return train_tokenizer(texts, settings.vocabulary)


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised model."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.ffn,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=settings.positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def tokenise(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each line, without special tokens."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def make_batches(corpora: Corpora, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Batches:
    """The training batches of a run, from the first step on."""
    return Batches(
        {language: tokenise(tokenizer, corpora.texts(language, "train")) for language in LANGUAGES},
        batch_tokens=settings.batch_tokens,
        length=settings.length,
        long_length=settings.long_length,
        long_every=settings.long_every,
        alpha=settings.alpha,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        seed=settings.seed,
    )


def heldout_sample(corpora: Corpora, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> dict[str, torch.Tensor]:
    """A small fixed batch of held-out sequences for each language."""
    sample = {}
    for language in LANGUAGES:
        lines = tokenise(tokenizer, corpora.texts(language, "heldout"))
        stream = Stream(lines, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, seed=settings.seed)
        sample[language] = torch.tensor([stream.take(settings.length) for _ in range(HELDOUT_SEQUENCES)])
    return sample


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (nats) of every token but the first of each row."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def heldout_losses(model: LlamaForCausalLM, sample: dict[str, torch.Tensor]) -> dict[str, float]:
    """Loss on each language of `heldout_sample`."""
    return {
        language: next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).item()
        for language, tokens in sample.items()
    }


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine from the peak to the final rate, by step (from 1)."""
    if step <= settings.warmup:
        return settings.peak_lr * step / settings.warmup
    done = (step - settings.warmup) / (settings.steps - settings.warmup)
    return settings.final_lr + (settings.peak_lr - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves the normalisation gains alone."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_lr, betas=settings.betas, fused=True)


def save_checkpoint(path: Path, content: dict) -> None:
    """Write beside the old file, then replace it, so that one whole file always exists."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


class Curve:
    """The loss curve as CSV; rows after the step resumed from are dropped."""

    columns = ["step", "train_loss", "lr", "cpu_seconds", *LANGUAGES]

    def __init__(self, path: Path, start: int) -> None:
        rows = [row for row in read_curve(path) if int(row["step"]) <= start] if start else []
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, restval="")
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()

    def add(self, **row: object) -> None:
        """Append a row and print it."""
        self._writer.writerow(row)
        self._file.flush()
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a loss curve; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def train(data: Path, out: Path, settings: Settings, *, resume: bool, compiled: bool) -> None:
    """Train to the last step, leaving tokenizer, checkpoint and loss curve in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    corpora = Corpora(data)
    saved = torch.load(out / CHECKPOINT, weights_only=True) if resume else None
    if saved:
        settings = Settings(**saved["settings"])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer", local_files_only=True)
    else:
        tokenizer = make_tokenizer(corpora, settings)
        save_tokenizer(tokenizer, out / "tokenizer")
    model = make_model(settings, tokenizer)
    optimizer = make_optimizer(model, settings)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
    start = saved["step"] if saved else 0
    cpu_before = saved["cpu_seconds"] if saved else 0.0

    batches = make_batches(corpora, tokenizer, settings)
    sample = heldout_sample(corpora, tokenizer, settings)
    print(f"parameters={model.num_parameters()} tokens={batches.sizes}", flush=True)
    print("shares", {language: round(share, 3) for language, share in batches.shares.items()}, flush=True)

    def batch_loss(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=tokens, use_cache=False).logits
        return next_token_loss(logits, tokens)

    step_loss = torch.compile(batch_loss, dynamic=False) if compiled else batch_loss
    curve = Curve(out / CURVE, start)
    recent: list[float] = []
    # The data order depends on the seed alone, so resuming skips what was seen.
    remaining: Iterator[np.ndarray] = islice(batches, start, settings.steps)
    for step, batch in enumerate(remaining, start + 1):
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = step_loss(torch.from_numpy(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        last = step == settings.steps

        if step % LOG_EVERY == 0 or last:
            row: dict[str, object] = {
                "step": step,
                "train_loss": round(sum(recent) / len(recent), 4),
                "lr": f"{rate:.6f}",
                "cpu_seconds": round(cpu_before + time.process_time()),
            }
            if step % HELDOUT_EVERY == 0 or last:
                row |= {language: round(value, 4) for language, value in heldout_losses(model, sample).items()}
            curve.add(**row)
            recent.clear()
        if step % SAVE_EVERY == 0 or last or step == LOG_EVERY:
            content = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "step": step,
                "cpu_seconds": cpu_before + time.process_time(),
                "settings": asdict(settings),
            }
            save_checkpoint(out / CHECKPOINT, content)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of <lang>.txt.gz and line_sources.json.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer, checkpoint and loss curve")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="where there is no C++ compiler; slower")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--export", action="store_true", help="write package data and README from the checkpoint")
    parser.add_argument("--no-report", action="store_true", help="with --export: leave README and plot as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.export:
        from pymultiling.demo_model.training.export import export

        export(arguments.data, arguments.out, report=not arguments.no_report)
    else:
        settings = Settings(steps=arguments.steps)
        train(arguments.data, arguments.out, settings, resume=arguments.resume, compiled=not arguments.no_compile)


if __name__ == "__main__":
    main()
