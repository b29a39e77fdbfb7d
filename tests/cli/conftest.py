"""Fixtures for commands: a saved tiny model, corpora of two languages, and a Hugging Face Hub on this machine."""

from pathlib import Path

import pytest

from tests.support.hub_server import HubServer
from tests.support.published_runs import use_hub_server
from tests.support.tiny_text import save_model, texts, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpora(tmp_path) -> dict[str, Path]:
    return {name: write_text(tmp_path / f"{name}.txt", texts(name)) for name in ("fr", "de")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        yield use_hub_server(server, monkeypatch, tmp_path / "cache")
