"""Threads that measure and change one model at the same time, each compared with itself alone.

Results must be equal bit for bit, and the model must be what it was.
"""

import threading
import warnings
from functools import partial

import pytest
import torch
from transformers import TextIteratorStreamer

import pymultiling as pml
from pymultiling.models.experts import Experts, change_hidden
from tests.support.anatomy import experts_of
from tests.support.threads import NAMES, assert_equal, at_the_same_time, deactivated, jobs_of, logits, snapshot
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import tiny_tokenizer


def run_mixed(model, threads: int, calls: int) -> None:
    """Runs all jobs in every thread, each thread beginning with another one, and compares every result."""
    jobs = jobs_of(model)
    alone, before = [job() for job in jobs], snapshot(model)

    def call_jobs(first: int) -> None:
        for call in range(calls):
            index = (first + call) % len(jobs)
            assert_equal(jobs[index](), alone[index])

    at_the_same_time(*(partial(call_jobs, 2 * thread) for thread in range(threads)))
    assert snapshot(model) == before


@pytest.mark.parametrize("name", NAMES)
def test_four_threads_get_what_each_gets_alone(name):
    run_mixed(tiny_model(name), threads=4, calls=15)


@pytest.mark.long
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_eight_threads_with_two_hundred_calls_get_what_each_gets_alone(name):
    run_mixed(tiny_model(name), threads=8, calls=200)


@pytest.mark.parametrize("rows", [False, True])
def test_a_streamer_thread_generates_without_the_neurons_if_all_threads_do(rows):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    neurons, prompt = random_neurons(model, 0.4), tiny_batch((5,))
    arguments = dict(**prompt, max_new_tokens=6, do_sample=False)
    sets, before = [neurons] if rows else neurons, snapshot(model)
    with pml.deactivate(model, sets):
        truth = model.generate(**arguments)

    def generate() -> str:
        streamer = TextIteratorStreamer(tokenizer)
        thread = threading.Thread(target=model.generate, kwargs=dict(**arguments, streamer=streamer))
        thread.start()
        text = "".join(streamer)
        thread.join()
        return text

    with pml.deactivate(model, sets, threads="all"):
        assert generate() == tokenizer.decode(truth[0])
    plain = tokenizer.decode(model.generate(**arguments)[0])
    assert generate() == plain != tokenizer.decode(truth[0])
    with pml.deactivate(model, sets), pytest.warns(UserWarning, match="give deactivate.*threads='all'") as warned:
        assert generate() == generate() == plain
    assert len(warned) == 1 and snapshot(model) == before


def test_threads_that_are_older_than_the_block_or_have_their_own_get_no_warning():
    model = tiny_model("llama")
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    is_inside, was_run = threading.Event(), threading.Event()

    def run_plain() -> dict[str, torch.Tensor]:
        is_inside.wait()
        try:
            return logits(model)
        finally:
            was_run.set()

    def hold_a_block() -> None:
        with pml.deactivate(model, a):
            is_inside.set()
            was_run.wait()
            at_the_same_time(partial(deactivated, model, b))

    with warnings.catch_warnings(action="error"):
        at_the_same_time(run_plain, hold_a_block)


def test_an_unknown_choice_of_threads_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="threads must be one of"), pml.deactivate(model, [None], threads="some"):
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_in_some_threads_leave_the_others_and_the_model_as_they_were(error):
    model = tiny_model("mixtral")
    neurons, plain, before = random_neurons(model), logits(model)["logits"], snapshot(model)
    off = deactivated(model, neurons)["logits"]

    def run_and_raise() -> None:
        logits(model)
        raise error

    def fail() -> None:
        for _ in range(20):
            with pytest.raises(error), pml.deactivate(model, [neurons, None]):
                run_and_raise()
            with pytest.raises(IndexError), pml.deactivate(model, neurons):
                model(torch.full((1, 2), 10_000))
            with pytest.raises(ValueError, match="the batch has 2"), pml.deactivate(model, [neurons]):
                logits(model)

    def succeed() -> None:
        for _ in range(40):
            assert torch.equal(logits(model)["logits"], plain)
            assert torch.equal(deactivated(model, neurons)["logits"], off)

    at_the_same_time(fail, succeed, fail, succeed)
    assert snapshot(model) == before and torch.equal(logits(model)["logits"], plain)


def test_changes_of_experts_in_two_threads_are_apart():
    model = tiny_model("mixtral")
    experts = Experts.from_module(experts_of(model.model.layers[0]), "")
    plain, before = logits(model)["logits"], snapshot(model)

    def run(factor: float) -> dict[str, torch.Tensor]:
        with change_hidden(experts, lambda routed: factor * routed.hidden):
            return logits(model)

    alone = {factor: run(factor)["logits"] for factor in (0.0, 2.0)}

    def check(factor: float) -> None:
        for _ in range(30):
            assert torch.equal(run(factor)["logits"], alone[factor])

    at_the_same_time(partial(check, 0.0), partial(check, 2.0), partial(check, 0.0))
    assert torch.equal(logits(model)["logits"], plain) and snapshot(model) == before
