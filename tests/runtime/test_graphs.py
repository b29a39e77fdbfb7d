"""Which shapes are recorded, replayed and dropped, and that results stay as they were; with a recorder on the CPU."""

import pytest
import torch

from pymultiling.runtime.graphs import CudaRecorder, Graphs, waiting_is_an_error
from tests.support.graph_recorder import Recordings

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which records CUDA graphs")


class Calls:
    """A function that is recorded, and how often Python ran it."""

    def __init__(self):
        self.count = 0

    def __call__(self, x, y):
        self.count += 1
        return {"sum": x + y, "product": x * y}, {"square": x * x}


def check(results, x, y) -> None:
    expected = Calls()(x, y)
    assert [list(group) for group in results] == [["sum", "product"], ["square"]]
    assert all(torch.equal(group[name], other[name]) for group, other in zip(results, expected) for name in other)


def pair(length: int, seed: int = 0, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, length, generator=generator).to(device).unbind()


def test_a_shape_is_recorded_when_it_comes_again_and_then_only_replayed():
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings)
    for turn in range(5):
        inputs = pair(3, seed=turn)
        check(graphs.run("key", function, *inputs), *inputs)
        assert recordings.made == min(turn, 1) and recordings.replays == turn


def test_python_does_not_run_a_function_that_is_replayed():
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings)
    for _ in range(2):
        graphs.run("key", function, *pair(3))
    inputs, count = pair(3, seed=1), function.count
    check(graphs.run("key", pytest.fail, *inputs), *inputs)
    assert function.count == count + 1  # by the recorder of this test


@pytest.mark.parametrize("change", ["key", "shape", "dtype"])
def test_another_key_shape_or_dtype_is_recorded_apart(change):
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings)
    inputs = pair(3)
    others = {"key": inputs, "shape": pair(4), "dtype": tuple(x.double() for x in inputs)}[change]
    for _ in range(3):
        check(graphs.run("key", function, *inputs), *inputs)
        check(graphs.run("other" if change == "key" else "key", function, *others), *others)
    assert recordings.made == 2 and recordings.replays == 4


def test_results_are_not_overwritten_by_later_replays_nor_by_other_inputs():
    graphs, function = Graphs(Recordings()), Calls()
    inputs = [pair(3, seed=turn) for turn in range(4)]
    results = [graphs.run("key", function, *x) for x in inputs]
    for result, x in zip(results, inputs):
        check(result, *x)


def test_the_least_recently_used_shape_is_dropped_and_counts_as_new():
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings, most=2)

    def run(length: int) -> int:
        """Returns how many recordings the call made."""
        before = recordings.made
        check(graphs.run("key", function, *pair(length)), *pair(length))
        return recordings.made - before

    assert [run(length) for length in (1, 1, 2, 2)] == [0, 1, 0, 1]
    assert run(1) == 0  # replayed, so 2 is the least recently used
    assert [run(length) for length in (3, 3)] == [0, 1]
    assert recordings.kept() == 2
    assert [run(length) for length in (1, 3)] == [0, 0]
    assert [run(length) for length in (2, 2, 2)] == [0, 1, 0]
    assert recordings.kept() == 2


@pytest.mark.filterwarnings("error")
def test_a_failed_recording_is_reported_once_and_everything_runs_without_graphs():
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings)
    for _ in range(2):
        graphs.run("key", function, *pair(3))
    recordings.error = RuntimeError("the device says no")
    graphs.run("key", function, *pair(4))
    with pytest.warns(UserWarning, match="CUDA graphs are not used.*the device says no"):
        check(graphs.run("key", function, *pair(4)), *pair(4))
    for length in (3, 4, 5) * 3:  # a warning here is an error
        check(graphs.run("key", function, *pair(length)), *pair(length))
    assert recordings.made == 1 and recordings.replays == 1 and recordings.kept() == 0


def test_an_interrupted_recording_leaves_nothing_and_is_made_again():
    recordings, function = Recordings(), Calls()
    graphs = Graphs(recordings)
    graphs.run("key", function, *pair(3))
    recordings.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        graphs.run("key", function, *pair(3))
    assert recordings.kept() == 0
    recordings.error = None
    check(graphs.run("key", function, *pair(3)), *pair(3))
    assert recordings.made == 1 and recordings.replays == 1


@needs_gpu
def test_a_gpu_replays_with_new_inputs_and_shares_one_pool():
    graphs, function = Graphs(CudaRecorder(torch.device("cuda", 0)), most=2), Calls()
    results = []
    for turn in range(4):
        for length in (3, 1000, 70_000):  # one more than are kept
            inputs = pair(length, seed=turn, device="cuda")
            results += [(graphs.run("key", function, *inputs), inputs) for _ in range(3)]
    for result, inputs in results:
        check(result, *inputs)


@pytest.mark.filterwarnings("error")
@needs_gpu
def test_a_function_that_waits_for_a_gpu_runs_without_a_graph_and_leaves_the_stream():
    def function(x, y):
        return ({"sum": x + y.sum().item()},)

    graphs, inputs = Graphs(CudaRecorder(torch.device("cuda", 0))), pair(3, device="cuda")
    stream = torch.cuda.current_stream()
    results = [graphs.run("key", function, *inputs)]
    with pytest.warns(UserWarning, match="CUDA graphs are not used"):
        results.append(graphs.run("key", function, *inputs))
    results += [graphs.run("key", function, *inputs) for _ in range(2)]
    assert torch.cuda.current_stream() == stream and torch.cuda.get_sync_debug_mode() == 0
    assert all(torch.equal(result[0]["sum"], function(*inputs)[0]["sum"]) for result in results)


@needs_gpu
def test_waiting_for_a_gpu_is_an_error_only_inside_the_block():
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchronizing"), waiting_is_an_error():
        x.sum().item()
    assert x.sum().item() == 3
