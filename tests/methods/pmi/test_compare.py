"""Comparisons of prompts against the model's own generation and against activation counts of the same texts."""

import sys

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.methods import pmi
from pymultiling.methods.activations import count_activations
from pymultiling.methods.pmi import ParallelItem, ParallelTask
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.results import plots
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import WORDS, tiny_tokenizer

NAMES = {"a": "w3", "b": "w4", "c": "w5", "d": "w6"}  # names of languages that the tiny tokenizer knows as words


def make_task(count: int = 5, metric: str = "bleu", **options) -> ParallelTask:
    items = [
        ParallelItem(
            {
                name: {"text": " ".join(WORDS[(place + shift) % 20 : (place + shift) % 20 + 3])}
                for shift, name in enumerate("abc")
            },
            (" ".join(WORDS[place : place + 4]),),
        )
        for place in range(count)
    ]
    return ParallelTask("tiny", "translation", items, metric, **{"max_new_tokens": 6, **options})


def compare(task=None, model=None, **options):
    options = {"source": "a", "others": ["b", "c"], "target": "d", "names": NAMES, **options}
    return pmi.compare(model or tiny_model("llama"), tiny_tokenizer(), task or make_task(), **options)


def prompts(task: ParallelTask, form: str, others=()) -> list[str]:
    options = {"form": form, "source": "a", "others": others, "target": "d", "names": NAMES}
    return [pmi.prompt(item, template=task.template, **options) for item in task.items]


@pytest.mark.parametrize("positions", ["last", "all"])
def test_counts_are_those_of_the_prompts(positions):
    comparison = compare(pivot="c", positions=positions, answers=False)
    assert list(comparison.table["prompt"]) == ["direct", "pivot", "PMI-1", "PMI-2"]
    assert list(comparison.table["languages"]) == [1, 1, 2, 3] and comparison.answers == {} and comparison.items == 5
    assert list(comparison.table) == ["prompt", "languages", "tokens", "proportion", "top_share"]
    shown = {"direct": ("direct", ()), "pivot": ("pivot", ["c"]), "PMI-1": ("pmi", ["b"]), "PMI-2": ("pmi", ["b", "c"])}
    for (name, (form, others)), tokens in zip(shown.items(), comparison.table["tokens"]):
        texts = prompts(make_task(), form, others)
        assert tokens == sum(len(tiny_tokenizer()(text)["input_ids"]) for text in texts) / len(texts)
        options = {"positions": positions, "max_length": 64, "progress": False}
        expected = pml.activations(tiny_model("llama"), tiny_tokenizer(), {"x": texts}, **options)["x"]
        assert (
            torch.equal(comparison.statistics[name].active, expected.active)
            and comparison.statistics[name].tokens == expected.tokens
        )
        row = comparison.table.set_index("prompt").loc[name]
        assert row["proportion"] == pytest.approx(expected.proportion.mean().item())
        assert row["top_share"] == expected.most_active(0.01).share
        assert comparison.by_layer.set_index("prompt").loc[name, "proportion"].tolist() == pytest.approx(
            expected.proportion.tolist()
        )


def test_answers_are_generated_greedily():
    model, tokenizer, task = tiny_model("llama"), tiny_tokenizer(), make_task()
    comparison = compare(task, model)
    for name, others in (("direct", ()), ("PMI-2", ["b", "c"])):
        for text, answer in zip(prompts(task, "pmi" if others else "direct", others), comparison.answers[name]):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            options = {
                "attention_mask": torch.ones_like(ids),
                "max_new_tokens": 6,
                "do_sample": False,
                "pad_token_id": 0,
            }
            expected = model.generate(input_ids=ids, **options)
            assert answer == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert comparison.signatures["bleu"].startswith("nrefs:1|") and "chrf" in comparison.signatures


def test_responses_are_counted_where_the_answers_are():
    comparison = compare(positions="response")
    pairs = list(zip(prompts(make_task(), "direct"), (f" {answer}" for answer in comparison.answers["direct"])))
    options = {"positions": "response", "max_length": 64, "progress": False}
    expected = pml.activations(tiny_model("llama"), tiny_tokenizer(), {"x": pairs}, **options)["x"]
    assert (
        torch.equal(comparison.statistics["direct"].active, expected.active)
        and comparison.statistics["direct"].tokens == 5 * 6
    )
    word = comparison.answers["direct"][0].split()[0]
    with pytest.raises(pml.CorpusError, match="no answer to the prompts 'direct' has a token"):
        compare(make_task(1, stop=(word,)), positions="response")
    with pytest.raises(ValueError, match="needs answers=True"):
        compare(positions="response", answers=False)


def test_items_that_exceed_the_positions_are_left_out_of_all_prompts():
    task = make_task()
    long_item = ParallelItem({name: {"text": "w3 " * (4 if name == "a" else 25)} for name in "abc"}, ("w3",))
    task.items.insert(2, long_item)
    comparison = compare(task, answers=False)
    assert comparison.left_out == 1 and comparison.places == [0, 1, 3, 4, 5]
    assert {statistics.tokens for statistics in comparison.statistics.values()} == {5}
    with pytest.raises(pml.CorpusError, match=r"no items to compare: the shortest take 6. tokens and 6 for the answer"):
        compare(ParallelTask("t", "translation", [long_item], "bleu", max_new_tokens=6))
    with pytest.raises(pml.CorpusError, match="no items to compare: give more"):
        compare(ParallelTask("t", "translation", [], "bleu"))


def test_invalid_arguments_are_refused():
    with pytest.raises(pml.CorpusError, match="has no input 'z', only a, b, c"):
        compare(others=["z"])
    for others in ([], "bc", ["b", "b"], ["a", "b"]):
        with pytest.raises(ValueError, match="others must be a list of inputs to add, each once"):
            compare(others=others)
    with pytest.raises(ValueError, match="another input than the source"):
        compare(pivot="a")
    with pytest.raises(ValueError, match="COMET evaluates translations only"):
        compare(answers=False, comet="x")
    with pytest.raises(ValueError, match="positions must be one of last, all, response"):
        compare(positions="first")


def test_prompts_can_be_chat_messages():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "w9 {{ messages[0]['content'] }} w8"
    options = {"source": "a", "others": ["b"], "target": "d", "names": NAMES, "answers": False, "positions": "all"}
    comparison = pmi.compare(tiny_model("llama"), tokenizer, make_task(), chat=True, **options)
    documents = [
        tokenizer(f"w9 {text} w8", add_special_tokens=False)["input_ids"] for text in prompts(make_task(), "direct")
    ]
    assert comparison.statistics["direct"].tokens == sum(map(len, documents))
    expected = count_activations(
        ActivationProbe(tiny_model("llama")),
        [(tokens, 0) for tokens in documents],
        positions="all",
        batch_tokens=64,
        name="x",
        progress=False,
    )
    assert torch.equal(comparison.statistics["direct"].active, expected.active)


def test_comet_is_loaded_once(monkeypatch):
    loaded = []

    def load(name):
        loaded.append(name)
        return lambda sources, answers, references: float(len(answers))

    monkeypatch.setattr(
        sys.modules["pymultiling.methods.pmi.compare"], "load_comet", load
    )  # the package's attribute `compare` is the function, not the module
    comparison = compare(comet="some")
    assert loaded == ["some"] and list(comparison.table["comet"]) == [5.0] * 3


def test_examples_lengthen_the_prompts():
    task = make_task(3)
    with_examples = pmi.compare(
        tiny_model("llama", max_position_embeddings=128), tiny_tokenizer(), task, source="a", others=["b"], target="d",
        names=NAMES, answers=False, examples=[(task.items[0], "w9 w9")],
    )  # fmt: skip
    assert with_examples.table["tokens"][0] > 1.8 * compare(task, answers=False).table["tokens"][0]


@pytest.mark.parametrize("answers", [True, False])
def test_the_plot_shows_the_table(tmp_path, answers):
    comparison = compare(pivot="b", answers=answers)
    figure = plots.pmi(comparison.table, comparison.statistics, "last")
    line = figure.axes[0].lines[0]
    without_pivot = comparison.table[comparison.table["prompt"] != "pivot"]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == without_pivot["proportion"].tolist()
    assert figure.axes[0].lines[1].get_ydata().tolist() == comparison.table["proportion"][1:2].tolist()
    assert ("score" in figure.axes[1].get_ylabel()) == answers
    curve = comparison.statistics["PMI-2"].most_active(0.01)
    assert (
        figure.axes[3].lines[-1].get_ydata().tolist() == (curve.counts / comparison.statistics["PMI-2"].tokens).tolist()
    )
    plots.save(figure, tmp_path / "a.png")
    assert isinstance(comparison.by_layer, pandas.DataFrame) and (tmp_path / "a.png").stat().st_size > 10_000
