"""How close the fast estimate of q and k is to the exact importance."""

from __future__ import annotations

from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Part, Tables, rounded
from benchmarks.whole_model.fast_mode import compare, recorded_arguments


def measure(inputs: Inputs) -> Tables:
    """Returns one table: a row for each length and site."""
    rows = []
    for length in inputs.sample.fast_lengths:
        arguments = recorded_arguments(inputs.model, inputs.tokenizer, inputs.texts, length, inputs.sample.documents)
        rows += [rounded(row) for row in compare(f"{length} tokens", arguments)]
    return {'`qk="fast"` and exact': rows}


PART = Part(
    'How close is `qk="fast"` to the exact importance?',
    "Packed documents of all languages, in float32. The rank correlation is Spearman's over the neurons of a site, "
    "layer and document: the least, the 1st percentile and the median. The error is relative, of the half of the "
    "neurons with the larger importance. Within 2 spreads is the fraction of all neurons; Jaccard compares the top 5%.",
    measure,
)
