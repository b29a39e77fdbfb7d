import os
import subprocess
import sys

import pytest

from pymultiling.neurons.set_files import load_sets
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, detect, repeat, run
from tests.support.hub_server import TOKEN, HubServer
from tests.support.published_runs import file_contents, random_set, write_detect_results

NAME = "me/language-neurons"


def test_pulled_results_are_those_that_were_pushed_and_can_be_used(hub, model, tmp_path, corpora, capsys):
    out, pulled = tmp_path / "out", tmp_path / "new" / "pulled"
    assert detect(model, corpora, out) == 0
    assert run("push", out, NAME, "--message", "first") == 0
    commit = hub.repositories[NAME].branches["main"]
    assert f"{out} is at {hub.url}/{NAME}/commit/{commit}" in capsys.readouterr().out
    assert run("pull", NAME, "--out", pulled) == 0
    before, after = file_contents(out), file_contents(pulled)
    assert before.pop("report.html") and after.pop("report.html")  # each is written where its folder is
    assert f"{len(after)} files of {NAME}, commit {commit}, are in {pulled}" in capsys.readouterr().out
    assert after.keys() == before.keys() | {"README.md"}
    assert hub.files(NAME) == after | {".gitattributes": hub.files(NAME)[".gitattributes"]}
    assert all(after[name] == before[name] for name in before if name.endswith((".csv", ".png")))
    for kind in ("neurons", "specific"):
        assert load_sets(pulled / kind) == load_sets(out / kind)
    assert str(tmp_path).encode() not in b"".join(after.values())
    options = ["--neurons", pulled / "specific", *repeat("--texts", corpora), "--out", tmp_path / "ablation"]
    assert run("ablate", "--model", model, *options, *SMALL_BATCHES) == 0


def test_options_reach_the_hub(hub, tmp_path):
    out = write_detect_results(tmp_path / "out", tmp_path)
    assert run("push", out, NAME, "--private", "--revision", "v2", "--message", "better corpora") == 0
    repository = hub.repositories[NAME]
    assert repository.private and repository.messages[-1] == "better corpora"
    assert run("pull", NAME, "--revision", "v2", "--out", tmp_path / "pulled") == 0
    assert load_sets(tmp_path / "pulled" / "neurons")["fr"] == random_set(1)


def test_warns_of_files_that_are_not_published(hub, tmp_path, capsys):
    out = write_detect_results(tmp_path / "out", tmp_path)
    (out / "secret.txt").write_text("secret")
    assert run("push", out, NAME) == 0
    assert_error_line(capsys, "push: not published", "secret.txt")
    assert "secret.txt" not in hub.files(NAME)


def test_reports_errors_in_one_line(hub, tmp_path, capsys, monkeypatch):
    out = write_detect_results(tmp_path / "out", tmp_path)
    for arguments, texts in (
        ((tmp_path / "absent", NAME), ("absent", "no such folder")),
        ((out, "neurons"), ("'neurons'", "OWNER/NAME")),
    ):
        assert run("push", *arguments) == 1
        assert_error_line(capsys, *texts)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("push", out, NAME) == 1
    assert_error_line(capsys, NAME, "HF_HUB_OFFLINE", "unset it")
    assert_folder_holds(tmp_path, "out")


def test_rejects_a_missing_repository_name(capsys):
    assert run("push", "out") == 2
    assert_error_line(capsys, "NAME")


@pytest.mark.long
def test_the_code_of_a_published_card_runs(model, tmp_path, corpora):
    """In a new process: detects with a model from the Hub, publishes the results, and runs the code of their card."""
    program = """
import sys
from pymultiling.cli import main
*corpora, out = sys.argv[1:]
options = [word for corpus in corpora for word in ("--corpus", corpus)]
assert main(["detect", "--model", "tiny/llama", *options, "--out", out, "--max-length", "16"]) == 0
assert main(["push", out, "me/language-neurons"]) == 0
import pymultiling as pml
card = (pml.pull_from_hub("me/language-neurons") / "README.md").read_text()
names = {}
exec(card.split("```python\\n")[1].split("\\n```")[0], names)
print(type(names["model"]).__name__, *names["sets"])
"""
    with HubServer() as hub:
        commit = hub.add("tiny/llama", file_contents(model)).branches["main"]
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        named_files = [f"{name}={path}" for name, path in corpora.items()]
        command = [sys.executable, "-c", program, *named_files, str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **home}, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "LlamaForCausalLM de fr"
        card = hub.files(NAME)["README.md"].decode()
    assert "base_model: tiny/llama" in card and f"commit `{commit}`" in card
