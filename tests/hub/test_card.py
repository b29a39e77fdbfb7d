"""The card of a published folder: its metadata, tables, loading code and origin."""

import json

import pytest
import torch
from huggingface_hub import ModelCard

from pymultiling.data.languages import language_codes
from pymultiling.errors import HubError
from pymultiling.hub import push_to_hub
from pymultiling.hub.publishing import public_record, strip_folders
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.results.run import Run
from tests.support.hub_server import HubServer
from tests.support.published_runs import (
    COMMIT,
    CORPUS_HASH,
    LAYERS,
    random_set,
    use_hub_server,
    write_detect_results,
)

NAME = "me/language-neurons"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        yield use_hub_server(server, monkeypatch, tmp_path / "cache")


def push_card(hub: HubServer, folder, revision=None) -> ModelCard:
    push_to_hub(folder, NAME, revision=revision)
    return ModelCard(hub.files(NAME, revision or "main")["README.md"].decode())


def python_code(card: ModelCard) -> str:
    return card.text.split("```python\n")[1].split("\n```")[0]


def table_rows(card: ModelCard) -> dict[str, list[str]]:
    """Returns the rows of all tables by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}


def test_metadata_names_library_model_and_languages(hub, tmp_path):
    data = push_card(hub, write_detect_results(tmp_path / "out", tmp_path)).data.to_dict()
    assert data == {
        "library_name": "pymultiling",
        "base_model": "tiny/llama",
        "language": ["de", "fr"],
        "tags": ["multilingual", "interpretability", "language-neurons"],
    }


@pytest.mark.parametrize(
    "form, shown",
    [("png", "![neurons.png](<neurons.png>)"), ("svg", "![neurons.svg](<"), ("pdf", "Plots: [neurons.pdf](<")],
)
def test_plots_of_every_format_are_published_and_shown_or_linked(hub, tmp_path, form, shown):
    folder = write_detect_results(tmp_path / "out", tmp_path)
    (folder / "neurons.png").rename(folder / f"neurons.{form}")
    record = (folder / "run.json").read_text("utf-8")
    (folder / "run.json").write_text(record.replace('"neurons.png"', f'"neurons.{form}"'), "utf-8")
    assert shown in push_card(hub, folder).text
    assert f"neurons.{form}" in hub.files(NAME)


@pytest.mark.parametrize("model", ["models/llama", "llama", "/home/me/llama"])
def test_a_local_model_is_no_base_model(hub, tmp_path, model):
    card = push_card(hub, write_detect_results(tmp_path / "out", tmp_path, model, commit=None))
    assert card.data.base_model is None and "# Language neurons: llama\n" in card.text
    assert "huggingface.co" not in card.text and "from_pretrained" not in card.text
    assert "models/llama" not in card.text and "/home" not in card.text


def test_only_language_codes_are_languages():
    names = ["fr", "pt-BR", "fra_Latn", "no", "xx", "all", "PMI-1", "specific", "random as fr", "FR", "fr"]
    assert language_codes(names) == ["fr", "pt", "fra", "no"]


def test_the_code_no_is_not_read_as_false(hub, tmp_path):
    random_set(0).save(tmp_path / "no.safetensors")
    assert push_card(hub, tmp_path).data.language == ["no"]


def test_the_table_counts_neurons_and_texts(hub, tmp_path):
    card = push_card(hub, write_detect_results(tmp_path / "out", tmp_path))
    rows = table_rows(card)
    assert rows["language"] == ["documents", "tokens", "ffn", "q", "all sites"]
    for place, language in enumerate(("de", "fr")):
        selected, specific = random_set(place), random_set(2 + place)
        expected = [f"{selected.count()[site]} / {specific.count()[site]}" for site in ("ffn", "q")]
        assert rows[language][:5] == ["5", f"{1234 + place:,}", *expected, f"{len(selected)} / {len(specific)}"] or (
            rows[language] == [f"{language}.txt", f"`{CORPUS_HASH}`"]
        )
    assert f"{LAYERS} layers has 12 (ffn), 8 (q)." in card.text


def test_names_that_are_not_languages_have_a_separate_table(hub, tmp_path):
    for kind, names in (("neurons", ("de", "fr")), ("kinds", ("general", "related"))):
        (tmp_path / kind).mkdir()
        for seed, name in enumerate(names):
            random_set(seed).only("ffn").save(tmp_path / kind / f"{name}.safetensors")
    text = push_card(hub, tmp_path).text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert [table.splitlines()[0] for table in tables] == [
        "| language | ffn | q | all sites |",
        "| name | ffn | q | all sites |",
    ]
    assert (
        tables[1].splitlines()[2]
        == f"| general | {random_set(0).count()['ffn']} | 0 | {random_set(0).count()['ffn']} |"
    )


def test_the_card_says_how_the_results_were_made(hub, tmp_path):
    folder = write_detect_results(tmp_path / "out", tmp_path / "private")
    text = push_card(hub, folder).text
    record = json.loads((folder / "run.json").read_text())
    assert f"[tiny/llama](https://huggingface.co/tiny/llama), commit `{COMMIT}`; llama, float32, on cpu" in text
    assert "rule: top-k, ffn 0.1, attention 0.1" in text and record["started"] in text
    assert all(f"{name} {version}" in text for name, version in record["versions"].items())
    assert f"| de | de.txt | `{CORPUS_HASH}` |" in text and "https://arxiv.org/abs/2402.18815" in text
    command = "pymultiling detect --corpus de=de.txt --corpus fr=fr.txt --model tiny/llama --out out --max-length 16"
    assert f"```\n{command} --ffn 0.1 --sites ffn,q\n```" in text
    assert "private" not in text


def test_corpora_are_listed_shortened_and_without_folders_hosts_and_keys(hub, tmp_path):
    folder = write_detect_results(tmp_path / "out", tmp_path)
    record = json.loads((folder / "run.json").read_text())
    shards = {f"/home/me/{number}/part.txt": f"{number:02}" for number in range(6)}
    record["corpora"] = {
        "fr": {"file": "/home/me/*/part.txt", "files": shards},
        "de": {"file": "hf://datasets/a/b/*.txt", "fingerprints": {"hf://datasets/a/b/1.txt": "77"}},
        "es": {"file": "https://me:key@host/x/es.txt?key=1", "fingerprints": {"https://host/x/es.txt?key=1": "88"}},
    }
    (folder / "run.json").write_text(json.dumps(record))
    text = push_card(hub, folder).text
    for number, name in enumerate(("part.txt", "part.txt (2)", "part.txt (3)", "part.txt (4)")):
        assert f"| fr | {name} | `{number:02}` |" in text
    assert "| fr | and 2 more files | in `run.json` |" in text and "`04`" not in text
    assert "| de | hf://datasets/a/b/1.txt | `77` |" in text and "| es | es.txt | `88` |" in text
    published = hub.files(NAME)["run.json"].decode()
    assert json.loads(published)["corpora"]["fr"]["files"]["part.txt (6)"] == "05"
    assert "/home" not in published and "key" not in published and "host" not in published


@pytest.mark.parametrize(
    "value, shown",
    [
        ("/home/me/fr.txt", "fr.txt"),
        ("fr=/home/me/fr.txt", "fr=fr.txt"),
        ("/home/x=1/fr.txt", "fr.txt"),
        ("~/texts/", "texts"),
        ("C:\\texts\\fr.txt", "fr.txt"),
        ("fr=s3://bucket/fr.txt", "fr=fr.txt"),
        ("http://localhost:8000/v1", "v1"),
        ("a/b", "a/b"),
        ("fr=hf://datasets/a/b.txt", "fr=hf://datasets/a/b.txt"),
        (["fr", "/x/fr.txt", 3, None], ["fr", "fr.txt", 3, None]),
    ],
)
def test_paths_are_reduced_to_their_last_part(value, shown):
    assert strip_folders(value, "a/b") == shown


def test_declared_arguments_and_facts_are_unchanged():
    arguments = {
        "instruction": "Say yes/no",
        "name": [["a/b", "A/B"]],
        "revision": "refs/pr/1",
        "template": "/x/y.json",
    }
    words = {"instruction": ["--instruction", "Say yes/no"], "template": ["--template", "/x/y.json"]}
    declared = {"published_whole": {"arguments": ["instruction", "name", "revision"], "facts": ["rule"]}}
    record = {"arguments": arguments, "command_line": words, "rule": "a/b", "new": {"of": ["/x/y.json"]}, **declared}
    public = public_record(record, [])
    reduced = {"arguments": {**arguments, "template": "y.json"}, "new": {"of": ["y.json"]}}
    reduced["command_line"] = {**words, "template": ["--template", "y.json"]}
    assert public == {"files": [], "rule": "a/b", **declared, **reduced}


def test_undeclared_arguments_and_facts_are_reduced():
    record = {"arguments": {"instruction": "/home/me"}, "command_line": {"instruction": ["--instruction", "/home/me"]}}
    reduced = {"arguments": {"instruction": "me"}, "command_line": {"instruction": ["--instruction", "me"]}}
    assert public_record({**record, "rule": "/home/me"}, []) == {**reduced, "rule": "me", "files": []}


def test_a_card_of_activation_counts_has_positions_and_papers_and_no_code_to_deactivate(hub, tmp_path):
    papers = {"2402.16438": "counts of active neurons, LAPE", "2505.21505": "kinds of neuron"}
    card = {"title": "How often neurons are active", "about": "In how many positions.", "papers": papers}
    run = Run("count", {"corpus": [["fr", "/texts/fr.txt"]], "out": "out"}, {"card": card})
    (tmp_path / "counts").mkdir()
    ActivationStatistics(torch.ones(2, 3, dtype=torch.int64), 4321).save(tmp_path / "counts" / "fr.safetensors")
    run.write(tmp_path)
    card = push_card(hub, tmp_path)
    assert table_rows(card)["fr"] == ["4,321"] and "# How often neurons are active\n" in card.text
    assert "2402.16438" in card.text and "2505.21505" in card.text and "deactivate" not in card.text


def test_the_code_of_a_card_without_neurons_prints_a_table_and_the_command_has_all_options(hub, tmp_path, capsys):
    (tmp_path / "perplexity.csv").write_text("off,fr\nnone,12.5\n")
    words = {"scale": ["--scale", "0.0"], "random": ["--random", "0"], "out": ["--out", "out"]}
    Run("ablate", {"scale": 0.0, "random": 0, "out": "out"}, {"command_line": words}).write(tmp_path)
    card = push_card(hub, tmp_path)
    exec(python_code(card), {})
    assert "none,12.5" in capsys.readouterr().out
    assert "--scale 0.0 --random 0" in card.text


def test_the_loading_code_runs(hub, tmp_path, capsys):
    folder = write_detect_results(tmp_path / "out", tmp_path, commit=None)
    names: dict = {}
    exec(python_code(push_card(hub, folder, revision="v2")), names)
    assert names["folder"].name == hub.repositories[NAME].branches["v2"]
    assert names["sets"] == {"de": random_set(2), "fr": random_set(3)}
    assert names["statistics"].documents == 5 and "NeuronSet(" in capsys.readouterr().out


def test_the_loading_code_names_the_commit_of_a_model_on_the_hub(hub, tmp_path):
    text = python_code(push_card(hub, write_detect_results(tmp_path / "out", tmp_path)))
    assert f'AutoModelForCausalLM.from_pretrained("tiny/llama", revision="{COMMIT}")' in text
    assert 'with pml.deactivate(model, sets["de"]):' in text


def test_the_loading_code_names_the_class_that_loads_the_model(hub, tmp_path):
    """Records of earlier versions do not name it."""
    folder = write_detect_results(tmp_path / "out", tmp_path)
    record = json.loads((folder / "run.json").read_text())
    record["model"]["loader"] = "AutoModelForMaskedLM"
    (folder / "run.json").write_text(json.dumps(record))
    text = python_code(push_card(hub, folder))
    assert "from transformers import AutoModelForMaskedLM\n" in text and "AutoModelForCausalLM" not in text
    assert f'model = AutoModelForMaskedLM.from_pretrained("tiny/llama", revision="{COMMIT}")' in text
    record["model"]["loader"] = "os; import os"
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(HubError, match="loader"):
        push_card(hub, folder)


def test_an_old_record_without_a_card_gets_the_generic_one(hub, tmp_path):
    """Older versions did not write the texts of the card; the existing facts are shown."""
    folder = write_detect_results(tmp_path / "out", tmp_path)
    record = json.loads((folder / "run.json").read_text())
    for name in ("card", "command_line", "published_whole"):
        del record[name]
    (folder / "run.json").write_text(json.dumps(record))
    text = push_card(hub, folder).text
    assert "# Neurons of a language model: tiny/llama\n\nSets or statistics of neurons. Made with" in text
    assert "rule: top-k, ffn 0.1, attention 0.1" in text and f"| de | de.txt | `{CORPUS_HASH}` |" in text
    assert "pymultiling detect" not in text and "Sources of the method" not in text
