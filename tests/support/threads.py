"""Functions that measure or change a model, to be called in several threads and compared with themselves alone."""

import threading
from functools import partial

import torch

import pymultiling as pml
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import random_neurons, tiny_batch

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
    means, (top, require_finite) = SentenceMeanProbe(model).launch(**BATCH), TopTokenProbe(model, 3).launch(**BATCH)
    require_finite()
    return {"means": means.wait(), "top": top}


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
