"""Writes small result folders of `detect`, and makes the Hub client use a server on this machine."""

from __future__ import annotations

from pathlib import Path

import torch

import pymultiling as pml
from pymultiling.results.run import Run
from tests.support.hub_server import TOKEN, HubServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CORPUS_HASH = "ab" * 32  # the SHA-256 that run.json has for every corpus
WIDTHS, LAYERS = {"ffn": 12, "q": 8}, 3  # {site: neurons of a layer}, number of layers


def use_hub_server(server: HubServer, monkeypatch, cache: Path, token: str = TOKEN) -> HubServer:
    """Makes the Hub client use this server, this folder as its cache, and this token. Returns the server."""
    set_hub_endpoint(server.url, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return server


def set_hub_endpoint(url: str, monkeypatch) -> None:
    """Sets the client's endpoint as HF_ENDPOINT does, which the client reads only when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)  # of the functions at the top of huggingface_hub


def random_set(seed: int) -> pml.NeuronSet:
    """Returns a random set of 30% of the neurons."""
    generator = torch.Generator().manual_seed(seed)
    return pml.NeuronSet({site: torch.rand(LAYERS, width, generator=generator) < 0.3 for site, width in WIDTHS.items()})


def random_statistics(seed: int, documents: int = 5) -> pml.NeuronStatistics:
    """Returns statistics of random importance."""
    generator = torch.Generator().manual_seed(seed)
    importance = {site: torch.rand(documents, LAYERS, width, generator=generator) for site, width in WIDTHS.items()}
    votes = {site: values > 0.5 for site, values in importance.items()}
    return pml.NeuronStatistics.of_batch(importance, votes, tokens=1234 + seed, rule="top-k, ffn 0.1, attention 0.1")


def write_detect_results(folder: Path, corpora: Path, model: str = "tiny/llama", commit: str | None = COMMIT) -> Path:
    """Writes a result folder of `detect` and returns it.

    Args:
        folder: the result folder.
        corpora: folder that the corpora are said to be in. Nothing is read from it.
        model: name of the model.
        commit: commit of the model on the Hub. None: the model is in a local folder.
    """
    run = Run(
        "detect",
        {
            "corpus": [[name, str(corpora / f"{name}.txt")] for name in ("de", "fr")],
            "model": model,
            "revision": None,
            "out": folder,
            "max_length": 16,
            "ffn": 0.1,
            "sites": ["ffn", "q"],
        },
        {
            "card": {
                "title": "Language neurons",
                "about": "The neurons that matter for each language's text, and those that matter for it alone.",
                "papers": {"2402.18815": "importance of neurons, language neurons and what happens without them"},
            },
            "command_line": {
                "corpus": [word for name in ("de", "fr") for word in ("--corpus", f"{name}={corpora / f'{name}.txt'}")],
                "model": ["--model", model],
                "out": ["--out", str(folder)],
                "max_length": ["--max-length", "16"],
                "ffn": ["--ffn", "0.1"],
                "sites": ["--sites", "ffn,q"],
            },
            "published_whole": {"arguments": ["revision"], "facts": ["rule"]},
        },
    )
    for number, kind in enumerate(("neurons", "specific", "statistics")):
        (folder / kind).mkdir(parents=True)
        for index, language in enumerate(("de", "fr")):
            file = folder / kind / f"{language}.safetensors"
            if kind == "statistics":
                random_statistics(index).save(file)
            else:
                random_set(2 * number + index).save(file, model=model, language=language)
    (folder / "report.csv").write_text("language,site\nfr,ffn\n")
    (folder / "neurons.png").write_bytes(b"\x89PNG")
    files = {name: {"file": str(corpora / f"{name}.txt"), "sha256": CORPUS_HASH} for name in ("de", "fr")}
    known = {"name": model, "revision": commit, "type": "llama", "dtype": "float32"}
    run.note(corpora=files, rule="top-k, ffn 0.1, attention 0.1", model=known, device="cpu")
    run.write(folder)
    return folder


def file_contents(folder: Path) -> dict[str, bytes]:
    """Returns {relative path: content} of all files in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
