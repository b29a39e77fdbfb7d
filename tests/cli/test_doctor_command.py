import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.families import FAMILIES as TABLE
from pymultiling.models.family import Family
from tests.support.anatomy import sizes
from tests.support.tiny_models import REPRESENTATIVE_MODELS, tiny_model, unknown_model
from tests.support.tiny_text import save_model


def test_says_what_can_run(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed and torch.backends.cpu.get_cpu_capability() in printed
    lines = [line.split(None, 1) for line in printed.partition("backends\n")[2].splitlines()]
    assert [name for name, _ in lines] == ["triton", "cuda", "cpp", "torch"]
    assert all(what == "can run" or what.startswith("cannot run: ") for _, what in lines)
    assert lines[-1][1] == "can run"


def printed_of(capsys, part: str) -> dict[str, str]:
    """{what: what is said of it} of one part of what was printed."""
    lines = capsys.readouterr().out.partition(f"{part}\n")[2].partition("\n\n")[0].splitlines()
    return {name.strip(): said for name, _, said in (line.strip().partition("  ") for line in lines)}


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_model(tmp_path, capsys, name):
    model = tiny_model(name)
    save_model(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()  # the weights are not needed
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    printed = capsys.readouterr().out
    assert model.config.model_type in printed and "agrees" not in printed
    for site, width in sizes(model.config).items():
        assert f"{site:6}  {width:,} neurons a layer" in printed


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom", "olmo2", "cohere-norms", "mixtral"])
def test_importance_is_checked(tmp_path, capsys, name):
    assert main(["doctor", "--model", str(save_model(tmp_path, tiny_model(name)))]) == 0
    said = printed_of(capsys, "a few neurons set to zero, in the first and the last layer")
    assert list(said) == list(pml.SITES)
    for agreement in said.values():
        assert agreement.strip().startswith("agrees to ") and float(agreement.split()[-1]) < 1e-4


def test_modules_are_named(tmp_path, capsys):
    def said_of(name):
        save_model(tmp_path, tiny_model(name))
        assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
        return {part: place.strip() for part, place in printed_of(capsys, "where layer 0 has them").items()}

    attention = "transformer.h.0.self_attention"
    assert said_of("falcon-new") == {
        "q": f"{attention}.query_key_value, outputs 0 to 15 of each block of 32",
        "k": f"{attention}.query_key_value, outputs 16 to 23 of each block of 32",
        "v": f"{attention}.query_key_value, outputs 24 to 31 of each block of 32",
        "o": f"{attention}.dense",
        "up": "transformer.h.0.mlp.dense_h_to_4h",
        "down": "transformer.h.0.mlp.dense_4h_to_h",
    }
    gemma3, phi3 = said_of("gemma3_text"), said_of("phi3")
    assert gemma3["q"] == "model.layers.0.self_attn.q_proj" and gemma3["gate"] == "model.layers.0.mlp.gate_proj"
    assert gemma3["norm of q"] == "model.layers.0.self_attn.q_norm"
    assert gemma3["norm behind FFN"] == "model.layers.0.post_feedforward_layernorm"
    assert phi3["up"] == "model.layers.0.mlp.gate_up_proj, outputs 37 to 73 of 74"


def test_experts_are_counted(tmp_path, capsys):
    save_model(tmp_path, tiny_model("mixtral", num_local_experts=8, intermediate_size=14336, hidden_size=8))
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    printed = capsys.readouterr().out
    assert "ffn     114,688 neurons a layer: 8 experts of 14,336\n" in printed
    assert "  experts  model.layers.0.mlp.experts\n" in printed and "down" not in printed


def test_a_family_that_is_wrong(tmp_path, capsys, monkeypatch):
    save_model(tmp_path, tiny_model("llama", num_key_value_heads=4))
    monkeypatch.setitem(TABLE, "llama", Family(q="k_proj", k="q_proj"))
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "does not agree: off by" in printed.out and printed.err.count("\n") == 1
    assert "not what setting neurons to zero does" in printed.err and "at q, k: its modules" in printed.err


def test_a_model_without_a_tokenizer(tmp_path, capsys):
    for name in ("llama", "gpt2"):  # of the second transformers makes an empty tokenizer
        tiny_model(name).save_pretrained(tmp_path)
        assert main(["doctor", "--model", str(tmp_path)]) == 1
        printed = capsys.readouterr()
        assert "agrees to" in printed.out and "has no tokenizer that can be loaded" in printed.err
        last = printed.err.strip().splitlines()[-1]
        assert last.endswith("save the model's own beside its weights (tokenizer.json, or the files of its kind)")


def test_model_that_cannot_be_measured(tmp_path, capsys):
    save_model(tmp_path, unknown_model())
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "backends" in printed.out
    assert printed.err.count("\n") == 1 and "looked for one of llama" in printed.err
