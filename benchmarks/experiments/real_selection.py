"""Measures which selection of neurons works on a real model, for every language that the model knows.

    python -m benchmarks.experiments.real_selection --model DIR --corpora FOLDER --parallel FILE.tsv --out FILE.csv

FOLDER has LANGUAGE.txt.gz (training texts) and LANGUAGE.heldout.txt.gz for each language. FILE.tsv has sentences in
English and their translations, such as FLORES. A model knows a language if it needs at most KNOWN_BITS bits for the
translations per byte of the English sentences, so that the script does not count. Neurons are detected in the training
texts of the --languages with the fewest bits, known or not, since a set that is specific to a language needs others.
Each text is a document, or texts are packed into documents of a number of tokens (--packs). The neurons that a rule
selects for one language only are deactivated, and the increase of the log-perplexity of the held-out texts is measured,
in nats a token. The rules are `TopK` of every fraction and share, and `TopMean` of every fraction.

A selection works for a language if the increase for the language itself is at least five times the mean increase for
the other languages, and five times the mean increase by --draws sets of as many random neurons. The file has a row for
each selection and known language.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import product
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


def languages_in(folder: Path) -> list[str]:
    """Returns the languages of which the folder has held-out texts."""
    return sorted(path.name.removesuffix(".heldout.txt.gz") for path in folder.glob("*.heldout.txt.gz"))


def rules(fractions: list[float], shares: list[float]) -> dict[str, pml.TopK | pml.TopMean]:
    """Returns {name: rule}, `TopK` of every fraction and share and `TopMean` of every fraction."""
    top = {f"top {f}, share {s}": pml.TopK(f, f, s) for f in fractions for s in shares}
    return {**top, **{f"mean {f}": pml.TopMean(f, f) for f in fractions}}


def changes(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, pml.NeuronSet],
    texts: dict[str, list[str]],
    draws: int,
) -> pandas.DataFrame:
    """Returns the table of `log_change` for these sets and random ones, which are NaN in other languages.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sets: {language: set}, of some of the languages of the texts.
        texts: {language: held-out texts}.
        draws: number of random sets for each set. They are measured in the set's language only.
    """
    columns = []
    for language, lines in texts.items():
        own = {language: sets[language]} if language in sets else {}
        random = {f"random {n} as {name}": one.random_like(n) for name, one in own.items() for n in range(1, draws + 1)}
        columns.append(pml.ablation_matrix(model, tokenizer, {**sets, **random}, {language: lines}, progress=False))
    return log_change(pandas.concat(columns, axis=1))


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    heldout: dict[str, list[str]],
    known: list[str],
    options: argparse.Namespace,
) -> Iterator[dict[str, object]]:
    """Yields a row for every selection and known language.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        texts: {language: training texts}.
        heldout: {language: held-out texts}.
        known: the languages whose sets are deactivated.
        options: the command's.
    """
    for tokens, pack in product(options.tokens, options.packs):
        measured = pml.detect(
            model,
            tokenizer,
            texts,
            pack=pack or None,
            tokens=tokens,
            chat_template=options.chat_template,
            progress=False,
        )
        for name, rule in rules(options.fractions, options.shares).items():
            specific = measured.select(rule).specific()
            sets = {language: specific[language] for language in known}
            effects = compare_own_effects(changes(model, tokenizer, sets, heldout, options.draws))
            for language, row in effects.drop(index="mean").iterrows():
                yield {
                    "chat": options.chat_template,
                    "tokens": tokens,
                    "pack": pack,
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
    parser.add_argument("--languages", type=int, default=8, help="languages to detect (%(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8000], help="tokens a language for detection (8000)")
    parser.add_argument("--packs", type=int, nargs="+", default=[0, 128], help="0: texts are not packed (0 128)")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.2], help="(0.05 0.1 0.2)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.7, 1.0], help="(0.5 0.7 1.0)")
    parser.add_argument("--heldout", type=int, default=800, help="held-out tokens a language (%(default)s)")
    parser.add_argument("--skip", type=int, default=0, help="held-out texts to leave out before (%(default)s)")
    parser.add_argument("--draws", type=int, default=2, help="random sets for each set (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="as in from_pretrained (%(default)s)")
    parser.add_argument("--chat-template", action="store_true", help="detect in messages of the chat template")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write, after every selection")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    bits = bits_of_translations(model, tokenizer, options.parallel, languages_in(options.corpora))
    print("bits:", ", ".join(f"{language} {value:.2f}" for language, value in bits.items()), flush=True)
    languages = list(bits)[: options.languages]
    known = [language for language in languages if bits[language] <= KNOWN_BITS]
    heldout = {
        language: first_texts(lines[options.skip :], tokenizer, options.heldout)
        for language, lines in load_texts(options.corpora, tuple(languages), heldout=True).items()
    }
    texts = load_texts(options.corpora, tuple(languages), heldout=False)
    rows: list[dict[str, object]] = []
    for row in measure(model, tokenizer, texts, heldout, known, options):
        rows.append({**row, "bits": round(bits[str(row["language"])], 2)})
        if len(rows) % len(known) == 0:
            table = pandas.DataFrame(rows)
            table.to_csv(options.out, index=False)
            last = table.tail(len(known))
            working = ", ".join(f"{row.language} {row.own:.2f}" for row in last[last.works].itertuples())
            selection = f"{row['tokens']} tokens, pack {row['pack']}, {row['rule']}"
            print(f"{selection}: works for {int(last.works.sum())} of {len(known)}: {working}", flush=True)


if __name__ == "__main__":
    main()
