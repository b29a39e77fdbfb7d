"""README and loss plot of the demo model, filled with measured numbers."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import numpy
import tokenizers
import torch
import transformers

from pymultiling import demo_model
from pymultiling.demo_model.training.data import FREE_SOURCES, Corpora, input_files, sha256
from pymultiling.demo_model.training.evaluate import score_lines, score_packed
from pymultiling.demo_model.training.settings import HELDOUT_SEQUENCES, Settings
from pymultiling.results.tables import markdown_table

LANGUAGES = demo_model.LANGUAGES


def size(texts: list[str]) -> int:
    """UTF-8 bytes of lines with their line ends."""
    return sum(len(text.encode("utf-8")) + 1 for text in texts)


def draw_curve(rows: list[dict[str, str]], path: Path) -> None:
    """Held-out loss of each language against training steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    steps = [int(row["step"]) for row in rows]
    for language in LANGUAGES:
        axes.plot(steps, [float(row[language]) for row in rows], label=language, linewidth=1.5)
    axes.set_xlabel("training step")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(ncol=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def thin(rows: list[dict[str, str]], most: int = 10) -> list[dict[str, str]]:
    """At most about `most` rows, evenly spaced, always with the last."""
    stride = -(-len(rows) // most)
    return rows[:-1][stride - 1 :: stride] + rows[-1:]


def data_tables(
    corpora: Corpora, settings: Settings, steps: int, sizes: dict[str, int], shares: dict[str, float]
) -> str:
    """What was trained on, and where it comes from."""
    lines, used = [], Counter()
    for language in LANGUAGES:
        train, heldout = corpora.lines(language, "train"), corpora.lines(language, "heldout")
        texts, held = [text for _, text in train], [text for _, text in heldout]
        sources = Counter(source for source, _ in train)
        used += sources
        passes = steps * settings.batch_tokens * shares[language] / sizes[language]
        lines.append(
            [
                language,
                f"{len(texts):,}",
                f"{size(texts):,}",
                f"{sizes[language]:,}",
                f"{sum(map(len, texts)) / sizes[language]:.2f}",
                f"{100 * shares[language]:.1f}%",
                f"{passes:.1f}",
                f"{len(held):,}",
                f"{size(held):,}",
                ", ".join(f"{source} {count:,}" for source, count in sources.most_common()),
            ]
        )
    header = ["language", "lines", "bytes", "tokens", "characters per token", "share of training", "passes"]
    header += ["held-out lines", "held-out bytes", "training lines by source"]
    sources = [
        [name, source.kind, source.origin, source.licence] for name, source in FREE_SOURCES.items() if used[name]
    ]
    return (
        markdown_table(header, lines)
        + "\n\n"
        + markdown_table(["source", "text", "repository", "licence stated there"], sources)
    )


def score_table() -> str:
    """Held-out measurements of the packaged float16 weights."""
    model, tokenizer = demo_model.load()
    rows = []
    for language, lines in demo_model.heldout().items():
        alone = score_lines(model, tokenizer, lines)
        packed = score_packed(model, tokenizer, lines, model.config.max_position_embeddings)
        rows.append(
            [
                language,
                f"{len(lines):,}",
                f"{alone.tokens:,}",
                f"{alone.perplexity:.1f}",
                f"{alone.bits_per_byte:.2f}",
                f"{packed.perplexity:.1f}",
            ]
        )
        print(*rows[-1], flush=True)
    header = [
        "language",
        "lines",
        "tokens",
        "perplexity, lines alone",
        "bits per byte, lines alone",
        "perplexity, packed",
    ]
    return markdown_table(header, rows)


def curve_table(rows: list[dict[str, str]]) -> str:
    """Held-out loss by language at some of the steps."""
    return markdown_table(
        ["step", *LANGUAGES],
        [[row["step"], *(f"{float(row[language]):.2f}" for language in LANGUAGES)] for row in thin(rows)],
    )


def write_report(
    package: Path,
    *,
    corpora: Corpora,
    settings: Settings,
    steps: int,
    cpu_seconds: float,
    curve: list[dict[str, str]],
    sizes: dict[str, int],
    shares: dict[str, float],
) -> None:
    """Write `README.md` and `loss.png` into the package folder."""
    measured = [row for row in curve if row[LANGUAGES[0]]]
    if measured:
        draw_curve(measured, package / "loss.png")
    parameters = demo_model.load()[0].num_parameters()
    packaged = [path for name in ("model", "text") for path in sorted((package / name).iterdir())]
    megabytes = sum(path.stat().st_size for path in packaged) / 1e6
    done = f"{steps:,}" if steps == settings.steps else f"{steps:,} of {settings.steps:,} planned"
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": numpy.__version__,
    }
    detection = {language: size(texts) for language, texts in demo_model.corpora().items()}
    hashes = [[path.name, f"`{sha256(path)}`"] for path in input_files(corpora.data)]
    text = f"""# The demo model

A small Llama decoder that ships inside the package, so that tests, examples and
demonstrations run offline on a real trained model. It writes plausible short phrases in
eight languages ({", ".join(LANGUAGES)}) and knows next to nothing: use it to try methods out, not
to draw conclusions about large models. It is trained on single sentences, so it has no sense
of longer context.

    from pymultiling import demo_model

    model, tokenizer = demo_model.load()   # float32 unless told; weights are stored as float16
    demo_model.corpora()                   # {{language: detection texts}}, sampled from the training lines
    demo_model.heldout()                   # {{language: held-out texts}}

`pymultiling.embedded` is another name for `pymultiling.demo_model`.

Weights, tokenizer and texts together are {megabytes:.2f} MB.

## Architecture

`LlamaForCausalLM` with {parameters / 1e6:.2f} million parameters: {settings.layers} layers, hidden size {settings.hidden},
feed-forward size {settings.ffn}, {settings.heads} query and {settings.kv_heads} key-value heads of {settings.head_dim}, rotary positions
(theta 10,000, up to {settings.positions}), tied embeddings, no biases.

Byte-level BPE tokenizer of {settings.vocabulary:,} entries, trained on a balanced sample
({settings.tokenizer_bytes // 1000} kB a language; 1.6 times that for zh, 1.5 for hi, 1.3 for ru). It puts `<s>` in front of a text, so the
first real token is predicted as well. `</s>` ends a line and separates lines in packed
sequences; `<pad>` fills up. Training sequences are `<s> line </s> line </s> ...` of one language each.

## Data

Only text dedicated to the public domain (CC0) or out of copyright. The packaged detection
texts are {min(detection.values()):,} to {max(detection.values()):,} bytes a language, drawn from the training lines.

{data_tables(corpora, settings, steps, sizes, shares)}

Tokens include one `</s>` a line. Languages are drawn in proportion to their tokens to the power {settings.alpha}.

SHA-256 of the input files:

{markdown_table(["file", "SHA-256"], hashes)}

## Training

    python -m pymultiling.demo_model.training.train --data DIR --out DIR            # --resume goes on from a checkpoint
    python -m pymultiling.demo_model.training.train --data DIR --out DIR --export   # package data and this file

{done} steps of {settings.batch_tokens:,} tokens (sequences of {settings.length}; one batch in {settings.long_every} of {settings.long_length}), seed {settings.seed}.
AdamW (betas {settings.betas[0]}, {settings.betas[1]}; weight decay {settings.weight_decay}; gradients clipped at {settings.clip}), {settings.warmup} steps of warm-up to
{settings.peak_lr}, then a cosine to {settings.final_lr}. Float32 weights, products in bfloat16, compiled; no dropout.
{cpu_seconds / 60:.0f} minutes of CPU time on two threads.
{", ".join(f"{name} {version}" for name, version in versions.items())}.

## Held-out loss

Nats per token on a small fixed held-out sample ({HELDOUT_SEQUENCES} sequences of {settings.length} tokens a language), float32 weights:

![held-out loss by language](loss.png)

{curve_table(measured) if measured else "No measurement yet."}

## Held-out perplexity

The packaged float16 weights on the whole packaged held-out text, weighted by tokens. *Lines alone*: every
line is a text of its own, `<s> line`. *Packed*: lines joined by `</s>`, which is predicted too, in
sequences of {settings.positions} tokens.
Perplexities depend on the tokenizer and do not compare across languages; bits per byte depend on the script.

{score_table()}

Domains differ: Russian is mostly classic prose, Spanish has a 17th-century novel and the Bible,
the others are mostly read-aloud prompts.

## Licence

Weights, tokenizer and code: Apache-2.0, as the package. The texts are in the public domain or CC0 1.0, as
listed above.
"""
    (package / "README.md").write_text(text, encoding="utf-8")
