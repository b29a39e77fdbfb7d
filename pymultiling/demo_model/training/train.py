"""Training of the demo model: `python -m pymultiling.demo_model.training.train --data DIR --out DIR`.

`--resume` continues from the last checkpoint in the output folder. `--export` does not train: it rounds that checkpoint
to float16, measures it, and writes the package data and the README.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pymultiling.demo_model import LANGUAGES
from pymultiling.demo_model.training.construction import make_batches, make_model, make_tokenizer, tokenise
from pymultiling.demo_model.training.data import Corpora, Stream
from pymultiling.demo_model.training.export import export
from pymultiling.demo_model.training.run_files import CHECKPOINT, CURVE, Curve, save_checkpoint
from pymultiling.demo_model.training.settings import HELDOUT_SEQUENCES, Settings
from pymultiling.demo_model.training.tokenizer import save_tokenizer

LOG_EVERY, HELDOUT_EVERY, SAVE_EVERY = 50, 250, 300  # in steps


def heldout_sample(corpora: Corpora, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> dict[str, torch.Tensor]:
    """Returns {language: (HELDOUT_SEQUENCES, length) int64}, a fixed batch of held-out sequences."""
    sample = {}
    for language in LANGUAGES:
        lines = tokenise(tokenizer, corpora.texts(language, "heldout"))
        stream = Stream(lines, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, seed=settings.seed)
        sample[language] = torch.tensor([stream.take(settings.length) for _ in range(HELDOUT_SEQUENCES)])
    return sample


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross-entropy in nats of all tokens except the first of each row."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def heldout_losses(model: LlamaForCausalLM, sample: dict[str, torch.Tensor]) -> dict[str, float]:
    """Returns the held-out loss of each language in nats per token, on the batches of `heldout_sample`."""
    return {
        language: next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).item()
        for language, tokens in sample.items()
    }


def learning_rate(step: int, settings: Settings) -> float:
    """Returns the learning rate of a step (from 1): a linear warm-up, then a cosine from the peak to the final rate."""
    if step <= settings.warmup:
        return settings.peak_lr * step / settings.warmup
    progress = (step - settings.warmup) / (settings.steps - settings.warmup)
    return settings.final_lr + (settings.peak_lr - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """Returns AdamW with weight decay for matrices only, not for normalisation gains."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_lr, betas=settings.betas, fused=True)


def train(data: Path, out: Path, settings: Settings, *, resume: bool, compiled: bool) -> None:
    """Trains to the last step and writes tokenizer, checkpoint and loss curve into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    corpora = Corpora(data)
    checkpoint = torch.load(out / CHECKPOINT, weights_only=True) if resume else None
    if checkpoint:
        settings = Settings(**checkpoint["settings"])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer", local_files_only=True)
    else:
        tokenizer = make_tokenizer(corpora, settings)
        save_tokenizer(tokenizer, out / "tokenizer")
    model = make_model(settings, tokenizer)
    optimizer = make_optimizer(model, settings)
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        torch.set_rng_state(checkpoint["rng"])
    start = checkpoint["step"] if checkpoint else 0
    cpu_before = checkpoint["cpu_seconds"] if checkpoint else 0.0

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
    # The order of the data depends on the seed only, so a resumed run skips the batches before `start`.
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
        is_last = step == settings.steps

        if step % LOG_EVERY == 0 or is_last:
            row: dict[str, object] = {
                "step": step,
                "train_loss": round(sum(recent) / len(recent), 4),
                "lr": f"{rate:.6f}",
                "cpu_seconds": round(cpu_before + time.process_time()),
            }
            if step % HELDOUT_EVERY == 0 or is_last:
                row |= {language: round(value, 4) for language, value in heldout_losses(model, sample).items()}
            curve.add(**row)
            recent.clear()
        if step % SAVE_EVERY == 0 or is_last or step == LOG_EVERY:
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
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of <lang>.txt.gz and line_sources.json.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer, checkpoint and loss curve")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="number of training steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (%(default)s)")
    parser.add_argument(
        "--no-compile", action="store_true", help="do not compile the model, which is slower but needs no C++ compiler"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--export", action="store_true", help="write package data and README from the checkpoint")
    parser.add_argument("--no-report", action="store_true", help="with --export: leave README and plot as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.export:
        export(arguments.data, arguments.out, report=not arguments.no_report)
    else:
        settings = Settings(steps=arguments.steps)
        train(arguments.data, arguments.out, settings, resume=arguments.resume, compiled=not arguments.no_compile)


if __name__ == "__main__":
    main()
