"""What each part of a model is for (MWork): arXiv 2402.18815, sections 3.2 to 3.6.

A model is parted in depth and by structure: the layers that understand (the first ones), those that solve the task, whose
attention and FFNs are two parts, and those that generate (the last ones). A language's neurons are switched off in one part,
or in all but one, or as many random neurons are; a part serves the other languages where they fall and English stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor, nn

from pymultiling.methods.plnd import Detection
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets
from pymultiling.runtime.progress import show_progress
from pymultiling.tasks import Task
from pymultiling.tasks.evaluate import metric_values

if TYPE_CHECKING:
    import pandas

PARTS = ("understanding", "attention", "ffn", "generation")
OWN, IN_LAYERS, ANYWHERE = "own", "random in layers", "random anywhere"
ATTENTION = ("q", "k", "v", "o")


def parts(neurons: NeuronSet, understanding: range | int, generation: range | int) -> dict[str, NeuronSet]:
    """The members in each part: {"understanding", "attention", "ffn", "generation": NeuronSet}.

    attention and ffn are those of the layers between understanding and generation. A number n is the first or the last n layers.

    Raises:
        ValueError: the layers are not the first and the last ones of the model, or overlap.
    """
    layers = next(iter(neurons.sites.values())).shape[0]
    understanding = range(understanding) if isinstance(understanding, int) else understanding
    generation = range(layers - generation, layers) if isinstance(generation, int) else generation
    start, stop = len(understanding), layers - len(generation)
    if list(understanding) != list(range(start)) or list(generation) != list(range(stop, layers)) or start > stop:
        raise ValueError(
            f"understanding must be the first of the {layers} layers and generation the last, apart from each other: "
            f"got {understanding} and {generation}"
        )
    between = neurons.layers(start, stop)
    return {
        "understanding": neurons.layers(0, start),
        "attention": between.only(*ATTENTION),
        "ffn": between.only("ffn"),
        "generation": neurons.layers(stop, layers),
    }


@dataclass(frozen=True)
class Setting:
    """A row of the table: the parts in which neurons are off, and which neurons: OWN, IN_LAYERS or ANYWHERE."""

    off: tuple[str, ...]
    neurons: str

    def sets(self, of_parts: Mapping[str, NeuronSet], seeds: Sequence[int]) -> list[NeuronSet]:
        """One set, or one for each seed."""
        own = of_parts[self.off[0]]
        for name in self.off[1:]:
            own = own | of_parts[name]
        if self.neurons == OWN:
            return [own]
        return [own.random_like(seed, anywhere=self.neurons == ANYWHERE) for seed in seeds]


# Each part alone, all but each, and all; for each part alone, and for all, as many random neurons.
SETTINGS = (
    *(Setting((part,), kind) for part in PARTS for kind in (ANYWHERE, IN_LAYERS, OWN)),
    *(Setting(tuple(other for other in PARTS if other != part), OWN) for part in PARTS),
    *(Setting(PARTS, kind) for kind in (ANYWHERE, OWN)),
)


def mwork(
    model: nn.Module,
    tokenizer,
    detection: Detection | Mapping[str, NeuronSet],
    tasks: Task | Iterable[Task],
    *,
    understanding: range | int,
    generation: range | int,
    english: str = "en",
    settings: Sequence[Setting] = SETTINGS,
    seeds: Sequence[int] = (0, 1, 2),
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> pandas.DataFrame:
    """Scores of tasks with each part of the model without a language's neurons, as in the paper's tables 2 to 5.

    Every other language of a task is measured with its own neurons off, and so is English, under the same set:

        delta = (mean change in English) - (mean change in the others),    change = score with neurons off - score with none

    high where English stays and the others fall. All sets share batches.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: its tokenizer.
        detection: of `detect`, whose `specific()` neurons are taken, or {language: NeuronSet}.
        tasks: of `pymultiling.tasks`. Their languages that have neurons are measured.
        understanding: the first layers, range(0, n) or n; generation: the last, range(m, layers) or how many. `mwork_search`
            finds them.
        english: its name among the task's languages.
        settings: the rows.
        seeds: of the random sets; their figures are means over the seeds.
        scale, mean: what becomes of the neurons, as in `deactivate`; by default they are zero.
        batch_tokens: tokens in one forward, padding included.
        progress: show it on stderr.

    Returns:
        DataFrame: task, metric; understanding, attention, ffn, generation (True where the part is as it was); neurons (OWN,
        IN_LAYERS, ANYWHERE, or "none" in the first row of a task); count of neurons (mean over the languages); english,
        others (scores); d_english, d_others (changes); delta; delta_std over the seeds (random neurons, two seeds or more).

    Raises:
        ValueError: the parts are no parts of the model, a task lacks English or any other language with neurons, a set is of
            another model.
        UnsupportedModel, NonFiniteActivations: as `tasks.evaluate`.
    """
    import pandas

    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    if not seeds and any(setting.neurons != OWN for setting in settings):
        raise ValueError("random neurons need a seed at least")
    sets = detection.specific() if isinstance(detection, Detection) else dict(detection)
    languages = [languages_of(task, sets, english) for task in tasks]
    used = dict.fromkeys(chain.from_iterable(languages))
    check_sets(Decoder(model), {f"the set of {language!r}": sets[language] for language in used})
    drawn = {}
    for language in used:
        of_parts = parts(sets[language], understanding, generation)
        drawn[language] = [setting.sets(of_parts, seeds) for setting in settings]
    rows = []
    with show_progress("mwork", "languages x tasks", progress, sum(map(len, languages))) as bar:
        for task, of_task in zip(tasks, languages):
            found = []
            for language in of_task:
                off = list(chain.from_iterable(drawn[language]))
                pair = (model, tokenizer, task, language, english)
                found.append(paired_scores(*pair, off, scale=scale, mean=mean, batch_tokens=batch_tokens))
                bar.update()
            counts = [[len(one[0]) for one in drawn[language]] for language in of_task]
            rows += _rows(task, settings, torch.stack(found).mean(0), numpy.mean(counts, axis=0), seeds)
    return pandas.DataFrame(rows)


def languages_of(task: Task, sets: Mapping[str, NeuronSet], english: str) -> list[str]:
    """The task's languages that have neurons, English apart; ValueError where there are none, or no English."""
    languages = [language for language in task.items if language in sets and language != english]
    if english not in task.items or not languages:
        raise ValueError(
            f"task {task.name} is in {', '.join(task.items)}, neurons are those of {', '.join(sets)}: looked for "
            f"{english!r} in the task, and for a language in both"
        )
    return languages


def paired_scores(
    model, tokenizer, task: Task, language: str, english: str, sets: Sequence[NeuronSet], **options
) -> Tensor:
    """(2, 1 + sets) float64: mean scores of English and of the language, with nothing off and with every set off."""
    return torch.stack(
        [metric_values(model, tokenizer, task, one, [None, *sets], **options).mean(0) for one in (english, language)]
    )


def _rows(
    task: Task, settings: Sequence[Setting], found: Tensor, counts: Sequence[float], seeds: Sequence[int]
) -> list[dict]:
    """found: (2, 1 + sets), English and the mean of the others."""

    def row(off: Sequence[str], neurons: str, count: float, of_seeds: Tensor) -> dict:
        english, others = of_seeds.mean(1).tolist()
        d_english, d_others = (of_seeds - found[:, :1]).mean(1).tolist()
        delta = of_seeds[0] - of_seeds[1] - (found[0, 0] - found[1, 0])
        return {
            "task": task.name,
            "metric": task.metric,
            **{part: part not in off for part in PARTS},
            "neurons": neurons,
            "count": float(count),
            "english": english,
            "others": others,
            "d_english": d_english,
            "d_others": d_others,
            "delta": delta.mean().item(),
            "delta_std": delta.std().item() if len(delta) > 1 else math.nan,
        }

    sizes = [1 if setting.neurons == OWN else len(seeds) for setting in settings]
    of_settings = found[:, 1:].split(sizes, 1)
    return [row((), "none", 0, found[:, :1])] + [
        row(setting.off, setting.neurons, count, of_seeds)
        for setting, count, of_seeds in zip(settings, counts, of_settings)
    ]
