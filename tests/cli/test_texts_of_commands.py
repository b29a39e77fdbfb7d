"""All commands that take texts read them from the same places: here a compressed file of another encoding on a server,
whose records have the texts in another field.
"""

import json

import pyarrow
import pytest
import torch

import pymultiling as pml
from tests.support.command_line import SMALL_BATCHES, assert_error_line, run
from tests.support.file_server import file_server
from tests.support.tiny_text import WORDS, texts

pytest.importorskip("aiohttp")

LANGUAGES = ("fr", "de")


def _stored(lines: list[str]) -> bytes:
    return pyarrow.compress("".join(f"{line}\n" for line in lines).encode("utf-16"), "zstd", asbytes=True)


def _records(lines: list[str]) -> bytes:
    return _stored([json.dumps({"content": line}) for line in lines])


FILES = {f"{language}.jsonl.zst": _records(texts(language)) for language in LANGUAGES} | {
    "heldout.jsonl.zst": _records(texts("fr", seed=1)),
    "table.tsv.zst": _stored(["de\tfr\ten", *("\t".join(WORDS[n : n + 3]) for n in range(3))]),
}


def options_of(command: str, url: str, neurons) -> list[object]:
    """Returns the options of a command that reads files of the server."""
    both = [f"{language}={url}/{language}.jsonl.zst" for language in LANGUAGES]
    return {
        "detect": ["--corpus", both[0], "--corpus", both[1], *SMALL_BATCHES],
        "count": ["--corpus", both[0], "--corpus", both[1], *SMALL_BATCHES],
        "ablate": [
            *("--texts", both[0], "--mean", f"{url}/de.jsonl.zst", "--neurons", f"fr={neurons}"), *SMALL_BATCHES
        ],
        "lens": ["--texts", both[0], "--languages", "en,fr", *SMALL_BATCHES],
        "tune": [
            *("--texts", f"{url}/fr.jsonl.zst", "--heldout", f"fr={url}/heldout.jsonl.zst", "--freeze", "1"),
            *SMALL_BATCHES,
        ],
        "mwork": [
            *("--text", both[0], "--text", both[1], "--neurons", f"fr={neurons}", "--understanding", "1"),
            *("--generation", "1", "--english", "de", "--seeds", "1", "--batch-tokens", "256"),
        ],
        "ilo": ["--sentences", both[0], "--sentences", both[1], "--k", "2", "--tau", "1", *SMALL_BATCHES],
        "pmi": ["--inputs", f"{url}/table.tsv.zst", "--source", "de", "--target", "en", "--count-only"],
    }[command]  # fmt: skip


COMMANDS = ("detect", "count", "ablate", "lens", "tune", "mwork", "ilo", "pmi")


@pytest.fixture
def neurons(tmp_path):
    pml.NeuronSet({"ffn": torch.ones(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    return tmp_path / "fr.safetensors"


@pytest.mark.parametrize("command", COMMANDS)
def test_reads_each_file_of_a_server_once(model, tmp_path, neurons, command, capsys):
    """The files are compared with what the server sent: each that the options name, and each with one GET."""
    if command == "lens":
        pytest.importorskip("lingua")
    if command == "tune":
        pytest.importorskip("accelerate")
    with file_server(FILES) as server:
        options = options_of(command, server.url, neurons)
        field = [] if command == "pmi" else ["--field", "content"]
        settings = ["--encoding", "utf-16", *field, "--out", tmp_path / "out"]
        status = run(command, "--model", model, *options, *settings)
        assert status == 0, capsys.readouterr().err
        named = {name for name in FILES if any(name in str(option) for option in options)}
        assert sorted(request for request in server.requests if request.startswith("GET")) == sorted(
            f"GET /{name}" for name in named
        )
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert all("fingerprints" in entry for entry in record["corpora"].values()) and record["corpora"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_the_server_refuses_is_an_error_that_says_so(model, tmp_path, neurons, command, capsys):
    with file_server({}) as server:
        server.status = 403
        options = options_of(command, server.url, neurons)
        assert run(command, "--model", model, *options, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "cannot be read (the server answers 403 Forbidden): log in, or check the address")
    assert not (tmp_path / "out").exists()
