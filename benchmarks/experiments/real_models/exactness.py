"""How exact importance is, compared with neurons that are set to zero."""

from __future__ import annotations

from benchmarks.experiments.real_models.inputs import ENGLISH, Inputs
from benchmarks.experiments.real_models.part import Part, Tables, rounded
from benchmarks.experiments.real_selection import first_texts
from benchmarks.whole_model.real_exactness import largest_errors, load_in_both_dtypes


def measure(inputs: Inputs) -> Tables:
    """Returns one table: a row for each length, dtype and side of the padding."""
    lengths = inputs.sample.exact_lengths
    text = "\n".join(first_texts(inputs.texts[ENGLISH], inputs.tokenizer, 3 * max(lengths)))
    ids = inputs.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    models = load_in_both_dtypes(inputs.folder)
    rows = [row for length in lengths for row in largest_errors(models, ids, length, inputs.sample.neurons)]
    return {"Largest relative error": [rounded(row, 2) for row in rows]}


PART = Part(
    "How exact is importance?",
    "Neurons of the first, the middle and the last layer, spread evenly over each site, in the first tokens of the "
    "English texts. Each is set to zero in float64, and importance is measured in a batch with a document of twice the "
    "length. The error is relative to the neuron's importance; neurons below a millionth of the largest importance of "
    "their layer and site are left out.",
    measure,
)
