"""CUDA graphs of a function of tensors: one for each shape of its inputs, recorded once and replayed for later inputs.

A replay launches all kernels of the function in one call. Python does not run the function then.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

MOST_SHAPES = 32

Results: TypeAlias = tuple[dict[str, Tensor], ...]
Function: TypeAlias = Callable[..., Results]
# record(function, inputs) -> (replay, results). replay() computes function(*inputs) from what `inputs` then hold, into
# the memory of `results`, which hold nothing before.
Recorder: TypeAlias = Callable[[Function, tuple[Tensor, ...]], tuple[Callable[[], None], Results]]


class _Recording(NamedTuple):
    """A recorded function, with the memory that it reads and writes in every replay."""

    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    results: Results


class Graphs:
    """Runs functions, and replays them where the same shapes came before.

    The first inputs of a shape are computed without a graph. The second are recorded, because many shapes come only
    once. When there are too many recordings, the least recently used one is dropped, and its shape counts as new.

    If a recording fails, a warning says why, and from then on everything runs without graphs.
    """

    def __init__(self, record: Recorder, most: int = MOST_SHAPES):
        """Records nothing yet.

        Args:
            record: records a function.
            most: the largest number of recordings to keep.
        """
        self._record = record
        self._most = most
        self._seen: set[Hashable] = set()  # all shapes that came, some 100 bytes each
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._has_failed = False

    def run(self, key: Hashable, function: Function, *inputs: Tensor) -> Results:
        """Returns function(*inputs).

        Args:
            key: all that the function depends on besides the shapes, dtypes and values of its inputs. Calls with the
                same key must give functions that launch the same kernels for the same shapes.
            function: the function. It must not wait for the device, and must keep no tensor that it makes.
            *inputs: tensors on the device.

        Returns:
            Tensors that later calls do not change.
        """
        shape = (key, *((x.shape, x.dtype) for x in inputs))
        recording = self._recordings.get(shape) or self._record_again(shape, function, inputs)
        if recording is None:
            return function(*inputs)
        self._recordings.move_to_end(shape)
        for memory, x in zip(recording.inputs, inputs):
            memory.copy_(x)
        recording.replay()
        return tuple({name: x.clone() for name, x in group.items()} for group in recording.results)

    def _record_again(self, shape: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> _Recording | None:
        """Records a shape that came before. Returns None if it did not come before, or cannot be recorded."""
        if self._has_failed or shape not in self._seen:
            self._seen.add(shape)
            return None
        memory = tuple(x.clone() for x in inputs)
        try:
            recording = _Recording(memory, *self._record(function, memory))
        except RuntimeError as error:
            self._has_failed = True
            self._recordings.clear()
            warnings.warn(f"CUDA graphs are not used, because a recording failed: {error}", stacklevel=3)
            return None
        self._recordings[shape] = recording
        # Dropped only now: torch cannot record into a pool of memory that no graph uses any more.
        if len(self._recordings) > self._most:
            dropped, _ = self._recordings.popitem(last=False)
            self._seen.remove(dropped)
        return recording


class CudaRecorder:
    """Records CUDA graphs of one GPU. All use one pool of memory, so they must be replayed one after the other."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], Results]:
        """Runs the function twice and records it, which waits for the GPU.

        Raises:
            RuntimeError: the function waits for the GPU, or CUDA cannot record it.
        """
        current_stream = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current_stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # This block also leaves the stream if the end of the recording raises, where torch.cuda.graph does not.
            with torch.cuda.stream(self._stream):
                function(*inputs)  # libraries allocate what they keep for this stream
                # A function that waits must not be recorded, because torch does not fully recover from that.
                with waiting_is_an_error():
                    function(*inputs)
                # Other threads, such as NCCL's, may use the GPU meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    results = function(*inputs)
        finally:
            current_stream.wait_stream(self._stream)
        return graph.replay, results


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Inside, torch raises RuntimeError where Python would wait for a GPU, also in other threads."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
