"""How the effect of a language's own neurons depends on how they are selected, on the embedded model.

    python benchmarks/selection_sweep.py [--out FILE.csv]

For every fraction of the neurons of a layer and site, and share of the documents: the sets selected for one language only
are switched off, and the rise of log-perplexity on held-out text is printed: the language's own, the mean of the others',
and that of as many random neurons, each for the weakest language. A setting holds where, for every language, its own rise
is at least 0.1, five times the others' mean and five times the random one's.
"""

import argparse
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path

import numpy
import pandas
import torch

import pymultiling as pml
from pymultiling import embedded
from pymultiling.data.batches import batches
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.models.probe import ImportanceProbe
from pymultiling.statistics import NeuronStatistics

FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
SHARES = (0.5, 0.7, 0.9, 1.0)
LENGTH = 128


def packed(texts: list[str], tokenizer) -> Iterator[list[int]]:
    return tokenise(texts, tokenizer, LENGTH, CorpusReport(), pack=LENGTH)


def first_texts(texts: list[str], tokenizer, tokens: int) -> list[str]:
    """The first texts that together have about so many tokens."""
    lengths = accumulate(len(ids) for ids in tokenizer(texts)["input_ids"])
    return [text for text, length in zip(texts, lengths) if length <= tokens]


def importance_by_language(model, tokenizer, documents: int) -> dict[str, dict[str, torch.Tensor]]:
    """{language: {site: (documents, layers, neurons)}}."""
    found = {}
    with ImportanceProbe(model) as probe:
        for language, texts in embedded.corpora().items():
            parts = [
                probe.measure(batch.input_ids, batch.attention_mask)
                for batch in batches(islice(packed(texts, tokenizer), documents), 2048)
            ]
            found[language] = {site: torch.cat([part[site] for part in parts]) for site in pml.SITES}
    return found


def specific_sets(found: dict, select: pml.TopK) -> dict[str, pml.NeuronSet]:
    neurons = {}
    for language, importance in found.items():
        statistics = NeuronStatistics.of_batch(importance, select.votes(importance), 0, select.rule())
        neurons[language] = select.select(statistics)
    return pml.Detection(neurons, {}).specific()


def effect(model, tokenizer, sets: dict[str, pml.NeuronSet], texts: dict[str, list[str]]) -> pandas.DataFrame:
    """Rises of log-perplexity: a row a language; columns neurons, own, others, random."""
    controls = {f"random as {language}": one.random_like(seed=0) for language, one in sets.items()}
    matrix = pml.ablation_matrix(model, tokenizer, {**sets, **controls}, texts, max_length=LENGTH, pack=LENGTH)
    rise = numpy.log(matrix) - numpy.log(matrix.loc["none"])
    rows = {
        language: {
            "neurons": len(sets[language]),
            "own": rise.loc[language, language],
            "others": rise.loc[language].drop(language).mean(),
            "random": rise.loc[f"random as {language}", language],
        }
        for language in sets
    }
    return pandas.DataFrame.from_dict(rows, orient="index")


def summary(fraction: float, share: float, table: pandas.DataFrame) -> dict:
    rest = table[["others", "random"]].clip(lower=1e-3)
    return {
        "fraction": fraction,
        "share": share,
        "neurons": f"{table.neurons.min()}-{table.neurons.max()}",
        "own, least": round(table.own.min(), 3),
        "own / others, least": round((table.own / rest.others).min(), 1),
        "own / random, least": round((table.own / rest.random).min(), 1),
        "holds for": int(((table.own >= 0.1) & (table.own >= 5 * table.others) & (table.own >= 5 * table.random)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20, help="documents a language to detect with")
    parser.add_argument("--heldout", type=int, default=16, help="held-out documents a language to evaluate on")
    parser.add_argument("--out", type=Path, help="CSV to write")
    options = parser.parse_args()
    model, tokenizer = embedded.load()
    found = importance_by_language(model, tokenizer, options.documents)
    texts = {
        language: first_texts(lines, tokenizer, options.heldout * LENGTH)
        for language, lines in embedded.heldout().items()
    }
    rows = []
    for fraction in FRACTIONS:
        for share in SHARES:
            sets = specific_sets(found, pml.TopK(fraction, fraction, share))
            rows.append(summary(fraction, share, effect(model, tokenizer, sets, texts)))
            print(pandas.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
    if options.out:
        pandas.DataFrame(rows).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
