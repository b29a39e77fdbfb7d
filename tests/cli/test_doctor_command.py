import json

import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.families import FAMILIES as TABLE
from pymultiling.models.family import Family
from tests.models.test_multimodal_models import multimodal_model
from tests.support.anatomy import sizes
from tests.support.tiny_models import REPRESENTATIVE_MODELS, tiny_model, unknown_model
from tests.support.tiny_text import save_model


def test_prints_versions_and_backends(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed and torch.backends.cpu.get_cpu_capability() in printed
    lines = [line.split(None, 1) for line in printed.partition("backends\n")[2].splitlines()]
    assert [name for name, _ in lines] == ["triton", "cuda", "cpp", "torch"]
    assert all(status == "can run" or status.startswith("cannot run: ") for _, status in lines)
    assert lines[-1][1] == "can run"


def printed_table(capsys, heading: str) -> dict[str, str]:
    """Returns {name: value} of the table that was printed under a heading."""
    lines = capsys.readouterr().out.partition(f"{heading}\n")[2].partition("\n\n")[0].splitlines()
    return {name.strip(): value for name, _, value in (line.strip().partition("  ") for line in lines)}


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_prints_the_number_of_neurons_without_the_weights(tmp_path, capsys, name):
    model = tiny_model(name)
    save_model(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()  # the weights are not needed
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    printed = capsys.readouterr().out
    assert model.config.model_type in printed and "agrees" not in printed
    for site, width in sizes(model.config).items():
        assert f"{site:6}  {width:,} neurons per layer" in printed


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom", "olmo2", "cohere-norms", "mixtral"])
def test_importance_agrees_with_setting_neurons_to_zero(tmp_path, capsys, name):
    assert main(["doctor", "--model", str(save_model(tmp_path, tiny_model(name)))]) == 0
    heading = "importance compared with setting neurons to zero, a few of the first and last layer"
    agreements = printed_table(capsys, heading)
    assert list(agreements) == list(pml.SITES)
    for agreement in agreements.values():
        assert agreement.strip().startswith("agrees to ") and float(agreement.split()[-1]) < 1e-4


EXACT = dict(
    ffn="exact: column_energy",
    q="exact: qk_importance",
    k="exact: qk_importance",
    v="exact: value_energy",
    o="exact: column_energy",
)
NORMED = dict.fromkeys(("ffn", "v", "o"), "exact: normed_energy")
CENTRED = "exact: centred_importance (on a GPU in plain PyTorch)"
SERIES = (
    "a series, cut at 2e-5 (1 + the largest score) on a CPU and at 1e-3 on a GPU: qk_importance and "
    "whole_norm_importance (on a GPU in plain PyTorch)"
)
NOT_CAUSAL = "Refused: perplexity, ablation_matrix, tasks, mwork, lens and fine_tune, because tokens see those after"
OF_EXPERTS = "Refused: train_only on FFN neurons, because neurons of experts cannot be trained alone."
UNLIKE_LAYERS = "Refused: models that are spread over processes (tp_plan), because layers differ in width."
LINEAR = "have linear attention in its place: they have neurons of ffn only, and results are zero there"
# {model: (what the family is followed by, how sites are measured where not as in EXACT, parts of the sentences)}
KINDS = {
    "llama": ("", {}, []),
    "gemma2": ("", NORMED, []),
    "olmo2": ("", {**NORMED, "q": SERIES, "k": SERIES}, []),
    "cohere-norms": ("", {"q": CENTRED, "k": CENTRED}, []),
    "qwen2_moe": ("", {}, [OF_EXPERTS]),
    "gpt_oss": ("", {}, [OF_EXPERTS]),
    "minimax": ("", {}, ["Layer 1 has attention. The others " + LINEAR, OF_EXPERTS, UNLIKE_LAYERS]),
    "qwen3_5_text": ("", {}, ["Layer 1 has attention. The others " + LINEAR, UNLIKE_LAYERS]),
    "deepseek_v3": ("", {}, [OF_EXPERTS, "(tp_plan), because heads share a part of their keys."]),
    "gemma4_text": (
        "",
        {**NORMED, "v": "exact: normed_value_energy (on a CPU and on a GPU in plain PyTorch)"},
        [
            "Layers 2, 3 have no neurons of k and v, and results are zero there: each is a layer which takes",
            "The importance of v is exact, but slow: up to",
            UNLIKE_LAYERS,
        ],
    ),
    "gemma3n_text": (
        "",
        {**NORMED, "v": "exact: normed_value_energy (on a CPU and on a GPU in plain PyTorch)"},
        ["Layers 2, 3 have no neurons", "slow: up to", "Refused: lens, sentence_embeddings and ilo", UNLIKE_LAYERS],
    ),
    "apertus": ("", {}, ["Refused: activations, because the sign of xielu is not that of its input."]),
    "xlm-roberta": (", an encoder", {}, [NOT_CAUSAL]),
    "t5": (", an encoder-decoder: its encoder is measured", {}, [NOT_CAUSAL]),
    "m2m_100": (", an encoder-decoder: its encoder is measured", {}, [NOT_CAUSAL]),
    "Gemma3": (": its text decoder gemma3_text is measured", NORMED, []),
}


@pytest.mark.parametrize("name", KINDS)
def test_says_of_each_site_what_is_exact_what_falls_back_and_what_is_refused(tmp_path, capsys, name):
    save_model(tmp_path, multimodal_model(name) if name == "Gemma3" else tiny_model(name))
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    printed = capsys.readouterr().out
    kind, changes, sentences = KINDS[name]
    (family,) = (line for line in printed.splitlines() if line.startswith("  family "))
    assert family.partition(")")[2] == kind
    section = printed.partition("how the importance of each site is computed\n")[2].partition("\n\n")[0]
    rows, remarks = section.splitlines()[:5], section.splitlines()[5:]
    expected = {**EXACT, **changes}
    assert [row.strip().split(None, 1) for row in rows] == [[site, expected[site]] for site in pml.SITES]
    assert len(remarks) == len(sentences)
    assert all(sentence in remark for sentence, remark in zip(sentences, remarks))


def test_prints_the_paths_of_modules_and_their_outputs(tmp_path, capsys):
    def module_paths(name):
        save_model(tmp_path, tiny_model(name))
        assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
        return {part: path.strip() for part, path in printed_table(capsys, "modules of layer 0").items()}

    attention = "transformer.h.0.self_attention"
    assert module_paths("falcon-new") == {
        "q": f"{attention}.query_key_value, outputs 0 to 15 of each block of 32",
        "k": f"{attention}.query_key_value, outputs 16 to 23 of each block of 32",
        "v": f"{attention}.query_key_value, outputs 24 to 31 of each block of 32",
        "o": f"{attention}.dense",
        "up": "transformer.h.0.mlp.dense_h_to_4h",
        "down": "transformer.h.0.mlp.dense_4h_to_h",
    }
    gemma3, phi3 = module_paths("gemma3_text"), module_paths("phi3")
    assert gemma3["q"] == "model.layers.0.self_attn.q_proj" and gemma3["gate"] == "model.layers.0.mlp.gate_proj"
    assert gemma3["norm of q"] == "model.layers.0.self_attn.q_norm"
    assert gemma3["norm after FFN"] == "model.layers.0.post_feedforward_layernorm"
    assert phi3["up"] == "model.layers.0.mlp.gate_up_proj, outputs 37 to 73 of 74"


def test_prints_the_number_of_experts(tmp_path, capsys):
    save_model(tmp_path, tiny_model("mixtral", num_local_experts=8, intermediate_size=14336, hidden_size=8))
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    printed = capsys.readouterr().out
    assert "ffn     114,688 neurons per layer: 8 experts of 14,336\n" in printed
    assert "  experts  model.layers.0.mlp.experts\n" in printed and "down" not in printed


def test_rejects_a_model_whose_family_is_wrong(tmp_path, capsys, monkeypatch):
    save_model(tmp_path, tiny_model("llama", num_key_value_heads=4))
    monkeypatch.setitem(TABLE, "llama", Family(q="k_proj", k="q_proj"))
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "does not agree: off by" in printed.out and printed.err.count("\n") == 1
    assert "at q, k importance differs from the effect of setting neurons to zero" in printed.err


def test_rejects_a_model_without_a_tokenizer(tmp_path, capsys):
    for name in ("llama", "gpt2"):  # for gpt2 transformers makes up an empty tokenizer
        tiny_model(name).save_pretrained(tmp_path)
        assert main(["doctor", "--model", str(tmp_path)]) == 1
        printed = capsys.readouterr()
        assert "agrees to" in printed.out and "has no tokenizer that can be loaded" in printed.err
        last = printed.err.strip().splitlines()[-1]
        assert last.endswith("save the model's own beside its weights (tokenizer.json, or the files of its kind)")


def test_rejects_a_model_that_cannot_be_measured(tmp_path, capsys):
    save_model(tmp_path, unknown_model())
    capsys.readouterr()  # transformers' bar while it writes
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "backends" in printed.out
    assert printed.err.count("\n") == 1 and "looked for one of llama" in printed.err


def test_rejects_quantised_weights(tmp_path, capsys):
    save_model(tmp_path, tiny_model("llama"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    capsys.readouterr()  # transformers' bar while it writes
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "are quantised: give a copy with floating-point weights" in printed.err
