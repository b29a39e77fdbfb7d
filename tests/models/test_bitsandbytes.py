"""Weights in 4 and 8 bits of bitsandbytes: the numbers are those of a copy with the weights that the bits stand for.

On a CPU with products of bfloat16, modules in 4 bits compute in bfloat16. Most tests switch that off, so that only the
order of sums differs from the copy.
"""

import copy

import peft
import pytest
import torch
import transformers
from torch import nn

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.bitsandbytes_weights import computes_in_bfloat16
from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import weight_of
from pymultiling.passes.identity import model_hash
from pymultiling.probes.verification.entry import verification_of
from tests.support.adapters import adapter_config, draw_adapters
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

# Sums of 128 products in float32, with errors of up to 128 times 6e-8, pass through two layers.
TOLERANCE = 1e-4
NF4, FP4 = ("4bit", dict(bnb_4bit_quant_type="nf4")), ("4bit", dict(bnb_4bit_use_double_quant=True))
INT8, OUTLIERS = ("8bit", dict(llm_int8_threshold=0.0)), ("8bit", dict(llm_int8_threshold=1.5))
FORMATS = {"NF4": NF4, "FP4 with scales in 8 bits": FP4, "8 bits": INT8, "8 bits with outliers": OUTLIERS}


@pytest.fixture(autouse=True)
def _no_gradients():
    """Without this, bitsandbytes adds biases in place to what autograd keeps, and fails."""
    with torch.no_grad():
        yield


def plain_model(name: str = "llama", **changes):
    """Returns a model whose widths bitsandbytes can rearrange."""
    return tiny_model(name, **dict(hidden_size=64, intermediate_size=128, head_dim=32) | changes)


def quantised(folder, kind: str, name: str = "llama", dtype=torch.float32, in_bfloat16: bool = False, **changes):
    """Returns a quantised model of transformers, loaded from a folder.

    kind: one of FORMATS.
    in_bfloat16: whether modules in 4 bits may compute in bfloat16.
    """
    save_model(folder, plain_model(name, **changes))
    bits, options = FORMATS[kind]
    config = transformers.BitsAndBytesConfig(**{f"load_in_{bits}": True}, **options)
    attention = "eager" if name == "gemma2" else None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=dtype, attn_implementation=attention
    )
    for module in quantised_modules(model):
        if isinstance(module, bitsandbytes.nn.Linear4bit) and not in_bfloat16:
            module.support_avx512bf16_for_cpu = False
    return model


def quantised_modules(model):
    kinds = bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt
    return [module for module in model.modules() if isinstance(module, kinds)]


def with_numbers_of(model, name: str = "llama", **changes):
    """Returns a plain model with the weights that bitsandbytes itself makes of the bits of a quantised model.

    Modules in 8 bits also round what they get, each token by its largest value. The copy's modules do it as they do.
    """
    plain = plain_model(name, **changes)
    modules = dict(model.named_modules())
    for path, linear in plain.base_model.named_modules(prefix="model"):
        if not isinstance(linear, nn.Linear):
            continue
        module = modules[path]
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        else:
            weight = bitsandbytes.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
            linear.forward = copy.deepcopy(module).forward
        assert 1e-4 < (weight - linear.weight).abs().max() / linear.weight.abs().max() < 0.3, path
        linear.weight.copy_(weight)
    return plain


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_importance_is_that_of_the_dequantised_copy(kind, name, tmp_path):
    model = quantised(tmp_path, kind, name)
    truth = with_numbers_of(model, name)
    assert verification_of(Decoder(model)).departures == ()
    measured, expected = pml.importance(model, **tiny_batch()), pml.importance(truth, **tiny_batch(), verify=False)
    for site in pml.SITES:
        assert (measured[site] - expected[site]).abs().max() < TOLERANCE * expected[site].max(), site


@pytest.mark.parametrize("kind", ["8 bits", "8 bits with outliers"])
def test_modules_in_8_bits_multiply_rounded_inputs(kind, tmp_path):
    """Compared with the product of arXiv 2208.07339, written out, for what every module gets."""
    model = quantised(tmp_path, kind)
    hooks = [module.register_forward_hook(_compare_with_rounded_product) for module in quantised_modules(model)]
    assert len(hooks) == 14
    model(**tiny_batch())


def _compare_with_rounded_product(module, args, output):
    rows, threshold = args[0].flatten(0, -2), module.state.threshold
    half = rows.half()
    is_outlier = half.abs() >= (threshold or torch.inf)
    largest = half.masked_fill(is_outlier, 0).abs().amax(1, keepdim=True).float()
    steps = torch.round(half * (127 / largest)) * (largest / 127)
    assert is_outlier.any() == (threshold > 0)
    expected = nn.functional.linear(torch.where(is_outlier.any(0), rows, steps), weight_of(module), module.bias)
    # bitsandbytes multiplies by 6.200124e-5 for 1 / 127^2, which is 1.8e-5 too much.
    assert (output.flatten(0, -2) - expected).abs().max() < 3e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["NF4", "FP4 with scales in 8 bits"])
def test_the_weight_is_the_one_that_rearranged_modules_multiply_by(kind, tmp_path):
    """Compared with what each module makes of unit vectors, bit for bit in bfloat16."""
    model = quantised(tmp_path, kind, in_bfloat16=True, attention_bias=False, mlp_bias=False)
    modules = quantised_modules(model)
    if not computes_in_bfloat16(modules[0]):
        pytest.skip("this CPU has no products of bfloat16")
    for module in modules:
        before = weight_of(module)
        assert torch.equal(before.bfloat16(), module(torch.eye(module.in_features)).T.bfloat16())
        assert module.weight.quant_state.packing_format_for_cpu
        assert torch.equal(weight_of(module), before)


@pytest.mark.parametrize("kind", ["NF4", "FP4 with scales in 8 bits"])
def test_importance_in_bfloat16_is_as_exact_as_that_of_a_model_in_bfloat16(kind, tmp_path):
    """Both are compared with the dequantised copy in float32."""
    model = quantised(tmp_path, kind, in_bfloat16=True)
    if not computes_in_bfloat16(quantised_modules(model)[0]):
        pytest.skip("this CPU has no products of bfloat16")
    truth = with_numbers_of(model)
    assert verification_of(Decoder(model)).departures == ()
    expected, measured = pml.importance(truth, **tiny_batch()), pml.importance(model, **tiny_batch())
    in_bfloat16 = pml.importance(truth.bfloat16(), **tiny_batch())
    for site in pml.SITES:
        error, other_error = ((each[site] - expected[site]).abs().max() for each in (measured, in_bfloat16))
        assert error < 2 * other_error < 0.1 * expected[site].max(), site


def test_neurons_are_off_as_in_the_dequantised_copy(tmp_path):
    model = quantised(tmp_path, "NF4")
    plain = with_numbers_of(model)
    neurons, batch = random_neurons(plain), tiny_batch()
    means = {site: torch.full(mask.shape, 0.25) for site, mask in neurons.sites.items()}
    before = model(**batch).logits
    with pml.deactivate(model, neurons):
        off = model(**batch).logits
    assert (off - with_zeroed_neurons(plain, neurons)(**batch).logits).abs().max() < TOLERANCE * off.abs().max()
    assert (off - before).abs().max() > 0.01 * off.abs().max()
    with pml.deactivate(model, neurons, mean=means):
        off = model(**batch).logits
    with pml.deactivate(plain, neurons, mean=means):
        assert (off - plain(**batch).logits).abs().max() < TOLERANCE * off.abs().max()


@pytest.mark.parametrize("kind", ["NF4", "8 bits"])
def test_passes_give_what_they_give_for_the_copy(kind, tmp_path):
    """Means, counts, the lens, perplexity with and without neurons, and `detect`."""
    model = quantised(tmp_path, kind)
    truth, tokenizer = with_numbers_of(model), tiny_tokenizer()
    corpora = {language: texts(language) for language in ("fr", "de")}
    sets = {"some": random_neurons(model)}
    options = dict(verify=False, progress=False, workers=0)
    results = []
    for one in (model, truth):
        means = pml.mean_activations(one, tokenizer, corpora["fr"], **options)
        counts = pml.activations(one, tokenizer, corpora, **options)
        table = pml.ablation_matrix(one, tokenizer, sets, corpora, **options)
        tokens = pml.lens(one, tokenizer, corpora["fr"], languages=["en", "de"], top=2, **options)
        results.append((means, counts["fr"].active, table.to_numpy(), tokens.to_numpy()))
        results[-1] += (pml.detect(one, tokenizer, corpora, **options).neurons["fr"],)
    (means, counts, table, tokens, detected), (true_means, true_counts, true_table, true_tokens, expected) = results
    for site, values in true_means.items():
        assert (means[site] - values).abs().max() < TOLERANCE * values.abs().max()
    assert torch.equal(counts, true_counts)
    assert abs(table - true_table).max() < TOLERANCE * abs(true_table).max()
    assert (tokens == true_tokens).all()
    assert detected == expected


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("adapter", ["LoRA", "IA3", "LNTuning"])
def test_adapters_of_quantised_modules_are_measured(kind, adapter, tmp_path):
    model = quantised(tmp_path, kind)
    models = [peft.get_peft_model(one, adapter_config(adapter, "llama")) for one in (model, with_numbers_of(model))]
    for one in models:
        draw_adapters(one)
        one.eval()
    assert verification_of(Decoder(models[0])).departures == ()
    measured, truth = (pml.importance(one, **tiny_batch(), verify=False) for one in models)
    for site in pml.SITES:
        assert (measured[site] - truth[site]).abs().max() < TOLERANCE * truth[site].max()


@pytest.mark.parametrize("kind", ["NF4", "FP4 with scales in 8 bits", "8 bits"])
def test_the_hash_of_a_model_outlasts_forwards(kind, tmp_path):
    """`state_dict` of bitsandbytes would change weights in 4 bits behind a forward, and a forward rounds scales."""
    model = quantised(tmp_path, kind, in_bfloat16=True)
    first = model_hash(model)
    before = model(**tiny_batch()).logits
    assert model_hash(model) == first
    assert torch.equal(model(**tiny_batch()).logits, before)
    assert model_hash(quantised(tmp_path, kind, seed=1)) != first


def test_training_and_export_are_refused(tmp_path):
    model = quantised(tmp_path, "NF4")
    neurons = random_neurons(model)
    with pytest.raises(pml.UnsupportedModel, match="marks this model as loaded from quantised weights"):
        pml.train_only(model, neurons)
    with pytest.raises(pml.UnsupportedModel, match="marks this model as loaded from quantised weights"):
        pml.export(model, tiny_tokenizer(), neurons, tmp_path / "out")
    del model.hf_quantizer, model.is_quantized, model.config.quantization_config
    with pytest.raises(pml.UnsupportedModel, match="is quantised or an adapter"):
        pml.train_only(model, neurons)
    with pytest.raises(pml.UnsupportedModel, match="is quantised or an adapter"):
        pml.export(model, tiny_tokenizer(), neurons, tmp_path / "out")


def test_a_width_that_bitsandbytes_cannot_rearrange_is_refused(tmp_path):
    """144 rows are no multiple of 32, so that a forward fails on a CPU with products of bfloat16."""
    model = quantised(tmp_path, "NF4", in_bfloat16=True, intermediate_size=144)
    if not computes_in_bfloat16(quantised_modules(model)[0]):
        pytest.skip("this CPU has no products of bfloat16")
    with pytest.raises(pml.UnsupportedModel, match=r"does not run with 1 documents.*N must be divisible by block_n"):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize("kind", ["NF4", "8 bits"])
def test_commands_take_a_folder_with_quantised_weights(kind, tmp_path, capsys):
    model = quantised(tmp_path / "plain", kind, dtype=torch.float16)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "fr.txt").write_text("\n".join(texts("fr")))
    source, corpus = ["--model", tmp_path / "model"], f"fr={tmp_path / 'fr.txt'}"
    detect = ["detect", *source, "--corpus", corpus, "--pack", "none", "--out", tmp_path / "out"]
    ablate = ["ablate", *source, "--neurons", tmp_path / "out", "--texts", corpus, "--out", tmp_path / "ablation"]
    for words in (detect, ablate):
        assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    assert main(["doctor", "--model", str(tmp_path / "model")]) == 1
    assert "are quantised: give a copy with floating-point weights" in capsys.readouterr().err
