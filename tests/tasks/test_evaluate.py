"""Metric values in shared batches against one set and one item at a time, on models with zeroed parameters."""

from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling import tasks
from pymultiling.tasks.evaluate import encode_answer, metric_values
from pymultiling.tasks.generation import generate
from pymultiling.tasks.metrics import best_value
from tests.support.tiny_models import random_neurons, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama", torch.float64), tiny_tokenizer()
SETS = {"a": random_neurons(MODEL, seed=1), "b": random_neurons(MODEL, seed=2)}
CHOICES = tasks.continuation({"fr": texts("fr", seed=1), "de": texts("de", (6, 5, 8, 2, 7), seed=2)}, choices=3)
OPEN = tasks.Task(
    "open",
    {"fr": [tasks.Item(text, " w9", references=("w4 w5", "w6")) for text in texts("fr", seed=3)]},
    "f1",
    max_new_tokens=4,
)


@torch.no_grad()
def log_probabilities(model, item: tasks.Item, answer: str) -> list[float]:
    """Returns the log-probability of every token of the answer, from a forward of this document alone."""
    tokens = TOKENIZER(item.prompt + answer)["input_ids"]
    start = len(TOKENIZER(item.prompt)["input_ids"])
    logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return [logs[place - 1, tokens[place]].item() for place in range(start, len(tokens))]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def item_value(model, task: tasks.Task, item: tasks.Item, language: str) -> float:
    """Returns the metric value of an item, from forwards of single documents."""
    if task.metric == "likelihood":
        return mean(log_probabilities(model, item, item.answer))
    if task.metric in ("accuracy", "normalised accuracy"):
        reduce = sum if task.metric == "accuracy" else mean
        likely = max(item.choices, key=lambda choice: reduce(log_probabilities(model, item, choice)))
        return float(likely == item.answer)
    prompt = torch.tensor([TOKENIZER(item.prompt)["input_ids"]])
    output = model.generate(prompt, max_new_tokens=task.max_new_tokens, do_sample=False, pad_token_id=0)
    answer = TOKENIZER.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    return best_value(task.metric, answer, item.references, language)


@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
@pytest.mark.parametrize(
    "task",
    [
        CHOICES.judged_by("accuracy"),
        CHOICES,
        CHOICES.judged_by("likelihood"),
        OPEN,
        OPEN.judged_by("rouge-l"),
        OPEN.judged_by("likelihood"),
    ],
    ids=lambda task: f"{task.name}, {task.metric}",
)
def test_values_are_those_of_single_items_on_zeroed_models(task, batch_tokens):
    for language, items in task.items.items():
        values = metric_values(MODEL, TOKENIZER, task, language, [None, *SETS.values()], batch_tokens=batch_tokens)
        for column, neurons in zip(values.T, [None, *SETS.values()]):
            model = MODEL if neurons is None else with_zeroed_neurons(MODEL, neurons)
            expected = [item_value(model, task, item, language) for item in items]
            torch.testing.assert_close(column, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-10)


def test_the_table_has_mean_values():
    table = pml.tasks.evaluate(MODEL, TOKENIZER, CHOICES.judged_by("likelihood"), SETS)
    assert list(table.index) == ["none", "a", "b"] and list(table.columns) == ["fr", "de"]
    for language in table:
        values = metric_values(MODEL, TOKENIZER, CHOICES.judged_by("likelihood"), language, [None, *SETS.values()])
        assert table[language].tolist() == pytest.approx(values.mean(0).tolist())
        assert table.loc["a", language] != table.loc["none", language]


def test_neurons_can_be_scaled():
    task = CHOICES.judged_by("likelihood")
    table = pml.tasks.evaluate(MODEL, TOKENIZER, task, SETS, scale=2.0)
    with pml.deactivate(MODEL, SETS["b"], scale=2.0):
        expected = mean([item_value(MODEL, task, item, "fr") for item in task.items["fr"]])
    assert table.loc["b", "fr"] == pytest.approx(expected)


def test_progress_counts_sets_times_items(capsys):
    for task in (CHOICES, OPEN):
        pml.tasks.evaluate(MODEL, TOKENIZER, task, SETS, progress=True, batch_tokens=64)
        count = 3 * sum(len(items) for items in task.items.values())
        assert f"{task.name}: {count} of {count} sets x items" in capsys.readouterr().err


def test_an_answer_ends_where_a_stop_string_begins():
    prompts = [item.prompt for item in OPEN.items["fr"]]
    unstopped = generate(MODEL, TOKENIZER, prompts, [None], OPEN)
    word = unstopped[0][0].text.split()[1]
    stopped = generate(MODEL, TOKENIZER, prompts, [None], tasks.Task("t", {}, "f1", (word,), 4))
    assert stopped[0][0].text == unstopped[0][0].text.partition(word)[0]
    assert TOKENIZER.decode(stopped[0][0].tokens) == stopped[0][0].text.strip()
    assert (
        unstopped[0][0].tokens[: len(stopped[0][0].tokens)] == stopped[0][0].tokens and len(unstopped[0][0].tokens) == 4
    )
    assert [len(answers) for answers in stopped] == [1] * len(prompts)


def test_long_prompts_are_cut_at_their_beginning():
    """The model has 64 positions."""
    long_text = " ".join(texts("fr", (90,)))
    item = tasks.Item(long_text, " w5 w6")
    task = tasks.Task("long", {"fr": [item]}, "likelihood")
    with pytest.warns(UserWarning, match="long: 1 prompts do not fit the model's 64 positions .*: use shorter prompts"):
        values = metric_values(MODEL, TOKENIZER, task, "fr", [None])
    tokens = [1, *TOKENIZER(long_text + " w5 w6")["input_ids"][-63:]]  # <s> stays
    logs = MODEL(torch.tensor([tokens])).logits[0].log_softmax(-1)
    assert values.item() == pytest.approx(mean([logs[place - 1, tokens[place]].item() for place in (62, 63)]))
    with pytest.warns(UserWarning, match="open: 1 prompts do not fit"):
        (answer,) = generate(MODEL, TOKENIZER, [long_text], [None], OPEN)[0]
    prompt = torch.tensor([[1, *TOKENIZER(long_text)["input_ids"][-59:]]])
    expected = MODEL.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert answer == (TOKENIZER.decode(expected[0, 60:], skip_special_tokens=True), expected[0, 60:].tolist())
    with pytest.raises(ValueError, match="63 new tokens leave no prompt"):
        generate(MODEL, TOKENIZER, [long_text], [None], replace(OPEN, max_new_tokens=63))
    with pytest.raises(ValueError, match="no room for its prompt"):
        metric_values(
            MODEL, TOKENIZER, tasks.Task("t", {"fr": [tasks.Item("w4", f" {long_text}")]}, "likelihood"), "fr", [None]
        )


def test_an_answer_begins_after_the_tokens_of_the_prompt():
    assert encode_answer(TOKENIZER, "w3 w4", " w5 w6") == ([1, 3, 4, 5, 6], 3)
    assert encode_answer(TOKENIZER, "w3 w4 ", "w5") == ([1, 3, 4, 5], 3)
    assert encode_answer(TOKENIZER, "", "w5") == ([1, 5], 1)
    with pytest.raises(ValueError, match="nothing comes before the answer"):
        encode_answer(tiny_tokenizer(bos=False), "", "w5 w6")
    with pytest.raises(ValueError, match="no token"):
        encode_answer(TOKENIZER, "w3", " ")


def test_choices_of_an_item_are_measured_from_the_same_token():
    """If the first token of one choice begins in the prompt, the other choices begin there too."""

    def tokenizer(text, **_):
        tokens = {"a": [3], "w5 w6": [5, 6], "w5 w6w7": [5, 7], "w5 w6 w8": [5, 6, 8]}
        return {"input_ids": tokens[text]}

    tokenizer.bos_token_id = None
    item = tasks.Item("w5 w6", "w7", ("w7", " w8"))
    task = tasks.Task("t", {"fr": [item]}, "accuracy")
    logs = {}
    for choice in item.choices:
        tokens = tokenizer(item.prompt + choice)["input_ids"]
        log_probability = MODEL(torch.tensor([tokens])).logits[0].log_softmax(-1)
        logs[choice] = sum(log_probability[place - 1, tokens[place]].item() for place in range(1, len(tokens)))
    expected = float(max(logs, key=logs.get) == "w7")
    assert metric_values(MODEL, tokenizer, task, "fr", [None]).item() == expected


def test_answers_are_greedy_for_any_generation_config():
    prompts = [item.prompt for item in OPEN.items["fr"]]
    expected = generate(MODEL, TOKENIZER, prompts, [None], OPEN)
    model = tiny_model("llama", torch.float64)
    for name, value in dict(repetition_penalty=5.0, do_sample=True, temperature=9.0, num_return_sequences=2).items():
        setattr(model.generation_config, name, value)
    assert generate(model, TOKENIZER, prompts, [None], OPEN) == expected


def test_metrics_that_do_not_suit_the_items_are_refused():
    for task, message in (
        (CHOICES.judged_by("f1"), "its items have no references"),
        (OPEN.judged_by("accuracy"), "its items have no choices"),
        (OPEN.judged_by("bleu"), "metric must be one of accuracy"),
        (replace(OPEN, max_new_tokens=0), "max_new_tokens must be at least 1"),
        (tasks.Task("t", {"fr": []}, "likelihood"), "t has no items"),
        (tasks.Task("t", {"fr": [tasks.Item("w4", " w5", ("w5", "w6"))]}, "accuracy"), "none of the choices"),
    ):
        with pytest.raises(ValueError, match=message):
            pml.tasks.evaluate(MODEL, TOKENIZER, task, SETS)


def test_errors_name_the_set():
    neurons_of_another_model = random_neurons(tiny_model("llama", intermediate_size=41))
    with pytest.raises(ValueError, match="set 'x' is of another model"):
        pml.tasks.evaluate(MODEL, TOKENIZER, CHOICES, {"x": neurons_of_another_model})
    with pytest.raises(ValueError, match="another name"):
        pml.tasks.evaluate(MODEL, TOKENIZER, CHOICES, {"none": SETS["a"]})
    nan_mean = {"ffn": torch.full((2, 37), torch.nan)}
    with pytest.raises(pml.NonFiniteActivations, match="continuation, 'fr' with set 'a' off"):
        pml.tasks.evaluate(MODEL, TOKENIZER, CHOICES, {"a": SETS["a"].only("ffn")}, mean=nan_mean)
