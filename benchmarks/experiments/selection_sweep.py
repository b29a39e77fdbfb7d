"""How the effect of a language's own neurons depends on how they are selected, on the embedded model.

    python -m benchmarks.experiments.selection_sweep [--out FILE.csv]

For every fraction of the neurons of a layer and site, and every share of the documents: the sets selected for one language
only are switched off, and the rise of log-perplexity on held-out text is measured. Printed are the figures of the weakest
language, and for how many languages the setting holds: its own rise at least 0.1, at least five times the mean rise of the
others, and at least five times the rise from as many random neurons.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection as demo
from pymultiling.data.batches import make_batches
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.results.tables import add_random_sets, compare_own_effects, log_change

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
SHARES = (0.5, 0.7, 1.0)


def importance_by_language(model, tokenizer, documents: int) -> dict[str, dict[str, torch.Tensor]]:
    """{language: {site: (documents, layers, neurons)}}."""
    found = {}
    with ImportanceProbe(model) as probe:
        for language, texts in demo_model.corpora().items():
            packed = tokenise(texts, tokenizer, demo.DOCUMENT_TOKENS, CorpusReport(), pack=demo.DOCUMENT_TOKENS)
            parts = [
                probe.measure(batch.input_ids, batch.attention_mask)
                for batch in make_batches(islice(packed, documents), batch_tokens=2048)
            ]
            found[language] = {site: torch.cat([part[site] for part in parts]) for site in pml.SITES}
    return found


def specific_sets(found: dict[str, dict[str, torch.Tensor]], select: pml.TopK) -> dict[str, pml.NeuronSet]:
    neurons = {}
    for language, importance in found.items():
        statistics = NeuronStatistics.of_batch(importance, select.votes(importance), 0, select.rule())
        neurons[language] = select.select(statistics)
    return pml.Detection(neurons, {}).specific()


def settings(model, tokenizer, documents: int, heldout: int) -> Iterator[dict]:
    """A row for every setting."""
    found = importance_by_language(model, tokenizer, documents)
    texts = {
        language: demo.first_texts_filling(lines, tokenizer, heldout)
        for language, lines in demo_model.heldout().items()
    }
    for fraction in FRACTIONS:
        for share in SHARES:
            sets = specific_sets(found, pml.TopK(fraction, fraction, share))
            off = add_random_sets(sets, demo.SEED)
            effect = compare_own_effects(
                log_change(pml.ablation_matrix(model, tokenizer, off, texts, pack=demo.DOCUMENT_TOKENS))
            )
            yield {"fraction": fraction, "share": share, **summary(sets, effect.drop(index="mean"))}


def summary(sets: dict[str, pml.NeuronSet], effect: pandas.DataFrame) -> dict:
    sizes = [len(neurons) for neurons in sets.values()]
    beside = effect[["others", "random"]].max(axis=1)
    return {
        "neurons a language": f"{min(sizes)} to {max(sizes)}",
        "own, least": round(float(effect["own"].min()), 3),
        "others, most": round(float(effect["others"].max()), 3),
        "random, most": round(float(effect["random"].max()), 3),
        "holds for": int(((effect["own"] >= 0.1) & (effect["own"] >= 5 * beside)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--documents", type=int, default=demo.DETECTION_DOCUMENTS, help="documents a language to detect with"
    )
    parser.add_argument("--heldout", type=int, default=demo.HELDOUT_DOCUMENTS, help="held-out documents a language")
    parser.add_argument("--out", type=Path, help="CSV to write")
    options = parser.parse_args()
    rows = []
    for row in settings(*demo_model.load(), options.documents, options.heldout):
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    table = pandas.DataFrame(rows)
    print(table.to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
