"""The encoders of encoder-decoders against brute force: biases of relative positions, and masks that are not causal."""

from dataclasses import replace

import pytest
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.models.loading import load_model
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import difference
from tests.support.tiny_models import PAIRS, random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer


def logits(model, batch: dict) -> torch.Tensor:
    """Returns the logits of the decoder for a target of four tokens."""
    target = torch.tensor([[3, 7, 11, 5]]).expand(len(batch["input_ids"]), -1)
    return model(**batch, decoder_input_ids=target).logits


@pytest.mark.parametrize("name", PAIRS)
def test_a_document_has_the_same_values_alone_and_beside_padding(name):
    model = tiny_model(name, torch.float64)
    alone = torch.tensor([[5, 9, 17, 4, 11, 30]])
    expected = pml.importance(model, alone)
    for padding in (0, 1):  # on the left, on the right
        row = torch.cat([torch.full((1, 5), 0), alone][:: 1 - 2 * padding], 1)
        mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 6)][:: 1 - 2 * padding], 1).long()
        batch = torch.cat([torch.randint(3, 60, row.shape), row]), torch.cat([torch.ones_like(mask), mask])
        values = pml.importance(model, *batch)
        for site in pml.SITES:
            torch.testing.assert_close(values[site][1:], expected[site], rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
def test_deactivated_neurons_of_the_encoder_act_as_zeroed_ones(name):
    """In the logits of the decoder, in generation, and for each row with its own set."""
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    zeroed, plain = with_zeroed_neurons(model, neurons), logits(model, batch)
    truth = logits(zeroed, batch)
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), truth) < 1e-6 < 1e-4 < difference(plain, truth)
    with pml.deactivate(model, [neurons, None], rows=[0, 1]):
        by_row = logits(model, batch)
        tokens = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert difference(by_row[0], truth[0]) < 1e-6 and difference(by_row[1], plain[1]) < 1e-6
    assert torch.equal(tokens[:1], zeroed.generate(**batch, max_new_tokens=5, do_sample=False)[:1])


@pytest.mark.parametrize("name", PAIRS)
def test_the_encoder_alone_has_the_same_values(name):
    model, batch = tiny_model(name), tiny_batch()
    expected, values = pml.importance(model, **batch), pml.importance(model.get_encoder(), **batch)
    assert all(torch.equal(values[site], expected[site]) for site in pml.SITES)


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_encoders_that_are_saved_without_a_decoder_are_loaded_and_have_the_same_values(name, tmp_path):
    model, batch = tiny_model(name), tiny_batch()
    alone = getattr(transformers, f"{PAIRS[name][0]}EncoderModel")(model.config).eval()
    alone.encoder.load_state_dict(model.encoder.state_dict())
    loaded, _ = load_model(str(save_model(tmp_path, alone)), torch.device("cpu"))
    assert type(loaded) is type(alone)
    expected, values = pml.importance(model, **batch), pml.importance(loaded, **batch)
    assert all(torch.equal(values[site], expected[site]) for site in pml.SITES)


@pytest.mark.parametrize("name", PAIRS)
def test_detect_counts_and_embeddings(name):
    """Compared with the documents one by one, and with the encoder's hidden states."""
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    documents = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts("fr")]
    detection = pml.detect(model, tokenizer, {"fr": texts("fr"), "de": texts("de")}, progress=False)
    for site in pml.SITES:
        mean = torch.stack([pml.importance(model, tokens)[site][0].double() for tokens in documents]).mean(0)
        torch.testing.assert_close(detection.statistics["fr"].mean(site).double(), mean, rtol=1e-4, atol=1e-7)
    counts = pml.activations(model, tokenizer, {"fr": texts("fr")}, progress=False)["fr"]
    assert counts.tokens == sum(tokens.numel() for tokens in documents) and counts.active.any()
    embeddings = pml.sentence_embeddings(model, tokenizer, {"fr": texts("fr")}, progress=False)["fr"]
    with torch.no_grad():
        last = [model.get_encoder()(input_ids=tokens).last_hidden_state[0].mean(0) for tokens in documents]
    torch.testing.assert_close(embeddings[:, -1], torch.stack(last), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_the_exported_model_computes_what_deactivate_does(name, dtype, tmp_path):
    """Bit for bit, with neurons of all sites off and doubled. The folder has many shards."""
    tiny_model(name, dtype).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    model, batch = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval(), tiny_batch()
    neurons = random_neurons(model)
    for scale in (0.0, 2.0):
        pml.export(tmp_path / "model", None, neurons, tmp_path / str(scale), scale=scale)
        with pml.deactivate(model, neurons, scale=scale):
            expected = logits(model, batch)
        exported = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / str(scale)).eval()
        assert torch.equal(logits(exported, batch), expected) and not torch.equal(expected, logits(model, batch))


@pytest.mark.parametrize("name", PAIRS)
def test_doctor_agrees_and_names_no_slow_kernel(name, tmp_path, capsys):
    folder = save_model(tmp_path / "model", tiny_model(name))
    assert type(load_model(str(folder), torch.device("cpu"))[0]) is type(tiny_model(name))
    assert main(["doctor", "--model", str(folder)]) == 0
    assert "plain PyTorch" not in capsys.readouterr().out
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-6


def test_what_predicts_the_next_token_of_a_text_is_refused():
    model, tokenizer = tiny_model("mt5"), tiny_tokenizer()
    with pytest.raises(pml.UnsupportedModel, match="does not predict the next token"):
        pml.perplexity(model, tokenizer, texts("fr"))
    with pytest.raises(pml.UnsupportedModel, match="is an encoder-decoder, whose encoder is measured"):
        pml.lens(model, tokenizer, {"fr": texts("fr")})


@pytest.mark.parametrize("changes", [{"position_bias": None}, {"position_bias": "bias"}])
def test_an_entry_without_the_biases_is_refused(monkeypatch, changes):
    model = tiny_model("mt5")
    monkeypatch.setitem(FAMILIES, "mt5", replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=r"computes other attention|was called without bias"):
        pml.importance(model, **tiny_batch(), sites="q")


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_an_attention_that_adds_half_of_its_biases_is_refused(monkeypatch, name):
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module, *arguments, position_bias, **keywords):
        return sdpa(module, *arguments, position_bias=position_bias / 2, **keywords)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", attend)
    with pytest.raises(pml.UnsupportedModel, match="computes other attention"):
        pml.importance(tiny_model(name), **tiny_batch(), sites="q")


@pytest.mark.parametrize("fields", [{"interface": False}, {"q_norm": "q_norm", "k_norm": "k_norm"}])
def test_entries_with_biases_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match="position_bias needs"):
        pml.Family(position_bias="position_bias", **fields)
