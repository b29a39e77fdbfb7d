"""batch_tokens=None: the tokens of a forward by the free memory, which is a number that the tests set."""

from types import SimpleNamespace

import pytest
import torch

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.models.decoder import Decoder
from pymultiling.passes import batch_size, corpus_pass
from pymultiling.passes.batch_size import LARGEST, USUAL, tokens_that_fit
from pymultiling.passes.checkpoints import PassState
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.runtime.free_memory import LINUX_MEMORY, free_memory
from tests.passes.test_corpus_pass import MODEL, Killed, assert_same, count, detect, kill_after
from tests.support.tiny_models import tiny_model

# The tiny model has 4 + 2 + 2 heads of 12, a hidden size of 32 and 37 FFN neurons, in float32.
TOKEN_BYTES = 4 * (6 * 32 + 4 * 37) + 24 * (4 + 2 + 2) * 12


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Makes chunks of 80 texts, whatever the batches."""
    monkeypatch.setattr(batch_size, "USUAL", 20)
    monkeypatch.setattr(corpus_pass, "USUAL", 20)
    monkeypatch.setattr(chunks, "LEAST", 1)


def set_memory(monkeypatch, tokens):
    """Sets the free memory to what batches of this many tokens and a half need."""
    monkeypatch.setattr(batch_size, "free_memory", lambda device: None if tokens is None else 3 * tokens * TOKEN_BYTES)


@pytest.fixture
def forwards(monkeypatch):
    """A list to which every forward of importance adds its number of tokens, padding included."""
    sizes, launch = [], ImportanceProbe.launch

    def count_tokens(self, input_ids, *arguments):
        sizes.append(input_ids.numel())
        return launch(self, input_ids, *arguments)

    monkeypatch.setattr(ImportanceProbe, "launch", count_tokens)
    return sizes


@pytest.mark.parametrize("tokens", [16, 64])
def test_a_forward_has_the_tokens_that_fit(monkeypatch, forwards, tokens):
    """The result is bit for bit that of a call with the same batches, since the chunks are those of other calls too."""
    set_memory(monkeypatch, tokens)
    result = detect(batch_tokens=None)
    assert max(forwards) <= tokens and sum(forwards) / len(forwards) > tokens / 2
    counted = count(batch_tokens=None)
    monkeypatch.setattr(corpus_pass, "ChunkSize", SimpleNamespace(of=lambda _: chunks.ChunkSize.of(20)))
    assert_same(result, detect(batch_tokens=tokens))
    for language, statistics in count(batch_tokens=tokens).items():
        assert torch.equal(counted[language].active, statistics.active)


def test_without_a_known_memory_a_forward_has_the_usual_tokens(monkeypatch, forwards):
    set_memory(monkeypatch, None)
    detect(batch_tokens=None)
    assert max(forwards) <= 20


@pytest.mark.parametrize("batches", [0, 3, 11])
def test_resumes_with_the_tokens_of_the_checkpoint(monkeypatch, tmp_path, forwards, batches):
    """The memory is another one when the pass resumes. The result is that of an undisturbed pass bit for bit."""
    set_memory(monkeypatch, 32)
    truth = detect(batch_tokens=None)
    with monkeypatch.context() as patch:
        kill_after(patch, ImportanceProbe, batches)
        with pytest.raises(Killed):
            detect(batch_tokens=None, checkpoint=tmp_path, checkpoint_documents=1)
    if batches:
        set_memory(monkeypatch, 64)
    forwards.clear()
    assert_same(detect(batch_tokens=None, checkpoint=tmp_path), truth)
    assert max(forwards) <= 32


def test_a_checkpoint_of_a_given_number_is_another_run(monkeypatch, tmp_path):
    set_memory(monkeypatch, 32)
    detect(batch_tokens=None, checkpoint=tmp_path)
    with pytest.raises(pml.CheckpointError, match="batch_tokens was None, now it is 32"):
        detect(batch_tokens=32, checkpoint=tmp_path)


@pytest.mark.parametrize(
    "kept, of_others, expected",
    [
        (None, [(None, 8)], 64),
        (None, [(16, 8)], 16),
        (32, [(None, 8), (32, 8)], 32),
    ],
    ids=["the first process decides", "a checkpoint of another process", "checkpoints"],
)
def test_all_processes_take_the_same_number(kept, of_others, expected):
    team = SimpleNamespace(gather=lambda own: [own, *of_others])
    job = SimpleNamespace(tokens_that_fit=lambda: 64)
    assert corpus_pass._tokens_by_memory(team, job, [PassState(None), PassState(None, batch_tokens=kept)]) == expected


def test_tokens_are_a_power_of_two_within_half_of_the_memory(monkeypatch):
    decoder = Decoder(MODEL)
    for free in (0, TOKEN_BYTES, 2 * TOKEN_BYTES, 10**6, 10**7, 10**15):
        monkeypatch.setattr(batch_size, "free_memory", lambda device, free=free: free)
        tokens = tokens_that_fit(decoder)
        assert tokens & (tokens - 1) == 0 and 1 <= tokens <= LARGEST
        assert tokens in (1, LARGEST) or free / 4 < tokens * TOKEN_BYTES <= free / 2


def test_the_device_with_the_least_memory_decides(monkeypatch):
    model = tiny_model("llama")
    model.model.layers[1].to("meta")
    free = {"cpu": 1000 * TOKEN_BYTES, "meta": 100 * TOKEN_BYTES}
    monkeypatch.setattr(batch_size, "free_memory", lambda device: free[device.type])
    assert tokens_that_fit(Decoder(model)) == 32
    free["meta"] = None
    assert tokens_that_fit(Decoder(model)) == 256


def test_free_memory_of_this_machine():
    assert free_memory(torch.device("meta")) is None
    if LINUX_MEMORY.exists():
        assert 2**20 < free_memory(torch.device("cpu")) < 2**50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_free_memory_of_a_gpu_counts_what_pytorch_has_reserved():
    device = torch.device("cuda", 0)
    before = free_memory(device)
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert free_memory(device) <= before - 2**27
    del block
    assert abs(free_memory(device) - before) < 2**27


def test_the_usual_number_is_the_default():
    assert USUAL == 4096
    assert {pml.detect.__kwdefaults__["batch_tokens"], pml.activations.__kwdefaults__["batch_tokens"]} == {USUAL}
