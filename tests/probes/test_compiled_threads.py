"""Threads, and asyncio tasks, of one compiled model, each compared with the model that is not compiled, alone."""

import asyncio
from contextlib import ExitStack
from functools import partial

import pytest
import torch

import pymultiling as pml
from tests.probes.test_masking import difference
from tests.support.threads import BATCH, at_the_same_time, deactivated, importance, jobs_of, logits, nested, snapshot
from tests.support.tiny_models import random_neurons, tiny_model

CLOSE = 1e-5  # of the largest logit, between a compiled model and the model


def run_compiled(kind: str, threads: int, calls: int) -> None:
    """Runs a compiled model with and without neurons in several threads. Another one measures it, not compiled."""
    model = tiny_model("llama")
    jobs = [job for job in jobs_of(model) if job.func in (logits, deactivated, nested)]
    alone = [job()["logits"] for job in jobs]
    measured = importance(model)
    if kind == "a compiled model":
        forward = torch.compile(model, backend="aot_eager")
    elif kind == "compiled layers":
        for layer in model.model.layers:
            layer.compile(backend="aot_eager")
        forward = model
    else:
        forward = torch.compile(lambda **batch: model(**batch), backend="aot_eager")

    logits(forward)
    before = snapshot(model)  # transformers and torch note in the model that it is compiled

    @torch.no_grad()
    def call(job) -> torch.Tensor:
        with ExitStack() as stack:
            arguments, options = job.args[1:], dict(job.keywords)
            if job.func is nested:
                stack.enter_context(pml.deactivate(model, arguments[0]))
                arguments, options = arguments[1:], dict(scale=2.0)
            if arguments:
                stack.enter_context(pml.deactivate(model, *arguments, **options))
            return forward(**BATCH, use_cache=False).logits

    def call_jobs(first: int) -> None:
        for number in range(calls):
            index = (first + number) % len(jobs)
            assert difference(call(jobs[index]), alone[index]) < CLOSE, jobs[index]

    def measure() -> None:
        for _ in range(calls // 2):
            result = importance(model)
            assert all(difference(result[site], measured[site]) < 1e-3 for site in measured)

    at_the_same_time(*(partial(call_jobs, thread) for thread in range(threads - 1)), measure)
    assert snapshot(model) == before
    assert difference(logits(model)["logits"], alone[0]) < CLOSE


COMPILED = ("a compiled model", "compiled layers", "a compiled function")


@pytest.mark.long
@pytest.mark.parametrize("kind", COMPILED)
def test_four_threads_of_a_compiled_model_get_what_each_gets_alone(kind, reset_compiler):
    run_compiled(kind, threads=4, calls=10)


@pytest.mark.long
@pytest.mark.parametrize("kind", COMPILED)
def test_eight_threads_with_two_hundred_calls_of_a_compiled_model(kind, reset_compiler):
    run_compiled(kind, threads=8, calls=200)


@pytest.mark.long
def test_compiled_plain_calls_beside_one_block_are_plain_without_a_graph_break(reset_compiler):
    """One thread holds a block open, and calls alternate between it and a thread without one."""
    model, neurons = tiny_model("llama"), random_neurons(tiny_model("llama"))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    plain, off = logits(model)["logits"], deactivated(model, neurons)["logits"]
    with pml.deactivate(model, neurons):
        for _ in range(2):
            assert difference(logits(compiled)["logits"], off) < CLOSE
            [beside] = at_the_same_time(partial(logits, compiled))
            assert difference(beside["logits"], plain) < CLOSE
    assert difference(logits(compiled)["logits"], plain) < CLOSE


@pytest.mark.long
@pytest.mark.parametrize("is_compiled", [False, True])
def test_asyncio_tasks_get_what_each_gets_alone(is_compiled, reset_compiler):
    model = tiny_model("llama")
    sets = [random_neurons(model, seed=seed) for seed in range(3)]
    plain, alone = logits(model)["logits"], [deactivated(model, neurons)["logits"] for neurons in sets]
    forward = torch.compile(model, backend="aot_eager") if is_compiled else model
    logits(forward)
    before = snapshot(model)

    async def run_plain() -> None:
        for _ in range(6):
            assert difference(logits(forward)["logits"], plain) < CLOSE
            await asyncio.sleep(0)

    async def run_deactivated(index: int) -> None:
        with pml.deactivate(model, sets[index]):
            for _ in range(6):
                assert difference(logits(forward)["logits"], alone[index]) < CLOSE
                await asyncio.sleep(0)
            in_a_thread = await asyncio.to_thread(logits, forward)
            assert difference(in_a_thread["logits"], alone[index]) < CLOSE

    async def run_all() -> None:
        await asyncio.gather(*map(run_deactivated, range(3)), run_plain())

    asyncio.run(run_all())
    assert snapshot(model) == before
