"""Pushing to and pulling from a local server with the Hub's protocol."""

import json
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from pymultiling.errors import CheckpointError, HubError
from pymultiling.hub import pull_from_hub, push_to_hub
from pymultiling.hub.errors import hub_errors
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.set_files import load_sets
from pymultiling.runtime.storage import read_metadata, save_tensors
from tests.support.hub_server import READER, HubServer
from tests.support.published_runs import (
    COMMIT,
    CORPUS_HASH,
    random_set,
    random_statistics,
    set_hub_endpoint,
    use_hub_server,
    write_detect_results,
)

NAME = "me/language-neurons"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        yield use_hub_server(server, monkeypatch, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return write_detect_results(tmp_path / "out", tmp_path / "private")


def file_contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commit_requests(hub: HubServer) -> list[str]:
    return [request for request in hub.requests if "/commit/" in request]


def test_pulled_files_equal_the_pushed_ones(hub, folder):
    url = push_to_hub(folder, NAME)
    pulled = pull_from_hub(NAME)
    assert url == f"{hub.url}/{NAME}/commit/{pulled.name}" and pulled.name == hub.repositories[NAME].branches["main"]
    before, after = file_contents(folder), file_contents(pulled)
    assert after.keys() == before.keys() | {"README.md"}
    assert all(after[name] == content for name, content in before.items() if name != "run.json")
    assert load_sets(pulled / "neurons") == {"de": random_set(0), "fr": random_set(1)}
    assert load_sets(pulled / "specific") == {"de": random_set(2), "fr": random_set(3)}
    statistics, expected = NeuronStatistics.load(pulled / "statistics" / "fr.safetensors"), random_statistics(1)
    assert (statistics.documents, statistics.tokens, statistics.rule) == (
        expected.documents,
        expected.tokens,
        expected.rule,
    )
    for kind in ("sum", "minimum", "votes"):
        assert all(
            torch.equal(getattr(statistics, kind)[site], values) for site, values in getattr(expected, kind).items()
        )


def test_no_local_folder_is_published(hub, tmp_path):
    model = str(tmp_path / "models" / "mine")
    out = write_detect_results(tmp_path / "out", tmp_path / "private", model, commit=None)
    push_to_hub(out, NAME)
    files = hub.files(NAME)
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content or b"private/" in content]
    record = json.loads(files["run.json"])
    assert record["arguments"]["corpus"] == [["de", "de.txt"], ["fr", "fr.txt"]] and record["arguments"]["out"] == "out"
    assert record["corpora"]["fr"] == {"file": "fr.txt", "sha256": CORPUS_HASH} and record["model"]["name"] == "mine"
    pulled = pull_from_hub(NAME)
    for kind in ("neurons", "statistics"):
        local_file, pulled_file = out / kind / "fr.safetensors", pulled / kind / "fr.safetensors"
        tensors = load_file(pulled_file)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in load_file(local_file).items())
    metadata = read_metadata(pulled / "neurons" / "fr.safetensors")
    fields = {"format": "pymultiling.neurons/1", "model": "mine", "language": "fr"}
    assert metadata == {**fields, "tensor_count": str(len(load_file(pulled / "neurons" / "fr.safetensors")))}


def test_a_model_from_the_hub_keeps_its_name(hub, folder):
    push_to_hub(folder, NAME)
    record = json.loads(hub.files(NAME)["run.json"])
    assert record["arguments"]["model"] == "tiny/llama"
    assert record["model"] == {"name": "tiny/llama", "revision": COMMIT, "type": "llama", "dtype": "float32"}


def test_other_files_are_not_published_and_are_named(hub, folder):
    (folder / "secret.txt").write_text("secret")
    (folder / "mine.csv").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "README.md").write_text("secret")
    (folder / "cut.safetensors").write_bytes(b"secret")
    save_file({"secret": torch.zeros(2)}, folder / "weights.safetensors", {"format": "pt"})
    expected = r"not published, because .*: \.git/config, README\.md, cut\.safetensors and 3 more"
    with pytest.warns(UserWarning, match=expected):
        push_to_hub(folder, NAME)
    files = hub.files(NAME)
    assert set(files) == {
        ".gitattributes", "README.md", "run.json", "report.csv", "neurons.png",
        *(f"{kind}/{name}.safetensors" for kind in ("neurons", "specific", "statistics") for name in ("de", "fr")),
    }  # fmt: skip
    assert not any(b"secret" in content for content in files.values())


def test_a_record_with_a_file_outside_the_folder_is_refused(hub, folder):
    (folder.parent / "mine.csv").write_text("secret")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "files": [*record["files"], "../mine.csv"]}))
    with pytest.raises(HubError, match="is not a record of a pymultiling run"):
        push_to_hub(folder, NAME)
    assert hub.requests == []


def test_a_second_push_replaces_the_first(hub, folder):
    push_to_hub(folder, NAME)
    repository = hub.repositories[NAME]
    repository.commit("main", hub.files(NAME) | {"LICENSE": b"mine", "notes/a.csv": b"mine"}, "by hand")
    for kind in ("neurons", "specific", "statistics"):
        (folder / kind / "fr.safetensors").unlink()
    random_set(9).save(folder / "neurons" / "de.safetensors")
    push_to_hub(folder, NAME)
    files = hub.files(NAME)
    assert not [name for name in files if "fr." in name]
    assert files["LICENSE"] == files["notes/a.csv"] == b"mine"
    assert load_sets(pull_from_hub(NAME) / "neurons") == {"de": random_set(9)}


def test_a_pulled_folder_can_be_pushed_again(hub, folder):
    push_to_hub(folder, NAME)
    first = pull_from_hub(NAME)
    push_to_hub(first, "me/copy")
    assert {**hub.files("me/copy"), "README.md": b""} == {**hub.files(NAME), "README.md": b""}
    assert hub.files("me/copy")["README.md"] == hub.files(NAME)["README.md"].replace(NAME.encode(), b"me/copy")


@pytest.mark.parametrize("theirs", ["README.md", "neurons/fr.safetensors"])
def test_files_that_no_push_wrote_are_not_replaced(hub, folder, theirs):
    hub.add(NAME, {theirs: b"theirs", "model.safetensors": b"weights"})
    with pytest.raises(HubError, match=f"{NAME} has a file {theirs} that no push wrote: give another repository"):
        push_to_hub(folder, NAME)
    assert hub.files(NAME) == {theirs: b"theirs", "model.safetensors": b"weights"} and commit_requests(hub) == []


def test_private_branch_and_message_reach_the_hub(hub, folder, monkeypatch):
    push_to_hub(folder, NAME, private=True, revision="v2", message="better corpora")
    repository = hub.repositories[NAME]
    assert repository.private and repository.messages[-1] == "better corpora"
    assert "run.json" in hub.files(NAME, "v2") and "run.json" not in hub.files(NAME, "main")
    assert pull_from_hub(NAME, revision="v2").name == repository.branches["v2"]
    push_to_hub(folder, "me/open")
    assert not hub.repositories["me/open"].private
    assert hub.repositories["me/open"].messages[-1].startswith("Upload with pymultiling")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="not on the Hub, or you may not see it"):
        pull_from_hub(NAME)
    assert pull_from_hub(NAME, revision="v2", token="hf_writer", cache_dir=folder.parent / "new").is_dir()


def test_private_is_refused_for_a_public_repository(hub, folder):
    hub.add(NAME, {".gitattributes": b""})
    with pytest.raises(HubError, match="is public already"):
        push_to_hub(folder, NAME, private=True)
    assert commit_requests(hub) == []


def test_a_folder_without_a_record_can_be_pushed(hub, tmp_path):
    random_set(1).save(tmp_path / "fr [new].safetensors")
    counts = ActivationStatistics(torch.arange(6).view(2, 3), 10)
    (tmp_path / "counts").mkdir()
    counts.save(tmp_path / "counts" / "de.safetensors")
    (tmp_path / "table.csv").write_text("mine")
    with pytest.warns(UserWarning, match="table.csv"):
        push_to_hub(tmp_path, NAME)
    pulled = pull_from_hub(NAME)
    assert set(file_contents(pulled)) == {"README.md", "run.json", "fr [new].safetensors", "counts/de.safetensors"}
    assert load_sets(pulled) == {"fr [new]": random_set(1)}
    assert torch.equal(ActivationStatistics.load(pulled / "counts" / "de.safetensors").active, counts.active)


def test_other_files_of_the_repository_are_not_pulled(hub, folder):
    push_to_hub(folder, NAME)
    hub.repositories[NAME].commit("main", hub.files(NAME) | {"model.safetensors": b"1", "code.py": b"1"}, "by hand")
    assert file_contents(pull_from_hub(NAME)).keys() == file_contents(folder).keys() | {"README.md"}
    assert not [request for request in hub.requests if "model.safetensors" in request or "code.py" in request]


def test_a_repository_that_push_did_not_write_is_not_pulled(hub):
    hub.add("some/llm", {"README.md": b"", "model.safetensors": b"weights", "config.json": b"{}"})
    with pytest.raises(HubError, match=r"some/llm has no run.json, so push did not write it"):
        pull_from_hub("some/llm")
    assert not [request for request in hub.requests if "resolve" in request]


@pytest.mark.parametrize(
    "record, message",
    [
        (b"{", "is not a record of a pymultiling run"),
        (b"[1]", "is not a record of a pymultiling run"),
        (b'{"files": ["a.csv"]}', "is not a record of a pymultiling run"),
        (b'{"versions": {"pymultiling": "1"}, "files": ["../a.csv"]}', "is not a record of a pymultiling run"),
        (b'{"versions": {"pymultiling": "1"}, "files": ["/a.csv"]}', "is not a record of a pymultiling run"),
        (b'{"versions": {"pymultiling": "1"}, "files": ["a.pkl"]}', "lists a.pkl, which push never writes"),
        (b'{"versions": {"pymultiling": "1"}, "files": ["gone.csv"]}', "lacks gone.csv, which its run.json lists"),
    ],
)
def test_invalid_records_on_the_hub_are_refused(hub, record, message):
    hub.add(NAME, {"run.json": record, "a.csv": b"", "a.pkl": b""})
    with pytest.raises(HubError, match=message):
        pull_from_hub(NAME)


def test_without_a_network_the_cache_is_used(hub, folder, monkeypatch):
    push_to_hub(folder, NAME)
    online = file_contents(pull_from_hub(NAME))
    before = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert file_contents(pull_from_hub(NAME)) == online
    for call in (lambda: pull_from_hub("me/never-seen"), lambda: push_to_hub(folder, NAME)):
        with pytest.raises(HubError, match=r"while HF_HUB_OFFLINE is set.*: unset it"):
            call()
    assert len(hub.requests) == before
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        set_hub_endpoint(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        assert file_contents(pull_from_hub(NAME)) == online
        for call in (lambda: pull_from_hub("me/never-seen"), lambda: push_to_hub(folder, NAME)):
            with pytest.raises(HubError, match=r"ConnectError.*: check the network, and try again"):
                call()


@pytest.mark.parametrize("name", ["neurons", "a/b/c", "me/two words", "me/-x", "", "../x"])
def test_invalid_repository_names_are_refused(hub, folder, name):
    for call in (lambda: pull_from_hub(name), lambda: push_to_hub(folder, name)):
        with pytest.raises(HubError, match="cannot be a repository's name: give OWNER/NAME"):
            call()
    assert hub.requests == []


def test_missing_repositories_and_revisions_are_reported(hub, folder):
    push_to_hub(folder, NAME)
    with pytest.raises(HubError, match="me/other is not on the Hub, or you may not see it: check the name"):
        pull_from_hub("me/other")
    with pytest.raises(HubError, match=f"{NAME} has no revision 'v9': give one of its branches"):
        pull_from_hub(NAME, revision="v9")


def test_tokens_without_access_are_reported(hub, folder, monkeypatch):
    for token, message in (("hf_unknown", "needs a token to write"), (READER, "does not let you write")):
        with pytest.raises(HubError, match=f"the Hub {message} {NAME}: .*token"):
            push_to_hub(folder, NAME, token=token)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "none"))
    with pytest.raises(HubError, match=r"needs a token to write .*: log in with `hf auth login`, or set HF_TOKEN"):
        push_to_hub(folder, NAME)
    assert hub.repositories == {}


def test_a_failing_hub_is_reported(hub, folder):
    hub.status = 503
    with pytest.raises(HubError, match=r"me/.* could not be written to the Hub \(status 503: .*: try again later"):
        push_to_hub(folder, NAME)
    with pytest.raises(HubError, match=r"me/.* could not be read from the Hub \(status 503: .*: try again later"):
        pull_from_hub(NAME)


def test_an_error_of_the_network_without_text_is_named_by_its_type():
    with (
        pytest.raises(HubError, match=r"could not be read from the Hub \(TimeoutError\): check the network"),
        hub_errors(NAME, None, "read"),
    ):
        raise TimeoutError


def test_folders_without_publishable_files_are_refused(hub, tmp_path):
    with pytest.raises(HubError, match="absent: no such folder"):
        push_to_hub(tmp_path / "absent", NAME)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(HubError, match="has no files of pymultiling: give a folder that a command wrote"):
        push_to_hub(tmp_path, NAME)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(HubError, match=r"run.json of .* is not a record of a pymultiling run"):
        push_to_hub(tmp_path, NAME)
    assert hub.requests == []


def test_a_damaged_set_is_not_pushed(hub, tmp_path):
    save_tensors(tmp_path / "fr.safetensors", {"ffn": torch.zeros(3)}, "pymultiling.neurons/1", {})
    with pytest.raises(CheckpointError, match="'ffn' must be U8, got F32"):
        push_to_hub(tmp_path, NAME)
    assert hub.requests == []


def test_folders_without_sets_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no .safetensors files"):
        load_sets(tmp_path)
    random_statistics(0).save(tmp_path / "fr.safetensors")
    with pytest.raises(CheckpointError, match=r"expected a set of neurons"):
        load_sets(tmp_path)
