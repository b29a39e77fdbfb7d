"""Measures at which learning rates training a language's neurons helps that language.

    python -m benchmarks.experiments.tuning_rates --models DIR DIR --corpora FOLDER --out tuning-rates.csv

For each model the language-specific neurons are detected, and trained from the original weights at each rate. A row of
the table has the change of the log-perplexity of held-out texts, in nats per token: of the trained language and, on
average, of the others. FOLDER contains LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz for each language.
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy
import pandas
from transformers import AutoModelForCausalLM, AutoTokenizer

import pymultiling as pml
from pymultiling.data.corpora import CorpusReport, read_texts

PACK = 128  # tokens of a document


def measure(path: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    """Returns the rows of a model."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    training = {language: _read(args.corpora / f"{language}.txt.gz", args.texts) for language in args.languages}
    heldout = {language: _read(args.corpora / f"{language}.heldout.txt.gz", args.heldout) for language in training}
    detection = pml.detect(model, tokenizer, training, pack=PACK, progress=False)
    neurons = detection.specific()
    before = _log_perplexities(model, tokenizer, heldout)
    rows: list[dict[str, object]] = []
    for language in args.train:
        for rate in args.rates:
            with pml.train_only(model, neurons[language]):
                pml.fine_tune(
                    model,
                    tokenizer,
                    training[language],
                    rate=rate,
                    documents=args.documents,
                    pack=PACK,
                    progress=False,
                )
                change = _log_perplexities(model, tokenizer, heldout) - before
            row = {
                "model": path.name,
                "language": language,
                "neurons": len(neurons[language]),
                "rate": rate,
                "itself": round(float(change[language]), 4),
                "others": round(float(change.drop(language).mean()), 4),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def _read(path: Path, count: int) -> list[str]:
    return list(islice(read_texts(path, CorpusReport()), count))


def _log_perplexities(
    model: AutoModelForCausalLM, tokenizer: AutoTokenizer, texts: dict[str, list[str]]
) -> pandas.Series:
    values = {
        language: numpy.log(pml.perplexity(model, tokenizer, lines, progress=False))
        for language, lines in texts.items()
    }
    return pandas.Series(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders that save_pretrained wrote")
    parser.add_argument("--corpora", type=Path, metavar="FOLDER", required=True, help="folder with the texts")
    parser.add_argument("--languages", nargs="+", default=["de", "en", "fr", "zh"], help="languages to detect")
    parser.add_argument("--train", nargs="+", default=["de", "zh"], help="languages to train")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-4, 1e-4], help="learning rates")
    parser.add_argument("--texts", type=int, default=400, help="texts per language to detect with (%(default)s)")
    parser.add_argument("--documents", type=int, default=64, help="documents of 128 tokens to train on (%(default)s)")
    parser.add_argument("--heldout", type=int, default=60, help="held-out texts per language (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table as CSV (default: only print)")
    args = parser.parse_args()
    rows = [row for path in args.models for row in measure(path, args)]
    if args.out:
        pandas.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
