"""Batches whose statistics are checked after the next batch was launched."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

import pymultiling as pml
from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.passes.pending import Launched, Pending, one_behind
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def launched(statistics, number: int) -> Launched:
    return Launched(statistics, number, documents=1, tokens=1, tokens_done=1, add_names=nullcontext)


def test_a_batch_is_checked_after_the_next_launch_and_before_it_is_added():
    events = []

    def launches():
        for number in range(3):
            events.append(f"launch {number}")
            check = lambda number=number: events.append(f"check {number}")  # noqa: E731
            yield launched(Pending.checked(number, 1, check), number)

    events.extend(f"add {batch.finish()}" for batch in one_behind(launches()))
    assert events == [
        "launch 0", "launch 1", "check 0", "add 0", "launch 2", "check 1", "add 1", "check 2", "add 2",
    ]  # fmt: skip


def test_statistics_that_are_not_pending_are_added_at_once():
    events = []

    def launches():
        for number in range(2):
            events.append(f"launch {number}")
            yield launched(number, number)

    events.extend(f"add {batch.finish()}" for batch in one_behind(launches()))
    assert events == ["launch 0", "add 0", "launch 1", "add 1"]


def test_a_batch_is_added_if_the_next_launch_fails():
    def launches():
        yield launched(Pending.checked(7, 1, lambda: None), 0)
        raise KeyboardInterrupt

    batches = one_behind(launches())
    assert next(batches).finish() == 7
    with pytest.raises(KeyboardInterrupt):
        next(batches)


def test_halves_are_finished_in_their_order_and_add_up():
    finished = []

    def half(number: int) -> Pending[int]:
        return Pending(lambda: finished.append(number) or number, number)

    both = half(2) + half(3)
    assert both.documents == 5 and finished == []
    assert both.finish() == 5 and finished == [2, 3]


@pytest.mark.parametrize("broken", range(5))
def test_a_document_in_a_half_is_named_by_its_number_in_the_batch(broken):
    def measure(batch: Batch, _) -> Pending:
        if len(batch.order) > 1:
            raise MemoryError

        def check() -> None:
            if batch.order == [broken]:
                raise NonFiniteActivations("NaN", 0)

        return Pending.checked(1, 1, check)

    ids = torch.ones(5, 2, dtype=torch.int64)
    with pytest.warns(UserWarning, match="in halves"):
        pending = SplitOnOutOfMemory(measure)(Batch(ids, ids, [0, 1, 2, 3, 4]), None)
    assert pending.documents == 5
    with pytest.raises(NonFiniteActivations) as raised:
        pending.finish()
    assert raised.value.document == broken


@pytest.mark.parametrize("run", [pml.detect, pml.activations])
def test_a_broken_batch_never_enters_the_sums(tmp_path, run):
    """Batches have two documents of the same length, and the NaN is in the seventh document."""
    model = tiny_model("llama")
    model.get_input_embeddings().weight.data[TOKENIZER.convert_tokens_to_ids("w9")] = torch.nan
    documents = [f"w3 w4 w{9 if number == 6 else 5} w6" for number in range(12)]
    length = len(TOKENIZER(documents[0])["input_ids"])
    options = dict(batch_tokens=2 * length, workers=0, progress=False)
    with pytest.raises(pml.NonFiniteActivations, match=r"language 'fr', document 7 of its corpus: .* layer 0"):
        run(model, TOKENIZER, {"fr": documents}, checkpoint=tmp_path, checkpoint_documents=1, **options)
    manifest = max(tmp_path.rglob("0-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    assert json.loads(manifest.read_text())["documents"] == 6
    tensors = load_file(manifest.with_suffix(".safetensors"))
    assert all(values.isfinite().all() for values in tensors.values())
