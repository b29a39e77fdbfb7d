"""Measures which selection of neurons works on a real model, for every language that the model knows.

    python -m benchmarks.experiments.real_selection --model DIR --corpora FOLDER --parallel FILE.tsv --out FILE.csv

FOLDER has LANGUAGE.txt.gz (training texts) and LANGUAGE.heldout.txt.gz for each language. FILE.tsv has sentences in
English and their translations, such as FLORES. A model knows a language if it needs at most KNOWN_BITS bits for the
translations per byte of the English sentences, so that the script does not count. The --languages with the fewest
bits are measured, known or not, since a set that is specific to a language needs others. Neurons are detected in the
training texts, each text a document or packed into documents of PACK tokens, and selected by every rule of RULES. The
neurons that are selected for one language only are deactivated, and the increase of the log-perplexity of the held-
out texts is measured, in nats a token.

A selection works for a language if the increase for the language itself is at least five times the mean increase for
the other languages, and five times the mean increase by --draws sets of as many random neurons. The file has a row for
each selection and language.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import pandas
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.experiments.tuning import load_texts
from pymultiling.data.languages import find_language
from pymultiling.data.parallel_texts import read_columns
from pymultiling.results.tables import compare_own_effects, log_change

KNOWN_BITS = 2.0
SENTENCES = 12  # translations that are measured
PACK = 128
PACKS = (None, PACK)
FRACTIONS = (0.05, 0.1, 0.2)
SHARES = (0.5, 0.7, 1.0)
RULES: dict[str, pml.TopK | pml.TopMean] = {
    **{f"top {f}, share {s}": pml.TopK(f, f, s) for f in FRACTIONS for s in SHARES},
    **{f"mean {f}": pml.TopMean(f, f) for f in FRACTIONS},
}


def first_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[str]:
    """Returns the first texts that together have at least this many tokens, or all texts."""
    counts = pandas.Series([len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]])
    return texts[: int((counts.cumsum() < tokens).sum()) + 1]


def bits_of_translations(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, parallel: Path, languages: list[str]
) -> dict[str, float]:
    """Returns how many bits the model needs for the first sentences per byte of English, in ascending order."""
    columns = read_columns(parallel)
    english = columns[find_language("en", columns, parallel)][:SENTENCES]
    english_bytes = sum(len(sentence.encode()) for sentence in english)
    bits = {}
    for language in languages:
        sentences = columns[find_language(language, columns, parallel)][:SENTENCES]
        nats = math.log(pml.perplexity(model, tokenizer, sentences, progress=False))
        tokens = sum(len(ids) for ids in tokenizer(sentences, add_special_tokens=False)["input_ids"])
        bits[language] = nats * tokens / math.log(2) / english_bytes
    return dict(sorted(bits.items(), key=lambda item: item[1]))


def effects(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, pml.NeuronSet],
    texts: dict[str, list[str]],
    draws: int,
) -> pandas.DataFrame:
    """Returns the table of `compare_own_effects`, without its means. Random sets are measured in one language each."""
    columns = []
    for language, lines in texts.items():
        random = {f"random {draw} as {language}": sets[language].random_like(draw) for draw in range(1, draws + 1)}
        columns.append(pml.ablation_matrix(model, tokenizer, {**sets, **random}, {language: lines}, progress=False))
    return compare_own_effects(log_change(pandas.concat(columns, axis=1))).drop(index="mean")


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    heldout: dict[str, list[str]],
    tokens: int,
    draws: int,
    chat_template: bool,
) -> Iterator[dict[str, object]]:
    """Yields a row for every selection and language.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        texts: {language: training texts}.
        heldout: {language: held-out texts}.
        tokens: tokens of each language for detection.
        draws: number of random sets for each set of neurons.
        chat_template: as in `detect`, for detection only.
    """
    for pack in PACKS:
        measured = pml.detect(
            model, tokenizer, texts, pack=pack, tokens=tokens, chat_template=chat_template, progress=False
        )
        for name, rule in RULES.items():
            sets = measured.select(rule).specific()
            table = effects(model, tokenizer, sets, heldout, draws)
            for language, row in table.iterrows():
                yield {
                    "packed": pack is not None,
                    "rule": name,
                    "language": language,
                    "neurons": len(sets[str(language)]),
                    **{column: round(float(row[column]), 4) for column in ("own", "others", "random")},
                    "works": bool(row["own"] > 0 and row["own"] >= 5 * max(row["others"], row["random"])),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the texts of each language")
    parser.add_argument("--parallel", type=Path, required=True, help="sentences in all languages (.tsv)")
    parser.add_argument("--languages", type=int, default=8, help="languages to measure (%(default)s)")
    parser.add_argument("--tokens", type=int, default=8000, help="tokens a language for detection (%(default)s)")
    parser.add_argument("--heldout", type=int, default=800, help="held-out tokens a language (%(default)s)")
    parser.add_argument("--draws", type=int, default=2, help="random sets for each set (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="as in from_pretrained (%(default)s)")
    parser.add_argument("--chat-template", action="store_true", help="detect in messages of the chat template")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write, after every selection")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    found = sorted(path.name.removesuffix(".heldout.txt.gz") for path in options.corpora.glob("*.heldout.txt.gz"))
    bits = bits_of_translations(model, tokenizer, options.parallel, found)
    print("bits:", ", ".join(f"{language} {value:.2f}" for language, value in bits.items()), flush=True)
    languages = tuple(bits)[: options.languages]
    heldout = {
        language: first_texts(lines, tokenizer, options.heldout)
        for language, lines in load_texts(options.corpora, languages, heldout=True).items()
    }
    texts = load_texts(options.corpora, languages, heldout=False)
    rows: list[dict[str, object]] = []
    for row in measure(model, tokenizer, texts, heldout, options.tokens, options.draws, options.chat_template):
        rows.append({**row, "bits": round(bits[str(row["language"])], 2)})
        if len(rows) % len(languages) == 0:
            table = pandas.DataFrame(rows)
            table.to_csv(options.out, index=False)
            last = table.tail(len(languages))
            working = ", ".join(f"{row.language} {row.own:.2f}" for row in last[last.works].itertuples())
            print(row["packed"], row["rule"], f"works for {int(last.works.sum())}: {working}", flush=True)


if __name__ == "__main__":
    main()
