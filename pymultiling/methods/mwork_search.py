"""Search for the layers that understand and those that generate (MWork): arXiv 2402.18815, section 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn

from pymultiling.methods.detection import Detection
from pymultiling.methods.mwork import measured_languages, paired_metric_values
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets
from pymultiling.runtime.short_repr import short_repr
from pymultiling.tasks import Task

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

Trial: TypeAlias = tuple[str, range]  # a part of the model, and its layers


@dataclass(frozen=True)
class MWorkSearch:
    """The result of `mwork_search`.

    Attributes:
        understanding: the first layers, for `mwork`.
        generation: the last layers, for `mwork`.
        sweep: DataFrame with a row for each part and size that was tried. Columns: part, layers (their number), english
            and other (metric values), d_english and d_other (changes), delta.
    """

    understanding: range
    generation: range
    sweep: pandas.DataFrame

    def __repr__(self) -> str:
        return short_repr(self)


def mwork_search(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    detection: Detection | Mapping[str, NeuronSet],
    task: Task,
    language: str,
    *,
    english: str = "en",
    most: float = 1 / 3,
    batch_tokens: int = 4096,
) -> MWorkSearch:
    """Finds the boundaries of a model's parts by a sweep on one task in one language.

    The language's neurons are deactivated in the first n layers, and in the last n layers, for every n up to `most`
    of the layers. For each part the n with the highest delta is chosen. If several are equally high, the smallest n is.

        delta = (change of the metric value in English) - (change in the language)

    Source: arXiv 2402.18815, section 3.1.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        detection: the result of `detect`, of which the sets of `specific()` are used, or {language: NeuronSet}.
        task: the task to evaluate, by its own metric. A few dozen items are enough if small changes show in the metric.
        language: a language of the task that has neurons.
        english: the name of English among the task's languages.
        most: the largest fraction of the layers that either part may have, above 0 and at most 0.5.
        batch_tokens: the largest number of tokens in one forward, padding included.

    Returns:
        The layers of both parts and the values of the sweep.

    Raises:
        CorpusError: the task has no items in the language or in English.
        ValueError: the language has no neurons, or they are of another model; or `most` is out of its range.
        UnsupportedModel: as `pymultiling.tasks.evaluate`.
        NonFiniteActivations: as `pymultiling.tasks.evaluate`.
    """
    if not 0 < most <= 0.5:
        raise ValueError(f"most must be above 0 and at most 0.5, got {most!r}")
    sets = detection.specific() if isinstance(detection, Detection) else dict(detection)
    task = task.only((english, language))
    measured_languages(task, sets, english)  # raises where the language has no neurons
    neurons, decoder = sets[language], Decoder(model)
    check_sets(decoder, {f"the set of {language!r}": neurons})
    trials = search_trials(len(decoder.layers), most)
    trial_sets = [neurons.layers(span.start, span.stop) for _, span in trials]
    values = paired_metric_values(model, tokenizer, task, language, english, trial_sets, batch_tokens=batch_tokens)
    return search_result(trials, values)


def search_trials(layers: int, most: float = 1 / 3) -> list[Trial]:
    """Returns the parts that `mwork_search` tries in a model of this many layers: (part, its layers)."""
    sizes = range(1, max(1, int(most * layers)) + 1)
    return [
        *(("understanding", range(size)) for size in sizes),
        *(("generation", range(layers - size, layers)) for size in sizes),
    ]


def search_result(trials: Sequence[Trial], values: Tensor) -> MWorkSearch:
    """Returns the parts with the highest delta.

    Args:
        trials: those of `search_trials`.
        values: (2, 1 + trials) float64, metric values in English and in the language: without a set off, and with the
            language's neurons off in the layers of each trial.
    """
    import pandas

    changes = values - values[:, :1]
    sweep = pandas.DataFrame(
        {
            "part": [part for part, _ in trials],
            "layers": [len(span) for _, span in trials],
            "english": values[0, 1:],
            "other": values[1, 1:],
            "d_english": changes[0, 1:],
            "d_other": changes[1, 1:],
            "delta": changes[0, 1:] - changes[1, 1:],
        }
    )
    deltas = sweep["delta"].to_numpy()
    best = {
        part: max((index for index, (name, _) in enumerate(trials) if name == part), key=deltas.__getitem__)
        for part in ("understanding", "generation")
    }
    return MWorkSearch(trials[best["understanding"]][1], trials[best["generation"]][1], sweep)
