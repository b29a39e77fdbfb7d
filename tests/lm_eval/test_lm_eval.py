"""lm-eval's model `pymultiling` against its own model `hf` with zeroed parameters."""

import copy
import gc
import importlib
import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pymultiling import CheckpointError, NeuronSet, demo_model
from tests.support.tiny_models import random_neurons, tiny_model, with_zeroed_neurons

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
TASKS = {
    "choice": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    "generation": {
        "output_type": "generate_until",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    },
}
METRICS = {"choice": "acc", "rolling": "byte_perplexity", "generation": "exact_match"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with models, sets of neurons and tasks."""
    folder = tmp_path_factory.mktemp("lm_eval")
    model, tokenizer = demo_model.load()
    neurons = random_neurons(model, 0.1)
    for name, variant in {"plain": model, "zeroed": with_zeroed_neurons(model, neurons)}.items():
        variant.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    neurons.save(folder / "some.safetensors")
    neurons.only("ffn").save(folder / "ffn.safetensors")
    random_neurons(tiny_model("llama")).save(folder / "other.safetensors")

    lines = [text for texts in demo_model.heldout().values() for text in texts[:1]]
    with (folder / "lines.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(lines):
            third = len(text) // 3
            choices = [text[third : 2 * third], text[2 * third :]]
            print(json.dumps({"text": text[:third], "choices": choices, "answer": number % 2}), file=file)
    (folder / "tasks").mkdir()
    for name, task in TASKS.items():
        data = {"data_files": {"test": str(folder / "lines.jsonl")}, "cache_dir": str(folder / "cache")}
        task = {"doc_to_text": "{{text}}"} | task | {"metric_list": [{"metric": METRICS[name]}]}
        task |= {"task": f"local_{name}", "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task), "utf-8")  # JSON is valid YAML
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """{model: lm-eval's results of all tasks}, for the models "plain", "zeroed" and "off"."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    import pymultiling.lm_eval  # noqa: F401  (registers the model)

    tasks = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    off = {"pretrained": str(folder / "plain"), "neurons": str(folder / "some.safetensors")}
    runs = {
        "plain": ("hf", {"pretrained": str(folder / "plain")}),
        "zeroed": ("hf", {"pretrained": str(folder / "zeroed")}),
        "off": ("pymultiling", off),
    }
    return {
        name: lm_eval.simple_evaluate(
            model,
            arguments,
            tasks=[f"local_{task}" for task in TASKS],
            task_manager=tasks,
            batch_size=3,
            device="cpu",
            bootstrap_iters=0,
        )
        for name, (model, arguments) in runs.items()
    }


def answers(result, name: str) -> list:
    """Returns the answer to each item of a task: (log-likelihood, whether it is greedy), log-likelihoods or texts."""
    return [sample["filtered_resps"] for sample in result["samples"][f"local_{name}"]]


def likelihoods(result) -> torch.Tensor:
    return torch.tensor([[value for value, _ in item] for item in answers(result, "choice")])


def test_likelihoods_are_those_of_zeroed_parameters(results):
    torch.testing.assert_close(likelihoods(results["off"]), likelihoods(results["zeroed"]))
    assert ((likelihoods(results["off"]) - likelihoods(results["plain"])).abs() > 0.01).all()


def test_texts_are_those_of_zeroed_parameters(results):
    assert answers(results["off"], "generation") == answers(results["zeroed"], "generation")
    assert answers(results["off"], "generation") != answers(results["plain"], "generation")


def test_metrics_are_those_of_zeroed_parameters(results):
    for name, metric in METRICS.items():
        off, zero = (results[model]["results"][f"local_{name}"][f"{metric},none"] for model in ("off", "zeroed"))
        assert off == pytest.approx(zero, rel=1e-5)
    off, plain = (results[model]["results"]["local_rolling"]["byte_perplexity,none"] for model in ("off", "plain"))
    assert off > 1.01 * plain


@pytest.mark.long
def test_the_command_line_gives_the_likelihoods_of_zeroed_parameters(folder, results):
    arguments = f"pretrained={folder / 'plain'},neurons={folder / 'some.safetensors'}"
    command = [sys.executable, "-m", "pymultiling.lm_eval", "--model", "pymultiling", "--model_args", arguments]
    command += ["--tasks", "local_choice", "--include_path", str(folder / "tasks"), "--device", "cpu"]
    command += ["--batch_size", "3", "--output_path", str(folder / "out"), "--log_samples"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process, for equal numbers
    process = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment)
    assert process.returncode == 0, process.stderr
    assert "local_choice" in process.stdout
    (samples,) = (folder / "out").rglob("samples_local_choice_*.jsonl")
    values = [json.loads(line)["filtered_resps"] for line in samples.read_text("utf-8").splitlines()]
    logged_likelihoods = torch.tensor([[float(value) for value, _ in item] for item in values])
    torch.testing.assert_close(logged_likelihoods, likelihoods(results["zeroed"]))


def test_scale_2_equals_doubled_weights_and_ends_with_the_object(folder):
    """Doubled activations equal doubled columns of the weights that read them. The passed model is then unchanged."""
    from pymultiling.lm_eval import Deactivated

    model, tokenizer = demo_model.load()
    doubled = copy.deepcopy(model)
    for layer, n in NeuronSet.load(folder / "ffn.safetensors").sites["ffn"].nonzero().tolist():
        doubled.model.layers[layer].mlp.down_proj.weight.data[:, n] *= 2
    input_ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(input_ids).logits
        harness = Deactivated(model, tokenizer=tokenizer, neurons=folder / "ffn.safetensors", scale=2.0)
        torch.testing.assert_close(harness.model(input_ids).logits, doubled(input_ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(before, model(input_ids).logits, atol=0.01)
        del harness
        gc.collect()
        assert torch.equal(before, model(input_ids).logits)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            "neurons={folder}/none.safetensors",
            CheckpointError,
            "none.safetensors: no such file; expected a set of neurons",
        ),
        ("neurons={folder}/plain/model.safetensors", CheckpointError, "expected a set of neurons"),
        ("neurons={folder}/lines.jsonl", CheckpointError, "is not a set of neurons, or is damaged"),
        ("neurons={folder}/other.safetensors", ValueError, "of another model: its ffn is 2 layers x 37 neurons"),
        ("neurons={folder}/some.safetensors,scale=two", ValueError, "scale must be a finite number, .* got 'two'"),
        ("neurons={folder}/some.safetensors,scale=nan", ValueError, "scale must be a finite number, .* got nan"),
        ("scale=2.0", TypeError, "missing 1 required keyword-only argument: 'neurons'"),
    ],
)
def test_invalid_arguments_are_refused_with_a_message(folder, arguments, error, message):
    """The command line gives the arguments as one string."""
    from pymultiling.lm_eval import Deactivated

    with pytest.raises(error, match=message):
        Deactivated.create_from_arg_string(
            f"pretrained={folder}/plain,{arguments.format(folder=folder)}", {"device": "cpu"}
        )


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "pymultiling.lm_eval", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pymultiling\[lm-eval\]'"):
        importlib.import_module("pymultiling.lm_eval")


def test_the_entry_point_names_the_model():
    import pymultiling.lm_eval

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["entry-points"]["lm_eval.models"]["pymultiling"].partition(":")
    assert getattr(importlib.import_module(module), name) is pymultiling.lm_eval.Deactivated
