import pytest
import torch
from tiny import FAMILIES, sizes, tiny_model
from tiny_text import save_model

from pymultiling.cli import main


def test_says_what_can_run(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed and torch.backends.cpu.get_cpu_capability() in printed
    lines = [line.split(None, 1) for line in printed.partition("backends\n")[2].splitlines()]
    assert [name for name, _ in lines] == ["triton", "cuda", "cpp", "torch"]
    assert all(what == "can run" or what.startswith("cannot run: ") for _, what in lines)
    assert lines[-1][1] == "can run"


@pytest.mark.parametrize("name", FAMILIES)
def test_model(tmp_path, capsys, name):
    model = tiny_model(name)
    save_model(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()  # the weights are not needed
    assert main(["doctor", "--model", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert model.config.model_type in printed
    for site, width in sizes(model.config).items():
        assert f"{site:6}  {width:,} neurons a layer" in printed


def test_model_that_cannot_be_measured(tmp_path, capsys):
    from transformers import GPT2Config, GPT2LMHeadModel

    save_model(tmp_path, GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=8, n_layer=1, n_head=2)))
    assert main(["doctor", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "backends" in printed.out
    assert printed.err.count("\n") == 1 and "looked for one of llama" in printed.err
