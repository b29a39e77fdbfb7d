"""Writes the README and the loss plot of the demo model, with measured numbers."""

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
from pymultiling.demo_model.training.evaluate import measure_lines, measure_packed
from pymultiling.demo_model.training.settings import HELDOUT_SEQUENCES, Settings
from pymultiling.results.tables import markdown_table

LANGUAGES = demo_model.LANGUAGES


def byte_count(texts: list[str]) -> int:
    """Returns the UTF-8 bytes of lines, including their line ends."""
    return sum(len(text.encode("utf-8")) + 1 for text in texts)


def draw_curve(rows: list[dict[str, str]], path: Path) -> None:
    """Plots the held-out loss of each language against training steps."""
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


def thin(rows: list[dict[str, str]], limit: int = 10) -> list[dict[str, str]]:
    """Returns about `limit` evenly spaced rows, including the last one."""
    stride = -(-len(rows) // limit)
    return rows[:-1][stride - 1 :: stride] + rows[-1:]


def data_tables(
    corpora: Corpora, settings: Settings, steps: int, sizes: dict[str, int], shares: dict[str, float]
) -> str:
    """Returns the tables of the training data and of their sources."""
    rows: list[list[str]] = []
    source_counts: Counter[str] = Counter()
    for language in LANGUAGES:
        train, heldout = corpora.lines(language, "train"), corpora.lines(language, "heldout")
        texts, heldout_texts = [text for _, text in train], [text for _, text in heldout]
        language_counts = Counter(source for source, _ in train)
        source_counts += language_counts
        passes = steps * settings.batch_tokens * shares[language] / sizes[language]
        rows.append(
            [
                language,
                f"{len(texts):,}",
                f"{byte_count(texts):,}",
                f"{sizes[language]:,}",
                f"{sum(map(len, texts)) / sizes[language]:.2f}",
                f"{100 * shares[language]:.1f}%",
                f"{passes:.1f}",
                f"{len(heldout_texts):,}",
                f"{byte_count(heldout_texts):,}",
                ", ".join(f"{source} {count:,}" for source, count in language_counts.most_common()),
            ]
        )
    header = ["language", "lines", "bytes", "tokens", "characters per token", "share of training", "passes"]
    header += ["held-out lines", "held-out bytes", "training lines by source"]
    sources = [
        [name, source.kind, source.origin, source.licence]
        for name, source in FREE_SOURCES.items()
        if source_counts[name]
    ]
    return (
        markdown_table(header, rows)
        + "\n\n"
        + markdown_table(["source", "text", "repository", "licence stated there"], sources)
    )


def perplexity_table() -> str:
    """Measures the packaged float16 weights on the held-out texts, and returns the table."""
    model, tokenizer = demo_model.load()
    rows = []
    for language, lines in demo_model.heldout().items():
        alone = measure_lines(model, tokenizer, lines)
        packed = measure_packed(model, tokenizer, lines, model.config.max_position_embeddings)
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
    """Returns the table of held-out losses by language at some of the steps."""
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
    """Writes `README.md` and `loss.png` into the package folder."""
    measured = [row for row in curve if row[LANGUAGES[0]]]
    if measured:
        draw_curve(measured, package / "loss.png")
    parameters = demo_model.load()[0].num_parameters()
    packaged = [path for name in ("model", "text") for path in sorted((package / name).iterdir())]
    megabytes = sum(path.stat().st_size for path in packaged) / 1e6
    progress = f"{steps:,}" if steps == settings.steps else f"{steps:,} of {settings.steps:,} planned"
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": numpy.__version__,
    }
    heads = f"{settings.heads} query and {settings.kv_heads} key-value heads of {settings.head_dim}"
    optimizer = f"betas {settings.betas[0]}, {settings.betas[1]}; weight decay {settings.weight_decay}"
    optimizer += f"; gradients clipped at {settings.clip}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    detection_sizes = {language: byte_count(texts) for language, texts in demo_model.corpora().items()}
    smallest, largest = min(detection_sizes.values()), max(detection_sizes.values())
    hashes = [[path.name, f"`{sha256(path)}`"] for path in input_files(corpora.data)]
    text = f"""# The demo model

This is a small Llama decoder that ships inside the package, so that tests, examples and
demonstrations run offline on a real trained model. It writes plausible short phrases in
eight languages ({", ".join(LANGUAGES)}) and has almost no knowledge: use it to try out methods, not
to draw conclusions about large models. It is trained on single sentences, so it has not
learned to use longer context.

    from pymultiling import demo_model

    model, tokenizer = demo_model.load()   # in float32 by default; the weights are stored as float16
    demo_model.corpora()                   # {{language: detection texts}}, sampled from the training lines
    demo_model.heldout()                   # {{language: held-out texts}}

`pymultiling.embedded` is another name of `pymultiling.demo_model`.

The weights, the tokenizer and the texts have {megabytes:.2f} MB in total.

## Architecture

The model is a `LlamaForCausalLM` with {parameters / 1e6:.2f} million parameters:
{settings.layers} layers, hidden size {settings.hidden}, feed-forward size {settings.ffn}, {heads}, rotary positions
(theta 10,000, up to {settings.positions}), tied embeddings, no biases.

The tokenizer is a byte-level BPE with {settings.vocabulary:,} entries, trained on a balanced sample
({settings.tokenizer_bytes // 1000} kB per language; 1.6 times that for zh, 1.5 for hi, 1.3 for ru). It puts `<s>`
before a text, so that the first real token is predicted too. `</s>` ends a line and separates the lines of packed
sequences. `<pad>` pads sequences. A training sequence is `<s> line </s> line </s> ...` in one language.

## Data

All text is dedicated to the public domain (CC0) or out of copyright. The packaged detection
texts have {smallest:,} to {largest:,} bytes per language and are drawn from the training lines.

{data_tables(corpora, settings, steps, sizes, shares)}

Tokens include one `</s>` per line. A language is drawn with a probability proportional to its number of tokens to the
power {settings.alpha}.

These are the SHA-256 of the input files:

{markdown_table(["file", "SHA-256"], hashes)}

## Training

    python -m pymultiling.demo_model.training.train --data DIR --out DIR            # --resume continues a run
    python -m pymultiling.demo_model.training.train --data DIR --out DIR --export   # writes package data and this file

The model was trained for {progress} steps of {settings.batch_tokens:,} tokens with the seed {settings.seed}.
Sequences have {settings.length} tokens, and {settings.long_length} in one of {settings.long_every} batches.
The optimizer is AdamW ({optimizer}).
The learning rate rises to {settings.peak_lr} in {settings.warmup} steps.
Then it falls to {settings.final_lr} as a cosine.
The weights are in float32, products in bfloat16. The model was compiled and had no dropout.
Training took {cpu_seconds / 60:.0f} minutes of CPU time on two threads, with
{packages}.

## Held-out loss

The losses are in nats per token. They are those of the float32 weights on a small fixed held-out sample
({HELDOUT_SEQUENCES} sequences of {settings.length} tokens per language):

![held-out loss by language](loss.png)

{curve_table(measured) if measured else "No measurement yet."}

## Held-out perplexity

The packaged float16 weights were measured on the whole packaged held-out text, weighted by tokens. *Lines alone*: every
line is a separate text, `<s> line`. *Packed*: lines are joined by `</s>`, which is predicted too, in
sequences of {settings.positions} tokens.
Perplexities depend on the tokenizer, so they cannot be compared across languages. Bits per byte depend on the script.

{perplexity_table()}

The domains differ: Russian is mostly classic prose, Spanish includes a 17th-century novel and the Bible, and
the other languages are mostly read-aloud prompts.

## Licence

The weights, the tokenizer and the code have the package's licence, Apache-2.0. The texts are in the public domain or
CC0 1.0, as listed above.
"""
    (package / "README.md").write_text(text, encoding="utf-8")
