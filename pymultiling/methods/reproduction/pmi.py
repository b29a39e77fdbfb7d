"""The tables of arXiv 2403.09073: direct, pivot and parallel input, and which neurons they activate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pymultiling.data.added_tokens import encode_prompt
from pymultiling.methods.pmi.kinds_of_prompts import fitting_items
from pymultiling.methods.reproduction.plan import Notes, Setup, TimeLimit, measure_evenly, model_note
from pymultiling.methods.reproduction.pmi_counts import count_prompts, value_name
from pymultiling.methods.reproduction.pmi_inputs import BLEU, PmiInputs
from pymultiling.methods.reproduction.pmi_scores import (
    MAX_NEW_TOKENS,
    bleu_stream,
    corpus_bleu,
    likelihood_stream,
    mean_value,
    with_interval,
)
from pymultiling.neurons.activation_statistics import ActivationStatistics

if TYPE_CHECKING:
    import pandas

COUNTING_PART, ANSWERS_PART = 0.3, 0.95
# Each follows the word "share" in tables and figures.
ACTIVE, CHANGE = "of active neurons", "gained against direct"
KEPT, NEW = "of direct's, still active", "of its own, not in direct"


@dataclass(frozen=True)
class PmiTables:
    """The result of `reproduce_pmi`.

    Attributes:
        table: as that of `pymultiling.pmi.compare`; without BLEU if there was no time for it.
        by_layer: active neurons by kind of prompt and layer, as that of `compare`.
        inhibition: for each kind of prompt and layer, inhibited: of the neurons that are active with direct input, the
            share that is not; new: of its active neurons, the share that is not active with direct input.
        activity: shares of neurons for each kind of prompt, with the ends of their bootstrap intervals.
        answers: the score of each kind of prompt, with the ends of its interval; empty if there was no time for it.
        counts: {kind of prompt: activation counts}.
        rounds: rounds of the counts, for `Measured.copy_to`.
        samples: how many sentences the values of every kind of prompt stand on.
        notes: what differs from the paper.
    """

    table: pandas.DataFrame
    by_layer: pandas.DataFrame
    inhibition: pandas.DataFrame
    activity: pandas.DataFrame
    answers: pandas.DataFrame
    counts: dict[str, ActivationStatistics]
    rounds: int
    samples: pandas.DataFrame
    notes: Notes


def reproduce_pmi(setup: Setup, inputs: PmiInputs, limit: TimeLimit) -> PmiTables:
    """Counts active neurons and evaluates answers for each kind of prompt, and goes on from what is measured already.

    Source: arXiv 2403.09073, section 3.

    Args:
        setup: the model, and where the values are kept.
        inputs: what `read_inputs` returned. Its notes get what is other than in the paper.
        limit: the time that may be taken; active neurons of a few items are counted in any case.

    Returns:
        The tables.

    Raises:
        CorpusError: the prompts of all items exceed the model's positions.
        UnsupportedModel: as `activations`.
        NonFiniteActivations: as `activations`.
    """
    import pandas

    encoded = {name: [encode_prompt(setup.tokenizer, text) for text in texts] for name, texts in inputs.prompts.items()}
    answer_tokens = MAX_NEW_TOKENS
    if inputs.metric != BLEU:
        answer_tokens = max(len(encode_prompt(setup.tokenizer, f" {text}")) for text in inputs.references)
    places = fitting_items(setup.model, encoded, answer_tokens)
    tokens = {name: [prompts[place] for place in places] for name, prompts in encoded.items()}
    rounds, counts = count_prompts(setup, tokens, limit.part(COUNTING_PART))
    items = next(iter(counts.values())).tokens
    active = {name: setup.measured.values(value_name(name))[:items] for name in tokens}
    scores, samples = _measure_answers(setup, inputs, tokens, places, limit.part(ANSWERS_PART))
    rows = [
        {
            "prompt": name,
            "languages": inputs.languages[name],
            "tokens": sum(map(len, tokens[name][:items])) / items,
            **({"bleu": scores[name][0]} if scores and inputs.metric == BLEU else {}),
            "proportion": float(of_prompt.proportion.mean()),
            "top_share": of_prompt.most_active().share,
        }
        for name, of_prompt in counts.items()
    ]
    by_layer = [
        (name, layer, proportion)
        for name, of_prompt in counts.items()
        for layer, proportion in enumerate(of_prompt.proportion.tolist())
    ]
    label = "BLEU" if inputs.metric == BLEU else "log-likelihood of the reference"
    answers = [(label, name, *value) for name, value in scores.items()]
    activity = _activity_rows(active, next(iter(counts.values())).neurons)
    columns = ["measure", "prompt", "value", "low", "high", "items"]
    samples[:0] = [("active neurons, sentences", inputs.source, items, len(places))]
    _add_notes(inputs, setup.model, len(inputs.references) - len(places))
    return PmiTables(
        pandas.DataFrame(rows),
        pandas.DataFrame(by_layer, columns=["prompt", "layer", "proportion"]),
        _inhibition(active),
        pandas.DataFrame(activity, columns=columns),
        pandas.DataFrame(answers, columns=columns),
        counts,
        rounds,
        pandas.DataFrame(samples, columns=["measured", "language", "items", "of"]),
        inputs.notes,
    )


def _measure_answers(
    setup: Setup,
    inputs: PmiInputs,
    tokens: Mapping[str, Sequence[list[int]]],
    places: Sequence[int],
    limit: TimeLimit,
) -> tuple[dict[str, tuple[float, float, float, int]], list[tuple[object, ...]]]:
    """Returns {kind of prompt: score, ends of its interval, items} and rows of samples; empty if no time was left."""
    references = [inputs.references[place] for place in places]
    if inputs.metric == BLEU:
        streams = {name: bleu_stream(setup, name, prompts, references) for name, prompts in tokens.items()}
    else:
        streams = {
            name: likelihood_stream(setup, name, [texts[place] for place in places], references)
            for name, texts in inputs.prompts.items()
        }
    reason = measure_evenly("answers", list(streams.values()), setup.measured, limit, progress=setup.progress)
    items = min(setup.measured.count(stream.name) for stream in streams.values())
    if items == 0:
        inputs.notes.left_out.append(f"answers: {reason}; a longer run measures them")
        return {}, []
    found: dict[str, tuple[float, float, float, int]] = {}
    for name, stream in streams.items():
        values = setup.measured.values(stream.name)[:items]
        if inputs.metric == BLEU:
            found[name] = with_interval(values, corpus_bleu)
        else:
            found[name] = with_interval(torch.cat([values, torch.ones(items, 1)], 1), mean_value)
    return found, [("answers, sentences", inputs.source, items, len(references))]


def _activity_rows(active: Mapping[str, Tensor], all_neurons: int) -> list[tuple[object, ...]]:
    """Returns the rows of `activity`; all but the first are ratios of sums over the items.

    active: {kind of prompt: values of `value_name`}; all_neurons: neurons of all layers.
    """
    direct, *others = active
    layers = active[direct].shape[1] // 2
    neurons = torch.full((len(active[direct]),), float(all_neurons), dtype=torch.float64)
    totals = {name: values[:, :layers].sum(1) for name, values in active.items()}
    kept = {name: values[:, layers:].sum(1) for name, values in active.items()}
    parts = [(ACTIVE, name, totals[name], neurons) for name in active]
    parts += [(CHANGE, name, totals[name] - totals[direct], neurons) for name in others]
    parts += [(KEPT, name, kept[name], totals[direct]) for name in others]
    parts += [(NEW, name, totals[name] - kept[name], totals[name]) for name in others]
    return [
        (measure, name, *with_interval(torch.stack([share, whole], 1), mean_value))
        for measure, name, share, whole in parts
    ]


def _inhibition(active: Mapping[str, Tensor]) -> pandas.DataFrame:
    import pandas

    direct, *others = active
    layers = active[direct].shape[1] // 2
    before = active[direct][:, :layers].sum(0)
    rows = []
    for name in others:
        total, kept = torch.split(active[name].sum(0), layers)
        inhibited, new = 1 - kept / before, 1 - kept / total
        rows += [(name, layer, inhibited[layer].item(), new[layer].item()) for layer in range(layers)]
    return pandas.DataFrame(rows, columns=["prompt", "layer", "inhibited", "new"])


def _add_notes(inputs: PmiInputs, model: nn.Module, left_out: int) -> None:
    data = f"data: {inputs.file.name}, translated by people; "
    departures = [
        model_note(model, "models of 7 billion and more, most of them fine-tuned on such prompts"),
        data + "the paper translates WMT, and a model has made the parallel inputs",
        f"languages: {inputs.source} into {inputs.target}, with {', '.join(inputs.others)} added in this order",
        f"pivot: {inputs.others[0]} alone",
        "prompts: templates of pymultiling in the paper's form, without examples",
        "active neurons: at the last token of the prompt; the paper's code counts while answering too",
    ]
    if left_out:
        departures.append(f"sentences: {left_out:,} are left out, whose longest prompt has no place in the model")
    inputs.notes.departures[:0] = departures
    inputs.notes.left_out += [
        "fine-tuning on parallel input: needs training",
        "other tasks (inference, reading comprehension, simplification, summaries): see the command pmi",
        "COMET: needs a package of its own, see pmi --comet",
    ]
