"""chat_template=True: detection, counts, means and perplexity of texts as messages, of their own tokens only."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import pymultiling as pml
from pymultiling.methods.lens import count_top_tokens
from pymultiling.passes.job import Options
from tests.data.test_chat import chat_tokenizer
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama", torch.float64), chat_tokenizer()
CORPORA = {language: texts(language) for language in LANGUAGES}
OPTIONS = {"workers": 0, "progress": False}
CHAT = {**OPTIONS, "chat_template": True}
OPENING = [1, 9, 10]  # the tokens of <s> w9 w10


def conversations(language: str) -> list[torch.Tensor]:
    """Returns the tokens of each text after those of the template, (1, length)."""
    rows = [tiny_tokenizer(bos=False)(text)["input_ids"] for text in CORPORA[language]]
    return [torch.tensor([OPENING + row]) for row in rows]


@torch.no_grad()
def losses(tokens: torch.Tensor) -> torch.Tensor:
    """Returns the loss of each token of the text of a conversation."""
    logits = MODEL(tokens).logits[0, len(OPENING) - 1 : -1]
    return F.cross_entropy(logits, tokens[0, len(OPENING) :], reduction="none")


def test_detection_sums_the_importance_of_the_texts_tokens():
    """The opening is the same in all documents, so its own importance is that of a document that ends with it."""
    detection = pml.detect(MODEL, TOKENIZER, CORPORA, **CHAT)
    opening = pml.importance(MODEL, torch.tensor([OPENING]))
    for language, statistics in detection.statistics.items():
        documents = [pml.importance(MODEL, tokens) for tokens in conversations(language)]
        assert statistics.tokens == sum(len(text.split()) for text in CORPORA[language])
        for site, values in statistics.sum.items():
            expected = sum((document[site] - opening[site])[0] for document in documents)
            torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-12)


def test_counts_are_those_of_the_texts_tokens():
    opening = pml.activations(MODEL, tiny_tokenizer(), {"x": ["w9 w10"]}, **OPTIONS)["x"]
    for pack in (None, 5):
        counts = pml.activations(MODEL, TOKENIZER, CORPORA, pack=pack, **CHAT)
        for language, lines in CORPORA.items():
            words = " ".join(lines).split()
            parts = lines if pack is None else [" ".join(words[i : i + 2]) for i in range(0, len(words) - 1, 2)]
            whole = pml.activations(MODEL, tiny_tokenizer(), {"x": [f"w9 w10 {part}" for part in parts]}, **OPTIONS)
            assert counts[language].tokens == len(" ".join(parts).split())
            assert torch.equal(counts[language].active, whole["x"].active - len(parts) * opening.active)


def test_counts_of_responses_are_those_after_the_template():
    pairs = [("w3 w4", "w5 w6 w11"), ("w12", "w13")]
    with_template = pml.activations(MODEL, TOKENIZER, {"x": pairs}, positions="response", **CHAT)["x"]
    written_out = [(f"w9 w10 {prompt} w8 w7 ", response) for prompt, response in pairs]
    by_hand = pml.activations(MODEL, tiny_tokenizer(), {"x": written_out}, positions="response", **OPTIONS)["x"]
    assert with_template.tokens == by_hand.tokens == 4
    assert torch.equal(with_template.active, by_hand.active)


def test_means_are_over_the_texts_tokens():
    means = pml.mean_activations(MODEL, TOKENIZER, CORPORA["fr"], **CHAT)
    inputs = []
    hook = MODEL.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0, 3:]))
    try:
        for tokens in conversations("fr"):
            MODEL(tokens)
    finally:
        hook.remove()
    torch.testing.assert_close(means["ffn"][1], torch.cat(inputs).mean(0).float(), rtol=1e-5, atol=1e-7)


def test_perplexity_is_that_of_the_texts_tokens():
    expected = {language: torch.cat(list(map(losses, conversations(language)))).mean() for language in CORPORA}
    found = pml.perplexity(MODEL, TOKENIZER, CORPORA["fr"], **CHAT)
    assert found == pytest.approx(math.exp(expected["fr"]), rel=1e-5)
    matrix = pml.ablation_matrix(MODEL, TOKENIZER, {"a": random_neurons(MODEL)}, CORPORA, **CHAT)
    for language, loss in expected.items():
        assert matrix.loc["none", language] == pytest.approx(math.exp(loss), rel=1e-5)


@torch.no_grad()
def test_the_lens_decodes_the_texts_tokens():
    options = Options(24, workers=0, progress=False)
    texts_of = {"x": CORPORA["fr"]}
    counts, _ = count_top_tokens(
        MODEL, TOKENIZER, texts_of, top=3, max_length=64, pack=None, chat_template=True, options=options
    )["x"]
    expected = torch.zeros_like(counts)
    for tokens in conversations("fr"):
        output = MODEL(tokens, output_hidden_states=True)
        logits = [MODEL.lm_head(MODEL.model.norm(states)) for states in output.hidden_states[:-1]] + [output.logits]
        for layer, values in enumerate(logits):
            expected[layer] += values[0, len(OPENING) :].topk(3).indices.flatten().bincount(minlength=counts.shape[1])
    assert torch.equal(counts, expected)


def test_training_predicts_the_texts_tokens():
    """The first step's loss is that of the model as it was."""
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    lines, options = CORPORA["fr"], {"chat_template": True, "progress": False}
    training = pml.fine_tune(copy.deepcopy(MODEL), TOKENIZER, lines, batch=len(lines), **options)
    expected = torch.cat(list(map(losses, conversations("fr")))).mean()
    assert training.log["loss"].tolist() == [pytest.approx(expected.item(), rel=1e-5)]
    counted = [len(line.split()) for line in lines]  # --tokens counts those of the texts
    assert pml.fine_tune(copy.deepcopy(MODEL), TOKENIZER, lines, tokens=sum(counted[:2]), **options).documents == 2


def test_statistics_with_and_without_a_template_are_not_added():
    with_template, without = (
        pml.detect(MODEL, TOKENIZER, CORPORA, **OPTIONS, chat_template=chat).statistics["fr"] for chat in (True, False)
    )
    assert with_template.rule == f"{without.rule}; texts as messages of the chat template"
    with pytest.raises(ValueError, match="votes of different rules do not add"):
        with_template + without


@pytest.mark.parametrize(
    "run",
    [
        lambda tokenizer, **options: pml.detect(MODEL, tokenizer, CORPORA, **options),
        lambda tokenizer, **options: pml.activations(MODEL, tokenizer, CORPORA, **options),
        lambda tokenizer, **options: pml.mean_activations(MODEL, tokenizer, CORPORA["fr"], **options),
        lambda tokenizer, **options: pml.ablation_matrix(MODEL, tokenizer, {}, CORPORA, **options),
    ],
    ids=["detect", "activations", "mean_activations", "ablation_matrix"],
)
def test_a_checkpoint_belongs_to_one_template(tmp_path, run):
    run(TOKENIZER, checkpoint=tmp_path, **CHAT)
    with pytest.raises(pml.CheckpointError, match=r"is a checkpoint of another run: its (measure|chat_template) was"):
        run(TOKENIZER, checkpoint=tmp_path, **OPTIONS)
    with pytest.raises(pml.CheckpointError, match="its chat_template was"):
        run(chat_tokenizer("w11 {{ messages[0]['content'] }} w8"), checkpoint=tmp_path, **CHAT)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        run(tiny_tokenizer(), **CHAT)
