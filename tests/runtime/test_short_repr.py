"""The repr of every result fits on a screen."""

import dataclasses
import inspect

import numpy
import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.runtime.short_repr import describe
from tests.public_face.public_names import public_objects

SCREEN = 24 * 80  # characters
LINES = [f"line {number}" for number in range(10_000)]
LARGE = {
    "tensor": torch.rand(200, 300),
    "array": numpy.zeros((200, 300)),
    "table": pandas.DataFrame(numpy.zeros((200, 300))),
    "mapping": {f"language {number}": torch.rand(200, 300) for number in range(100)},
    "lists": {f"language {number}": LINES for number in range(100)},
    "list": LINES,
    "tuple": tuple(LINES),
    "text": "\n".join(LINES),
}
RESULTS = {
    name: value
    for name, value in public_objects().items()
    if inspect.isclass(value) and (dataclasses.is_dataclass(value) or hasattr(value, "_fields"))
}
OWN = (pml.NeuronStatistics, pml.ActivationStatistics)  # their text needs real fields; tested below


def with_fields(cls: type, value: object) -> object:
    """Makes an object whose fields all have this value, without the checks of its constructor."""
    if hasattr(cls, "_fields"):
        return cls(*[value] * len(cls._fields))
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, value)
    return made


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("name", [name for name, cls in RESULTS.items() if cls not in OWN])
def test_no_result_fills_a_screen_whatever_it_holds(name, kind):
    cls = RESULTS[name]
    if cls in (pml.TopK, pml.TopMean, pml.Threshold, pml.TextFile, pml.Family):
        pytest.skip("its fields are numbers and short names")
    text = repr(with_fields(cls, LARGE[kind]))
    assert text.startswith(cls.__name__) and len(text) < SCREEN and "\n" not in text, text[:SCREEN]


def test_rules_and_families_fit_on_a_screen():
    from pymultiling.models.families import FAMILIES

    for value in (pml.TopK(), pml.TopMean(), pml.Threshold(1e-3), pml.TextFile("a.txt", "utf-16"), *FAMILIES.values()):
        assert len(repr(value)) < SCREEN


def test_statistics_say_of_what_they_are():
    rule = pml.TopK(0.1, 0.1)
    values = {"ffn": torch.rand(3, 2, 7), "q": torch.rand(3, 2, 4)}
    statistics = pml.NeuronStatistics.of_counts(values, *rule.count(values), 1234, rule.rule())
    assert repr(statistics) == (
        "NeuronStatistics(3 documents, 1,234 tokens; ffn 2 x 7, q 2 x 4; top-k, ffn 0.1, attention 0.1)"
    )
    assert repr(dataclasses.replace(statistics, top={})).endswith("attention 0.1; without top)")
    counts = pml.ActivationStatistics(torch.ones(2, 7000, dtype=torch.int64), 1234)
    assert repr(counts) == "ActivationStatistics(1,234 positions; 2 layers x 7,000 neurons)"
    detection = pml.Detection({"fr": rule.select(statistics)}, {"fr": statistics})
    assert "'fr': NeuronSet(" in repr(detection) and "'fr': NeuronStatistics(3 documents" in repr(detection)


def test_results_that_are_mappings_show_the_first_entries():
    from pymultiling.methods.activations import Activations
    from pymultiling.methods.embeddings import SentenceEmbeddings

    counts, embeddings = Activations(), SentenceEmbeddings()
    for number in range(100):
        counts[f"l{number}"] = pml.ActivationStatistics(torch.ones(2, 7, dtype=torch.int64), 5)
        embeddings[f"l{number}"] = torch.rand(3, 2, 7)
    assert repr(counts).startswith("Activations({'l0': ActivationStatistics(5 positions") and len(repr(counts)) < SCREEN
    assert repr(embeddings).startswith("SentenceEmbeddings({'l0': float32 (3, 2, 7), 'l1'")
    assert repr(embeddings).endswith(", 96 more})")


def test_fields_are_described_by_type_and_shape_or_first_items():
    assert describe(torch.zeros(2, 3, dtype=torch.int64)) == "int64 (2, 3)"
    assert describe(pandas.DataFrame({"a": [1, 2]})) == "DataFrame (2, 1)"
    assert describe([1, 2]) == "[1, 2]" and describe((1,) * 9) == "(1, 1, 1, 1, 5 more)"
    assert describe({"a": [1] * 9, "b": None}) == "{'a': 9 items, 'b': None}"
    assert describe("x" * 500) == "'" + "x" * 156 + "..."
