"""Runs the examples of --help as they are, in a folder with the files and on a Hub with the model that they name."""

import json
import os
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pymultiling.cli.shared.command_line import command_modules
from tests.support.hub_server import TOKEN, HubServer
from tests.support.published_runs import file_contents
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import LANGUAGES, save_model, texts, write_text

pytestmark = pytest.mark.long

EXAMPLES = {module.COMMAND.name: shlex.split(module.COMMAND.example)[1:] for module in command_modules()}
MODEL = "Qwen/Qwen3-0.6B"
COLUMNS = ("de", "en", "es", "fr", "ru")
PUBLISHED = EXAMPLES["push"][2]

# One process runs all examples and prints their exit statuses. The demo uses the first texts only, to save time.
PROGRAM = """
import json, sys
from pymultiling import demo_model
from pymultiling.cli import main

def first_texts(read):
    return lambda: {name: texts[:10] for name, texts in read().items()}

demo_model.corpora, demo_model.heldout = first_texts(demo_model.corpora), first_texts(demo_model.heldout)
for name, arguments in json.loads(sys.argv[1]):
    print(json.dumps([name, main(arguments)]), file=sys.stderr, flush=True)
"""


def commands_in_order() -> list[str]:
    """Returns the commands in an order in which each example finds the results of others that it reads."""
    writers = {words[words.index("--out") + 1]: name for name, words in EXAMPLES.items() if "--out" in words}
    writers[PUBLISHED] = "push"
    dependencies = {
        name: {writers[path] for word in words for path in (word, word.split("/")[0]) if path in writers} - {name}
        for name, words in EXAMPLES.items()
    }
    return list(TopologicalSorter(dependencies).static_order())


def write_inputs(folder: Path) -> None:
    """Writes tiny files with the names that the examples use."""
    for path in {word.rpartition("=")[2] for words in EXAMPLES.values() for word in words}:
        if path.endswith(".txt"):
            write_text(folder / path, 3 * texts(language_of(path), seed=len(path)))  # more than a packed document
        elif path.endswith(".tsv"):
            columns = [texts(language_of(name), (5, 4, 3), seed=seed) for seed, name in enumerate(COLUMNS)]
            write_text(folder / path, ["\t".join(row) for row in (COLUMNS, *zip(*columns))])
    (folder / "texts" / "corpora").mkdir(parents=True)
    for name in ("en", "fr"):
        for seed, ending in enumerate(("txt", "heldout.txt")):
            lines = texts(language_of(name), (12,) * 40, seed=seed)
            write_text(folder / "texts" / "corpora" / f"{name}.{ending}", lines)


def language_of(name: str) -> str:
    """Returns the language of a name, or "de" if there are no tiny texts in it."""
    code = name[:2]
    return code if code in LANGUAGES else "de"


@pytest.fixture(scope="module")
def statuses(tmp_path_factory):
    """Returns {command: exit status of its example}, what was printed on stderr, and the folder."""
    folder = tmp_path_factory.mktemp("examples")
    write_inputs(folder)
    model = save_model(
        tmp_path_factory.mktemp("model"), tiny_model("llama", pad_token_id=None, max_position_embeddings=512)
    )
    with HubServer() as hub:
        hub.add(MODEL, file_contents(model))
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        examples = json.dumps([(name, EXAMPLES[name]) for name in commands_in_order()])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, examples],
            cwd=folder,
            env={**os.environ, **home, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    return dict(map(json.loads, re.findall(r'^\["\w+", \d+\]$', done.stderr, re.MULTILINE))), done.stderr, folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_works(statuses, name):
    status_by_name, printed, folder = statuses
    assert status_by_name.get(name) == 0, printed
    words = EXAMPLES[name]
    if "--out" in words:
        out = folder / words[words.index("--out") + 1]
        assert out.is_file() if out.suffix else (out / "run.json").is_file()
