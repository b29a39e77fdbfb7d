"""Threads, and asyncio tasks, that measure and change one model at the same time, each compared with itself alone.

Results must be equal bit for bit, and the model must be what it was.
"""

import threading
from functools import partial

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

NAMES = ("llama", "opt", "gpt2", "mixtral")
BATCH = tiny_batch((9, 6))


def snapshot(model) -> list:
    """Returns what blocks attach to, or change in, every module."""
    modules = [
        (name, sorted(vars(module)), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    return [model.config._attn_implementation, modules]


def at_the_same_time(*functions) -> list:
    """Calls each function in a thread of its own, and returns what they return."""
    results, errors, start = [None] * len(functions), [], threading.Barrier(len(functions))

    def call(index: int) -> None:
        start.wait()
        try:
            results[index] = functions[index]()
        except BaseException as error:  # noqa: BLE001, it is raised again in the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@torch.no_grad()
def logits(model) -> dict[str, torch.Tensor]:
    return {"logits": model(**BATCH, use_cache=False).logits}


def deactivated(model, *arguments, **options) -> dict[str, torch.Tensor]:
    with pml.deactivate(model, *arguments, **options):
        return logits(model)


def nested(model, outer, inner) -> dict[str, torch.Tensor]:
    with pml.deactivate(model, outer), pml.deactivate(model, inner, scale=2.0):
        return logits(model)


def importance(model, **options) -> dict[str, torch.Tensor]:
    with ImportanceProbe(model, **options) as probe:
        return dict(probe.measure(**BATCH))


def importance_of_deactivated(model, neurons) -> dict[str, torch.Tensor]:
    with pml.deactivate(model, neurons):
        return importance(model, fused=True)


def activations(model) -> dict[str, torch.Tensor]:
    return {"active": ActivationProbe(model).measure(**BATCH, counted=BATCH["attention_mask"].bool())}


def hidden_states(model) -> dict[str, torch.Tensor]:
    return {"means": SentenceMeanProbe(model).measure(**BATCH), "top": TopTokenProbe(model, 3).measure(**BATCH)}


def greedy(model, neurons) -> dict[str, torch.Tensor]:
    prompts = tiny_batch((5, 3), padding="left")
    with pml.deactivate(model, [neurons, None]):
        return {"tokens": model.generate(**prompts, max_new_tokens=3, do_sample=False, num_beams=2)}


def jobs_of(model) -> list:
    """Returns functions without arguments that measure or change the model."""
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    mean = {site: torch.ones(mask.shape) for site, mask in b.sites.items()}
    return [
        partial(logits, model),
        partial(deactivated, model, a),
        partial(importance, model),
        partial(deactivated, model, b),
        partial(activations, model),
        partial(deactivated, model, a, scale=2.0),
        partial(importance, model, fused=True, rope="post"),
        partial(deactivated, model, [b, a]),
        partial(hidden_states, model),
        partial(deactivated, model, b, mean=mean),
        partial(ActivationSumProbe(model).measure, **BATCH),
        partial(nested, model, a, b),
        partial(importance, model, score="released"),
        partial(greedy, model, a),
        partial(importance_of_deactivated, model, b),
    ]


def assert_equal(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name in expected:
        assert torch.equal(result[name], expected[name]), name


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
