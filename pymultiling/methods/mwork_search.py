"""Where understanding ends and generation begins (MWork): arXiv 2402.18815, section 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pymultiling.methods.mwork import languages_of, paired_scores
from pymultiling.methods.plnd import Detection
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets
from pymultiling.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class MWorkSearch:
    """What `mwork_search` found.

    Attributes:
        understanding, generation: the layers, for `mwork`.
        sweep: DataFrame of all that was tried: part, layers (how many), english, other (scores), d_english, d_other, delta.
    """

    understanding: range
    generation: range
    sweep: pandas.DataFrame


def mwork_search(
    model: nn.Module,
    tokenizer,
    detection: Detection | Mapping[str, NeuronSet],
    task: Task,
    language: str,
    *,
    english: str = "en",
    most: float = 1 / 3,
    batch_tokens: int = 4096,
) -> MWorkSearch:
    """The boundaries of a model's parts, by a sweep on one task in one language.

    The language's neurons are switched off in the first n layers, and in the last n, for every n up to `most` of the layers.
    Taken is the n with the highest delta = (change in English) - (change in the language), of several the smallest.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: its tokenizer.
        detection: of `detect`, whose `specific()` neurons are taken, or {language: NeuronSet}.
        task: judges it, by its metric; a few dozen items that small changes show in.
        language: of the task, with neurons.
        english: its name among the task's languages.
        most: the share of the layers that either part may have, above 0 and at most 0.5.
        batch_tokens: tokens in one forward, padding included.

    Raises:
        ValueError: the task lacks the language or English, there are no neurons of the language, they are of another model.
        UnsupportedModel, NonFiniteActivations: as `tasks.evaluate`.
    """
    import pandas

    if not 0 < most <= 0.5:
        raise ValueError(f"most must be above 0 and at most 0.5, got {most!r}")
    sets = detection.specific() if isinstance(detection, Detection) else dict(detection)
    task = task.only((english, language))
    languages_of(task, sets, english)
    neurons, decoder = sets[language], Decoder(model)
    check_sets(decoder, {f"the set of {language!r}": neurons})
    layers = len(decoder.layers)
    sizes = range(1, max(1, int(most * layers)) + 1)
    tried = [("understanding", range(n)) for n in sizes] + [("generation", range(layers - n, layers)) for n in sizes]
    off = [neurons.layers(span.start, span.stop) for _, span in tried]
    found = paired_scores(model, tokenizer, task, language, english, off, batch_tokens=batch_tokens)
    changes = found - found[:, :1]
    sweep = pandas.DataFrame(
        {
            "part": [part for part, _ in tried],
            "layers": [len(span) for _, span in tried],
            "english": found[0, 1:],
            "other": found[1, 1:],
            "d_english": changes[0, 1:],
            "d_other": changes[1, 1:],
            "delta": changes[0, 1:] - changes[1, 1:],
        }
    )
    best = {part: tried[rows["delta"].idxmax()][1] for part, rows in sweep.groupby("part")}
    return MWorkSearch(best["understanding"], best["generation"], sweep)
