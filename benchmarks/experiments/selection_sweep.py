"""Measures how the effect of deactivating a language's neurons depends on their selection, with the demo model.

    python -m benchmarks.experiments.selection_sweep [--out FILE.csv]

A setting is a fraction of the neurons of a layer and site, and a fraction of the documents ("share"). For every setting
the neurons that are selected for one language only are deactivated, and the increase of the log-perplexity on held-out
text is measured. The setting works for a language if the increase for the language itself is at least 0.1, at least
five times the mean increase for the other languages, and at least five times the increase that as many random neurons
cause. The table has, over all languages, the smallest increase for the language itself, the largest mean increase for
the other languages, and the largest increase by random neurons, which may come from different languages. The column
"holds for" has the number of languages for which the setting works.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection
from pymultiling.data.batches import make_batches
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.methods.random_sets import add_random_sets
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.results.tables import compare_own_effects, log_change

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
SHARES = (0.5, 0.7, 1.0)


def importance_by_language(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: int
) -> dict[str, dict[str, torch.Tensor]]:
    """Returns {language: {site: (documents, layers, neurons)}}, the importance in at most `documents` documents."""
    importance: dict[str, dict[str, torch.Tensor]] = {}
    with ImportanceProbe(model) as probe:
        for language, texts in demo_model.corpora().items():
            packed = tokenise(
                texts, tokenizer, demo_detection.DOCUMENT_TOKENS, CorpusReport(), pack=demo_detection.DOCUMENT_TOKENS
            )
            parts = [
                probe.measure(batch.input_ids, batch.attention_mask)
                for batch in make_batches(islice(packed, documents), batch_tokens=2048)
            ]
            importance[language] = {site: torch.cat([part[site] for part in parts]) for site in pml.SITES}
    return importance


def select_specific_sets(
    importance_of: dict[str, dict[str, torch.Tensor]], select: pml.TopK
) -> dict[str, pml.NeuronSet]:
    """Returns the neurons that are selected for one language only, by language."""
    neurons: dict[str, pml.NeuronSet] = {}
    for language, importance in importance_of.items():
        statistics = NeuronStatistics.of_batch(importance, select.votes(importance), 0, select.rule())
        neurons[language] = select.select(statistics)
    return pml.Detection(neurons, {}).specific()


def measure_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: int, heldout: int
) -> Iterator[dict[str, object]]:
    """Yields a row of the table for every setting.

    Args:
        model: the demo model.
        tokenizer: its tokenizer.
        documents: documents per language for detection.
        heldout: held-out documents per language for the perplexities.
    """
    importance = importance_by_language(model, tokenizer, documents)
    texts = {
        language: demo_detection.first_texts_filling(lines, tokenizer, heldout)
        for language, lines in demo_model.heldout().items()
    }
    for fraction in FRACTIONS:
        for share in SHARES:
            sets = select_specific_sets(importance, pml.TopK(fraction, fraction, share))
            deactivated = add_random_sets(sets, 1, demo_detection.SEED)
            effect = compare_own_effects(
                log_change(
                    pml.ablation_matrix(model, tokenizer, deactivated, texts, pack=demo_detection.DOCUMENT_TOKENS)
                )
            )
            yield {"fraction": fraction, "share": share, **summarise(sets, effect.drop(index="mean"))}


def summarise(sets: dict[str, pml.NeuronSet], effect: pandas.DataFrame) -> dict[str, object]:
    """Returns the measured columns of a setting's row.

    Args:
        sets: the neurons of each language.
        effect: the increases of log-perplexity, with a row for each language: the increase for the language itself
            ("own"), the mean increase for the other languages ("others"), and the increase for the language itself by
            random neurons ("random").
    """
    sizes = [len(neurons) for neurons in sets.values()]
    comparison = effect[["others", "random"]].max(axis=1)
    return {
        "neurons a language": f"{min(sizes)} to {max(sizes)}",
        "own, least": round(float(effect["own"].min()), 3),
        "others, most": round(float(effect["others"].max()), 3),
        "random, most": round(float(effect["random"].max()), 3),
        "holds for": int(((effect["own"] >= 0.1) & (effect["own"] >= 5 * comparison)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--documents",
        type=int,
        default=demo_detection.DETECTION_DOCUMENTS,
        help="documents per language for detection (%(default)s)",
    )
    parser.add_argument(
        "--heldout",
        type=int,
        default=demo_detection.HELDOUT_DOCUMENTS,
        help="held-out documents per language (%(default)s)",
    )
    parser.add_argument("--out", type=Path, help="CSV file to write")
    options = parser.parse_args()
    rows = []
    for row in measure_settings(*demo_model.load(), options.documents, options.heldout):
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    table = pandas.DataFrame(rows)
    print(table.to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
