"""The folder of a detection, which Python and the command `detect` write and read."""

import pytest

import pymultiling as pml
from pymultiling.data.corpora import CorpusReport
from tests.support.command_line import detect
from tests.support.published_runs import random_set, random_statistics
from tests.support.tiny_text import save_model, texts, write_text

REPORTS = {"fr": CorpusReport(texts=7, empty=1, cut=2), "de": CorpusReport(texts=5)}


@pytest.fixture
def detection() -> pml.Detection:
    neurons = {"fr": random_set(0), "de": random_set(1)}
    return pml.Detection(neurons, {"fr": random_statistics(0), "de": random_statistics(1)}, REPORTS)


def assert_same(a: pml.Detection, b: pml.Detection) -> None:
    assert list(a.neurons) == list(b.neurons) == list(a.statistics) == list(b.statistics)
    assert a.neurons == b.neurons and a.corpora == b.corpora
    for name, statistics in a.statistics.items():
        assert repr(statistics) == repr(b.statistics[name])
        for kind in ("sum", "minimum", "votes", "top"):
            for site, values in getattr(statistics, kind).items():
                assert values.equal(getattr(b.statistics[name], kind)[site])


def test_load_gives_what_was_saved_in_the_same_order(tmp_path, detection):
    detection.save(tmp_path / "new" / "folder", model="a/model")
    assert_same(pml.Detection.load(tmp_path / "new" / "folder"), detection)
    assert pml.load_sets(tmp_path / "new" / "folder" / "specific") == detection.specific()


def test_a_detection_without_reports_and_results_of_earlier_versions_load(tmp_path, detection):
    pml.Detection(detection.neurons, detection.statistics).save(tmp_path / "a")
    assert pml.Detection.load(tmp_path / "a").corpora == {}
    (tmp_path / "a" / "texts.csv").unlink()
    loaded = pml.Detection.load(tmp_path / "a")
    assert loaded.corpora == {} and loaded.neurons == detection.neurons


def test_loads_what_the_command_writes_and_saves_the_same_files(tmp_path):
    model = save_model(tmp_path / "model")
    corpora = {name: write_text(tmp_path / f"{name}.txt", [*texts(name), " "]) for name in ("fr", "de")}
    assert detect(model, corpora, tmp_path / "found", "--share", "0.5") == 0
    loaded = pml.Detection.load(tmp_path / "found")
    assert list(loaded.neurons) == ["fr", "de"] and any(map(len, loaded.neurons.values()))
    assert loaded.corpora["fr"] == CorpusReport(texts=7, empty=1)
    loaded.save(tmp_path / "again", model=str(model))
    written = [file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*") if file.is_file()]
    assert len(written) == 10
    for file in written:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "found" / file).read_bytes(), file


def test_a_folder_with_files_is_not_written_to(tmp_path, detection):
    detection.save(tmp_path / "a")
    with pytest.raises(pml.CheckpointError, match="a is not empty: give a new folder"):
        detection.save(tmp_path / "a")


def test_sets_and_statistics_of_different_detections_are_refused(tmp_path, detection):
    detection.save(tmp_path / "a")
    (tmp_path / "a" / "statistics" / "fr.safetensors").unlink()
    with pytest.raises(pml.CheckpointError, match="only one of neurons and statistics has fr"):
        pml.Detection.load(tmp_path / "a")
    with pytest.raises(pml.CheckpointError, match=r"has no .safetensors files"):
        pml.Detection.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"fr,7", b"fr,-7"),
        lambda text: text.replace(b"fr,7", b"fr,7.5"),
        lambda text: text.replace(b"fr,7", b"fr,"),
        lambda text: text.replace(b"fr,7", b"fr,7,7"),
        lambda text: text.replace(b"fr,7,1", b"fr,7"),
        lambda text: text.replace(b"texts,", b"text,"),
        lambda text: text.replace(b"fr", b"\xff"),
        lambda text: text + b'"',
        lambda text: b"",
    ],
)
def test_damaged_reports_are_refused(tmp_path, detection, damage):
    detection.save(tmp_path / "a")
    path = tmp_path / "a" / "texts.csv"
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(pml.CheckpointError, match=r"texts.csv is damaged: .*; create it again"):
        pml.Detection.load(tmp_path / "a")
