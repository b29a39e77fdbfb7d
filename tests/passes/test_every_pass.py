"""Every pass gives the same result after a kill, in two processes, and with batches that are halved."""

import pickle
import signal

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.data import chunks
from tests.support.every_pass import MODEL, OPTIONS, PASSES, PROBES, SETS, TEXTS, TOKENIZER
from tests.support.programs import run_module, torchrun

pytest.importorskip("lingua")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Makes chunks as small as in tests.support.every_pass, which the tests run as a program."""
    monkeypatch.setattr(chunks, "LEAST", 1)
    monkeypatch.setattr(chunks, "TEXTS", 1)
    monkeypatch.setattr(chunks, "CHARACTERS", 99)


def assert_same(result, truth, close: float) -> None:
    """Compares results to the relative tolerance `close`, or bit for bit if it is 0. NaN equals NaN."""
    assert type(result) is type(truth)
    if isinstance(truth, pandas.DataFrame):
        pandas.testing.assert_frame_equal(result, truth, check_exact=close == 0, **({"rtol": close} if close else {}))
    elif isinstance(truth, dict):
        assert result.keys() == truth.keys()
        for name, value in truth.items():
            torch.testing.assert_close(result[name], value, rtol=close, atol=close, equal_nan=True)
    else:
        assert result == pytest.approx(truth, rel=close, abs=0)


@pytest.fixture(scope="module")
def truth():
    """Returns {pass: result} of undisturbed runs in one process."""
    return {name: run(**OPTIONS) for name, run in PASSES.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", PASSES)
def test_a_killed_pass_resumes_to_the_same_result(tmp_path, name):
    expected = PASSES[name](**OPTIONS)
    done = run_module("tests.support.every_pass", tmp_path, name, timeout=300, OMP_NUM_THREADS="1")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "state").rglob("*.json")), "no state was written before it died"
    measured = count_batches(name, expected)
    resumed = count_batches(name, expected, checkpoint=tmp_path / "state", checkpoint_documents=3)
    assert 0 < resumed < measured
    assert count_batches(name, expected, checkpoint=tmp_path / "state", checkpoint_documents=3) == 0


def count_batches(name: str, expected, **options) -> int:
    """Runs the pass, checks its result, and returns how many batches it measured."""
    probe, method = PROBES[name]
    measure, count = getattr(probe, method), 0

    def measure_and_count(*arguments):
        nonlocal count
        count += 1
        return measure(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, method, measure_and_count)
        assert_same(PASSES[name](**OPTIONS, **options), expected, close=0)
    return count


@pytest.mark.long
def test_two_processes_give_what_one_gives(tmp_path, truth):
    two = torchrun("--nproc-per-node", "2")
    done = run_module("tests.support.every_pass", tmp_path, launcher=two, timeout=300, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        results = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        for name, result in results.items():
            assert_same(result, truth[name], close=1e-5)


def embeddings(checkpoint) -> dict[str, torch.Tensor]:
    return PASSES["sentence_embeddings"](checkpoint=checkpoint, **OPTIONS)


@pytest.mark.parametrize("damage", ["gone", "short", "other bytes"])
def test_rows_that_have_changed_are_measured_again(tmp_path, damage):
    expected = embeddings(tmp_path / "state")
    (rows,) = (tmp_path / "state").rglob("0.rows")
    content = bytearray(rows.read_bytes())
    if damage == "gone":
        rows.unlink()
    else:
        content[-9] ^= 1
        rows.write_bytes(content[: len(content) // 2] if damage == "short" else content)
    with pytest.warns(UserWarning, match="the row file of .* does not hold the rows that were written"):
        assert_same(embeddings(tmp_path / "state"), expected, close=0)


def test_the_same_masks_in_other_sets_are_another_run(tmp_path):
    """One mask moves from the first set to the second."""
    ffn, q, k = (SETS["a"].only(site).sites[site] for site in ("ffn", "q", "k"))
    first = {"a": pml.NeuronSet({"ffn": ffn, "k": k}), "b": pml.NeuronSet({"q": q})}
    second = {"a": pml.NeuronSet({"ffn": ffn}), "b": pml.NeuronSet({"q": q, "k": k})}
    options = {**OPTIONS, "checkpoint": tmp_path}
    pml.ablation_matrix(MODEL, TOKENIZER, first, TEXTS, **options)
    with pytest.raises(pml.CheckpointError, match="its measure was"):
        pml.ablation_matrix(MODEL, TOKENIZER, second, TEXTS, **options)


def test_a_checkpoint_with_means_in_bfloat16_gives_the_same_result(tmp_path):
    mean = {site: values.bfloat16() for site, values in PASSES["mean_activations"](**OPTIONS).items()}
    options = {**OPTIONS, "mean": mean}
    truth = pml.ablation_matrix(MODEL, TOKENIZER, SETS, TEXTS, **options)
    assert_same(pml.ablation_matrix(MODEL, TOKENIZER, SETS, TEXTS, checkpoint=tmp_path, **options), truth, close=0)


def test_a_sentence_that_names_a_file_is_read_as_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w3.txt").write_text("w4\n")
    means = pml.sentence_embeddings(MODEL, TOKENIZER, {"fr": ["w3.txt", "w4"]})
    assert means["fr"].isfinite().all()


@pytest.mark.parametrize("name", PASSES)
def test_a_batch_that_does_not_fit_in_memory_is_halved(name, truth):
    probe, method = PROBES[name]
    measure, failures = getattr(probe, method), 0

    def narrow(self, batch, *rest):
        nonlocal failures
        ids = batch if isinstance(batch, torch.Tensor) else batch.input_ids
        if len(ids) > 1:
            failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(self, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, method, narrow)
        with pytest.warns(UserWarning, match="does not fit in memory: it is measured in halves"):
            assert_same(PASSES[name](**OPTIONS), truth[name], close=1e-5)
    assert failures
