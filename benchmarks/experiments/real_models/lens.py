"""The languages that the layers decode to."""

from __future__ import annotations

import pandas

import pymultiling as pml
from benchmarks.experiments.real_models.inputs import ENGLISH, Inputs
from benchmarks.experiments.real_models.part import Part, Tables, rows_of
from pymultiling.data.languages import match_language
from pymultiling.methods.lens import OTHER, lens_language_codes


def measure(inputs: Inputs) -> Tables:
    """Returns the shares of the text's own language, of English, and of tokens that are of no language."""
    all_codes = lens_language_codes()
    codes = {language: match_language(language, all_codes) for language in inputs.languages}
    known = {language: code for language, code in codes.items() if code is not None}
    shares = {}
    for language in known:
        table = pml.lens(
            inputs.model,
            inputs.tokenizer,
            inputs.heldout[language],
            languages=list(known.values()),
            tokens=inputs.sample.lens_tokens,
            progress=False,
        )
        shares[language] = table.pivot(index="layer", columns="language", values="share")
    columns = {"The text's own language": known, "English": dict.fromkeys(known, known[ENGLISH])}
    columns["No language"] = dict.fromkeys(known, OTHER)
    return {
        title: rows_of(pandas.DataFrame({text: shares[text][code] for text, code in shown.items()}), "layer")
        for title, shown in columns.items()
    }


PART = Part(
    "Which languages do the layers decode to?",
    "Shares of the ten most probable tokens of each position in held-out texts of each language (columns). `lens` "
    "estimates them among these languages. Numbers, punctuation and pieces of characters are of no language. "
    "Layer 0 is the input of the first layer.",
    measure,
)
