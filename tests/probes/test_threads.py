"""Threads, and asyncio tasks, that measure and change one model at the same time, each compared with itself alone.

Results must be equal bit for bit, and the model must be what it was.
"""

import asyncio
import threading
import warnings
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from transformers import TextIteratorStreamer

import pymultiling as pml
from pymultiling.models.attention import listen_to_attention
from pymultiling.models.blocks import Block
from pymultiling.models.experts import Experts, change_hidden
from pymultiling.models.modes import evaluation_mode
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.importance import ImportanceProbe
from tests.probes.test_masking import difference
from tests.support.anatomy import experts_of
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import tiny_tokenizer

NAMES = ("llama", "opt", "gpt2", "mixtral")
BATCH = tiny_batch((9, 6))
CLOSE = 1e-5  # of the largest logit, between a compiled model and the model


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


@pytest.fixture
def reset_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


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


def test_blocks_may_end_in_the_order_in_which_they_began():
    """A generator of blocks, or a stack for each of several requests, ends them so."""
    model = tiny_model("mixtral")
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    before, only_b = snapshot(model), deactivated(model, [b, None])["logits"]
    first, second = ExitStack(), ExitStack()
    first.enter_context(pml.deactivate(model, [a, None]))
    first.enter_context(evaluation_mode(model.train()))
    second.enter_context(pml.deactivate(model, [b, None]))
    second.enter_context(evaluation_mode(model))
    first.close()
    assert not model.training and torch.equal(logits(model)["logits"], only_b)
    second.close()
    assert model.training and snapshot(model.eval()) == before


def test_a_training_model_is_in_training_mode_after_the_last_of_several_measurements():
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    before, alone = snapshot(model), importance(model)

    def measure() -> None:
        for _ in range(20):
            assert_equal(importance(model), alone)

    at_the_same_time(measure, measure, measure)
    assert snapshot(model) == before


def test_the_attention_implementation_is_back_after_the_last_block_unless_the_user_has_set_another():
    model = tiny_model("llama")
    first, second = Block(), Block()
    with second:
        with first:
            listen_to_attention(first, model, {})
            listen_to_attention(second, model, {})
        assert model.config._attn_implementation == "pymultiling_sdpa"
    assert model.config._attn_implementation == "sdpa"
    with Block() as third:
        listen_to_attention(third, model, {})
        model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert importance(model).keys() == set(pml.SITES) and model.config._attn_implementation == "eager"


def gradients(model) -> list[torch.Tensor]:
    """Returns the gradients of all parameters, and forgets them."""
    values = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return values


def loss(model) -> torch.Tensor:
    torch.manual_seed(0)  # of dropout
    return model(**BATCH, labels=BATCH["input_ids"], use_cache=False).loss


@pytest.mark.parametrize("where", ["after the block", "in another thread", "in another block", "inside"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_layers_are_recomputed_with_the_neurons_of_the_forward(name, reentrant, where):
    model = tiny_model(name).train()
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    with pml.deactivate(model, a), pml.deactivate(model, b, scale=2.0):
        loss(model).backward()
    truth = gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=reentrant))
    model.enable_input_require_grads()
    before = snapshot(model)
    with pml.deactivate(model, a), pml.deactivate(model, b, scale=2.0):
        value = loss(model)
        if where == "inside":
            value.backward()
    if where == "after the block":
        value.backward()
    elif where == "in another thread":
        at_the_same_time(value.backward)
    elif where == "in another block":
        with pml.deactivate(model, b):
            value.backward()
    for gradient, expected in zip(gradients(model), truth, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert snapshot(model) == before


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_the_user_are_recomputed_inside_the_block(reentrant):
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]  # a GPU's backward pass has its own thread
    for device in devices:
        model = tiny_model("llama").to(device)
        layer = model.model.layers[0].mlp
        x = torch.randn(2, 3, 32, device=device, requires_grad=True)
        with pml.deactivate(model, random_neurons(model, 0.5)):
            layer(x).square().sum().backward()
            truth, x.grad = x.grad, None
            torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
        assert torch.equal(x.grad, truth)


def replicate(model) -> torch.nn.Module:
    """Makes a replica as torch.nn.DataParallel does, on the same device."""
    modules = list(model.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in module._parameters.items():
            replica._parameters[name] = None if parameter is None else parameter.detach().clone()
    return replicas[model]


@pytest.mark.parametrize("name", NAMES)
def test_replicas_run_under_the_blocks_of_the_thread_that_made_them_with_their_own_weights(name):
    model = tiny_model(name)
    neurons, before = random_neurons(model), snapshot(model)
    plain, off = logits(model), deactivated(model, neurons)
    with pml.deactivate(model, neurons):
        replica = replicate(model)
        [result] = at_the_same_time(partial(logits, replica))
        assert_equal(result, off)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        [result] = at_the_same_time(partial(logits, replica))
        assert_equal(result, off)
    assert_equal(logits(replica), plain)
    assert snapshot(model) == before


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
