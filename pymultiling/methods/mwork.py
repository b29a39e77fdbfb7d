"""What each part of a model contributes to tasks (MWork): arXiv 2402.18815, sections 3.2 to 3.6.

The model is divided into four parts, by depth and by module: understanding (the first layers), attention and ffn (the
two kinds of module in the task-solving layers between), and generation (the last layers). The neurons of a language are
deactivated in one part, in all parts but one, or in all parts. For comparison, as many random neurons are deactivated.
A part matters for other languages if their metric values fall while those of English stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy
import torch
from torch import Tensor, nn

from pymultiling.methods.detection import Detection
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.widths import Widths
from pymultiling.probes.masking import check_sets
from pymultiling.runtime.progress import show_progress
from pymultiling.runtime.suggestions import did_you_mean
from pymultiling.tasks import Task
from pymultiling.tasks.evaluate import metric_values

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

Part: TypeAlias = Literal["understanding", "attention", "ffn", "generation"]
NeuronChoice: TypeAlias = Literal["own", "random in layers", "random anywhere"]

PARTS: tuple[Part, ...] = get_args(Part)
OWN: Final = "own"
IN_LAYERS: Final = "random in layers"
ANYWHERE: Final = "random anywhere"


def parts(neurons: NeuronSet, understanding: range | int, generation: range | int) -> dict[Part, NeuronSet]:
    """Divides the members of a set by the parts of the model.

    Args:
        neurons: the set.
        understanding: the first layers of the model, range(0, n) or n.
        generation: the last layers of the model, range(m, layers) or their number.

    Returns:
        {part: the members in this part}. "attention" and "ffn" have those of the layers in between.

    Raises:
        ValueError: the layers are not the first and the last ones of the model, or overlap.
    """
    layers = next(iter(neurons.sites.values())).shape[0]
    understanding = range(understanding) if isinstance(understanding, int) else understanding
    generation = range(layers - generation, layers) if isinstance(generation, int) else generation
    start, stop = len(understanding), layers - len(generation)
    if list(understanding) != list(range(start)) or list(generation) != list(range(stop, layers)) or start > stop:
        raise ValueError(
            f"understanding must be the first of the {layers} layers and generation the last, without overlap: "
            f"got {understanding} and {generation}"
        )
    between = neurons.layers(start, stop)
    return {
        "understanding": neurons.layers(0, start),
        "attention": between.only("q", "k", "v", "o"),
        "ffn": between.only("ffn"),
        "generation": neurons.layers(stop, layers),
    }


@dataclass(frozen=True)
class Setting:
    """A row of the table of `mwork`.

    Attributes:
        off: the parts in which neurons are deactivated; at least one.
        neurons: which neurons: OWN, those of the language; IN_LAYERS, as many random ones at every site of every layer;
            ANYWHERE, as many random ones at every site, in any layers.
    """

    off: tuple[Part, ...]
    neurons: NeuronChoice

    def sets(
        self,
        neurons_by_part: Mapping[Part, NeuronSet],
        seeds: Sequence[int],
        widths: Widths | None = None,
    ) -> list[NeuronSet]:
        """Returns the sets to deactivate.

        Args:
            neurons_by_part: the neurons of the language in each part, as `parts` returns them.
            seeds: seeds of random sets.
            widths: as in `NeuronSet.random_like`.

        Returns:
            One set for OWN, one for each seed otherwise.
        """
        language_neurons = neurons_by_part[self.off[0]]
        for part in self.off[1:]:
            language_neurons = language_neurons | neurons_by_part[part]
        if self.neurons == OWN:
            return [language_neurons]
        anywhere = self.neurons == ANYWHERE
        return [language_neurons.random_like(seed, anywhere, widths) for seed in seeds]


# The neurons of the language in each part alone, in all parts but one, and in all parts. As many random neurons are
# measured for each part alone and for all parts.
SETTINGS: tuple[Setting, ...] = (
    *(Setting((part,), choice) for part in PARTS for choice in (ANYWHERE, IN_LAYERS, OWN)),
    *(Setting(tuple(other for other in PARTS if other != part), OWN) for part in PARTS),
    *(Setting(PARTS, choice) for choice in (ANYWHERE, OWN)),
)


def mwork(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
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
    progress: bool = True,
) -> pandas.DataFrame:
    """Evaluates tasks with a language's neurons deactivated in each part of the model.

    Every language of a task but English is evaluated with its own neurons off, and English is evaluated with the same
    neurons off:

        delta = (mean change in English) - (mean change in the other languages)
        change = metric value with neurons off - metric value of the model as it is

    delta is high where the value of English stays and those of the other languages fall. A batch carries several sets.

    Source: arXiv 2402.18815, sections 3.2 to 3.6, tables 2 to 5.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        detection: the result of `detect`, of which the sets of `specific()` are used, or {language: NeuronSet}.
        tasks: one or several tasks of `pymultiling.tasks`. The languages of a task that have neurons are evaluated.
        understanding: the first layers of the model, range(0, n) or n. `mwork_search` finds them.
        generation: the last layers of the model, range(m, layers) or their number. `mwork_search` finds them.
        english: the name of English among the languages of the tasks.
        settings: the rows of the table: in which parts which neurons are off.
        seeds: seeds of the random sets. Values of random sets are means over the seeds.
        scale: as in `deactivate`: the activations of the neurons are multiplied by it. 0 deactivates them.
        mean: as in `deactivate`: {site: (layers, neurons)}, values that the activations are set to. None: they are
            scaled.
        batch_tokens: the largest number of tokens in one forward, padding included.
        progress: show progress on stderr.

    Returns:
        DataFrame with a row for each task and setting, and before those of a task a row for the model as it is.
        Columns: task, metric: the names;
        understanding, attention, ffn, generation: True if the part is as it was, False if neurons in it are off;
        neurons: "own", "random in layers" or "random anywhere"; "none" in the first row of a task;
        count: number of neurons that are off, mean over the languages;
        english, others: metric value in English, and its mean over the other languages;
        d_english, d_others: their changes;
        delta: see above;
        delta_std: standard deviation of delta over the seeds, NaN unless the neurons are random with two seeds or more.

    Raises:
        ValueError: `understanding` and `generation` are not parts of the model; a task lacks English, or a language
            with neurons; a set is of another model; or there is no seed for random neurons.
        UnsupportedModel: as `pymultiling.tasks.evaluate`.
        NonFiniteActivations: as `pymultiling.tasks.evaluate`.
    """
    import pandas

    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    if not seeds and any(setting.neurons != OWN for setting in settings):
        raise ValueError("random neurons need at least one seed: give seeds")
    sets = detection.specific() if isinstance(detection, Detection) else dict(detection)
    languages_by_task = [measured_languages(task, sets, english) for task in tasks]
    all_languages = dict.fromkeys(chain.from_iterable(languages_by_task))
    decoder = Decoder(model)
    check_sets(decoder, {f"the set of {language!r}": sets[language] for language in all_languages})
    sets_by_setting: dict[str, list[list[NeuronSet]]] = {}
    for language in all_languages:
        neurons_by_part = parts(sets[language], understanding, generation)
        sets_by_setting[language] = [
            setting.sets(neurons_by_part, seeds, decoder.layer_widths()) for setting in settings
        ]
    rows = []
    with show_progress("mwork", "languages x tasks", progress, sum(map(len, languages_by_task))) as bar:
        for task, task_languages in zip(tasks, languages_by_task):
            values = []
            for language in task_languages:
                language_values = paired_metric_values(
                    model,
                    tokenizer,
                    task,
                    language,
                    english,
                    list(chain.from_iterable(sets_by_setting[language])),
                    scale=scale,
                    mean=mean,
                    batch_tokens=batch_tokens,
                )
                values.append(language_values)
                bar.update()
            counts = [[len(setting_sets[0]) for setting_sets in sets_by_setting[name]] for name in task_languages]
            mean_counts = numpy.mean(counts, axis=0).tolist()
            rows += setting_rows(task, settings, torch.stack(values).mean(0), mean_counts, seeds)
    return pandas.DataFrame(rows)


def measured_languages(task: Task, sets: Mapping[str, NeuronSet], english: str) -> list[str]:
    """Returns the task's languages, other than English, that have neurons.

    Raises:
        ValueError: there is none, or the task lacks English.
    """
    languages = [language for language in task.items if language in sets and language != english]
    if english not in task.items or not languages:
        suggestion = "" if english in task.items else did_you_mean(english, task.items)
        raise ValueError(
            f"task {task.name} is in {', '.join(task.items)}, neurons are those of {', '.join(sets)}: needed are "
            f"{english!r} in the task, and a language in both{suggestion}"
        )
    return languages


def paired_metric_values(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    language: str,
    english: str,
    sets: Sequence[NeuronSet],
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
) -> Tensor:
    """Evaluates a task in English and in another language, without and with each set.

    Returns:
        (2, 1 + sets) float64: metric values, mean over the items. Row 0 is English, row 1 the language. Column 0 is the
        model as it is, column 1 + i has set i off.
    """
    values = [
        metric_values(
            model, tokenizer, task, name, [None, *sets], scale=scale, mean=mean, batch_tokens=batch_tokens
        ).mean(0)
        for name in (english, language)
    ]
    return torch.stack(values)


def setting_rows(
    task: Task, settings: Sequence[Setting], values: Tensor, counts: Sequence[float], seeds: Sequence[int]
) -> list[dict[str, object]]:
    """Makes the rows of a task in the table of `mwork`.

    Args:
        task: the task.
        settings: as in `mwork`.
        values: (2, 1 + sets) float64, metric values in English and their mean over the other languages. Column 0 is the
            model as it is. The sets of each setting follow, in the order of `settings` and of `Setting.sets`.
        counts: for each setting, the mean number of neurons that are off.
        seeds: as in `mwork`.
    """

    def row(off: Sequence[str], neurons: str, count: float, seed_values: Tensor) -> dict[str, object]:
        english, others = seed_values.mean(1).tolist()
        d_english, d_others = (seed_values - values[:, :1]).mean(1).tolist()
        delta = seed_values[0] - seed_values[1] - (values[0, 0] - values[1, 0])
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
    values_by_setting = torch.split(values[:, 1:], sizes, dim=1)
    return [row((), "none", 0, values[:, :1])] + [
        row(setting.off, setting.neurons, count, seed_values)
        for setting, count, seed_values in zip(settings, counts, values_by_setting)
    ]
