"""What each part of the model is for (MWork)."""

from __future__ import annotations

import pymultiling as pml
from benchmarks.experiments.real_models.inputs import ENGLISH, Inputs
from benchmarks.experiments.real_models.part import Part, Tables, rows_of
from pymultiling.results.tables import setting_name

CHARACTERS = 160  # longest text to continue


def measure(inputs: Inputs) -> Tables:
    """Returns the sizes that the search for the parts tried, and the table of `mwork`."""
    model, tokenizer, sample = inputs.model, inputs.tokenizer, inputs.sample
    others = [language for language in inputs.languages if language != ENGLISH][: sample.mwork_languages]
    texts = {
        language: [text for text in inputs.heldout[language] if len(text) <= CHARACTERS][: sample.items]
        for language in (ENGLISH, *others)
    }
    task = pml.tasks.continuation(texts).judged_by("likelihood")
    sets = inputs.detection.specific()
    search = pml.mwork_search(model, tokenizer, sets, task, others[0])
    table = pml.mwork(
        model,
        tokenizer,
        sets,
        task,
        understanding=search.understanding,
        generation=search.generation,
        seeds=range(sample.draws),
        progress=False,
    )
    table.index = [setting_name(row) for _, row in table.iterrows()]
    columns = ["count", "english", "others", "d_english", "d_others", "delta", "delta_std"]
    first, last = len(search.understanding), len(search.generation)
    return {
        f"Search with {others[0]}: the first {first} layers understand, the last {last} generate": rows_of(
            search.sweep.set_index("part"), "part"
        ),
        f"English and {', '.join(others)}": rows_of(table[columns], "neurons that are off"),
    }


PART = Part(
    "What is each part of the model for?",
    "The task is to continue the first half of held-out texts; values are mean log-likelihoods of the second half, in "
    "nats a token. The neurons are those that the command `detect` selects by default for one language only. delta is "
    "the change in English minus that in the other languages.",
    measure,
)
