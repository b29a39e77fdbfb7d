"""Every code block and command of README, CONTRIBUTING and docs runs as it stands."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pymultiling import demo_model
from tests.support.documentation import (
    OUTCOME,
    PAGES,
    ROOT,
    all_inline_commands,
    blocks,
    page_name,
)
from tests.support.hub_server import TOKEN, HubServer
from tests.support.published_runs import file_contents

# {what blocks need: how many blocks are not run for that reason}. "checkout": they run make, and so these tests again.
# "download" and "server": they need the network. "gpu": they need a GPU.
NOT_RUN = {"checkout": 6, "download": 7, "gpu": 3, "server": 1}
MODEL = "Qwen/Qwen3-0.6B"  # the pages' example; here the name of the small model of the package
COMMANDS = all_inline_commands()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str | None]:
    """{page or command: traceback or None}. All run in one process, whose Hub is a server on this machine."""
    with HubServer() as hub:
        hub.add(MODEL, file_contents(Path(demo_model.__file__).parent / "model"))
        home = tmp_path_factory.mktemp("home")
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.documentation"],
            cwd=ROOT,
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line.removeprefix(OUTCOME) for line in done.stderr.splitlines() if line.startswith(OUTCOME)]
    assert len(lines) == len(PAGES) + len(COMMANDS), done.stderr[-3000:]
    return dict(map(json.loads, lines))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_blocks_of_a_page_run_in_order(page, outcomes):
    assert outcomes[page_name(page)] is None, outcomes[page_name(page)]


def test_blocks_that_are_not_run_are_counted():
    assert Counter(block.needs for page in PAGES for block in blocks(page) if block.needs) == NOT_RUN


def test_every_block_says_its_language():
    assert {block.language for page in PAGES for block in blocks(page)} <= {"python", "sh", "text", "bibtex", "cpp"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_within_the_text_are_accepted_by_their_programs(command, outcomes):
    assert outcomes[command] is None, outcomes[command]


def anchor_of(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading: lower case, without punctuation, with "-" for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        linked = page if not file else (page.parent / file).resolve()
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            assert anchor in set(map(anchor_of, headings)), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1200
