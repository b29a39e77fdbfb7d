"""Measures how much text detection needs, by comparing the sets of neurons that two disjoint samples give.

    python -m benchmarks.experiments.text_needed --model DIR --corpora FOLDER --languages de fr zh --out FILE.csv

For each number n, the neurons that are specific to each language are detected twice, from two samples of n documents
that have no document in common. The table shows the Jaccard index of the two sets (intersection over union) and their
size, as means over the languages. Without --model the demo model and its texts are used.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.experiments.tuning import load_texts
from pymultiling import demo_model
from pymultiling.data.batches import make_batches
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise

SIZES = (10, 20, 50, 100, 200, 400)


def statistics_by_document_count(
    model: nn.Module, documents: Iterator[list[int]], sizes: list[int], select: pml.TopK
) -> dict[int, pml.NeuronStatistics]:
    """Returns the statistics of the first n documents for every n in `sizes`.

    Args:
        model: the model to measure.
        documents: the documents. max(sizes) of them are taken from the iterator.
        sizes: numbers of documents, in ascending order.
        select: the rule of selection.

    Returns:
        {n: statistics}.

    Raises:
        SystemExit: if there are too few documents.
    """
    totals: dict[int, pml.NeuronStatistics] = {}
    total: pml.NeuronStatistics | None = None
    for start, size in itertools.pairwise([0, *sizes]):
        for batch in make_batches(itertools.islice(documents, size - start), batch_tokens=2048):
            importance = pml.importance(model, batch.input_ids, batch.attention_mask)
            statistics = pml.NeuronStatistics.of_batch(
                importance, select.votes(importance), batch.tokens, select.rule()
            )
            total = statistics if total is None else total + statistics
        if total is None or total.documents < size:
            raise SystemExit(f"the corpus has fewer than {size} documents in a sample: give a smaller --documents")
        totals[size] = total
    return totals


def compare_samples(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    sizes: list[int],
    length: int,
    select: pml.TopK,
) -> pandas.DataFrame:
    """Compares the sets of two samples for every number of documents.

    Args:
        model: the model to measure.
        tokenizer: the model's tokenizer.
        texts: {language: texts}.
        sizes: numbers of documents of a sample, in ascending order.
        length: tokens of a document.
        select: the rule of selection.

    Returns:
        A row for every number of documents, with means over the languages: tokens of a sample, neurons in a set, and
        the Jaccard index of the two sets. The last column is the smallest Jaccard index of a language.
    """
    samples: list[dict[str, dict[int, pml.NeuronStatistics]]] = [{}, {}]
    for language, lines in texts.items():
        documents = iter(tokenise(lines, tokenizer, length, CorpusReport(), pack=length))
        for sample in samples:
            sample[language] = statistics_by_document_count(model, documents, sizes, select)
    rows = []
    for size in sizes:
        first, second = (
            pml.Detection(
                {language: select.select(by_size[size]) for language, by_size in sample.items()}, {}
            ).specific()
            for sample in samples
        )
        overlaps = [pml.overlap({"first": first[language], "second": second[language]}) for language in texts]
        similarities = [float(overlap.jaccard.loc["first", "second"]) for overlap in overlaps]
        rows.append(
            {
                "documents": size,
                "tokens a language": round(sum(s[size].tokens for s in samples[0].values()) / len(texts)),
                "neurons in a set": round(sum(map(len, first.values())) / len(first)),
                "Jaccard of two samples": round(sum(similarities) / len(texts), 3),
                "least of a language": round(min(similarities), 3),
            }
        )
    return pandas.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the demo model and its texts)")
    parser.add_argument("--corpora", type=Path, help="folder with a LANGUAGE.txt.gz for each language, for --model")
    parser.add_argument("--languages", nargs="+", help="languages to read from --corpora, for --model")
    parser.add_argument("--documents", type=int, default=max(SIZES), help="largest number of documents (%(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a document (%(default)s)")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    options = parser.parse_args()
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        texts = load_texts(options.corpora, tuple(options.languages), heldout=False)
    else:
        model, tokenizer = demo_model.load()
        texts = demo_model.corpora()
    sizes = [size for size in SIZES if size <= options.documents]
    select = pml.TopK()
    table = compare_samples(model, tokenizer, texts, sizes, options.length, select)
    print(table.to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
