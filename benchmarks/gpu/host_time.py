"""Measures how long the host takes to launch a forward that measures importance, beyond the plain forward.

    python -m benchmarks.gpu.host_time [--layers 32] [--rounds 20]

The model has the layers of an 8B Llama but tiny sizes, so that the host, not the GPU, limits the speed. Every run ends
when the GPU is done. On a GPU the runs are also timed with CUDA graphs. Without a GPU the kernels are launched on a
stub GPU (stub_gpu.py), and the model's own operators run on the CPU. The difference between two runs is then the host's
share of the launches, without the driver's. It is measured in CPU time of the thread, which other programs disturb less
than the time that passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import torch

from benchmarks.gpu.model_runs import open_run, random_llama
from benchmarks.gpu.stub_gpu import stub_gpu
from benchmarks.gpu.workload import EXACT, FAST, FFN_V_O, FORWARD, GRAPHS
from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import Shape
from pymultiling.runtime.alternating import alternate

SHAPE = Shape("narrow", hidden=64, layers=32, heads=4, kv_heads=2, ffn=96, length=32)
DOCUMENTS, VOCABULARY = 2, 128
RUNS = (FORWARD, FFN_V_O, EXACT, FAST)
GRAPH_RUNS = (FFN_V_O + GRAPHS, EXACT + GRAPHS, FAST + GRAPHS)  # on a GPU


def measure(layers: int, rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Returns {run: {"milliseconds": median, "beyond the forward": median of the differences}}."""
    model = random_llama(replace(SHAPE, layers=layers), VOCABULARY, device)
    tokens = torch.randint(1, VOCABULARY, (DOCUMENTS, SHAPE.length), device=device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def finished(run: Callable[[], object]) -> Callable[[], None]:
        def run_and_wait() -> None:
            run()
            synchronize()

        return run_and_wait

    with torch.no_grad(), ExitStack() as stack:
        names = RUNS + (GRAPH_RUNS if device.type == "cuda" else ())
        runs = {name: finished(stack.enter_context(open_run(name, model, tokens))) for name in names}
        for name in names:
            runs[name]()  # with the warm-up of `alternate` the second run, which records graphs
        clock = time.perf_counter if device.type == "cuda" else time.thread_time
        seconds = alternate(runs, rounds, clock)
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(times),
            "beyond the forward": 1e3 * statistics.median(map(float.__sub__, times, seconds[FORWARD])),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32, help="layers of the model (default: 32)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each run is timed (default: 20)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    with nullcontext() if device.type == "cuda" else stub_gpu():
        results = measure(options.layers, options.rounds, device)
    print(describe(), "GPU" if device.type == "cuda" else "stub GPU: kernels are launched but do nothing")
    for name, row in results.items():
        print(name, *(f"{column} {value:.1f} ms" for column, value in row.items()), sep=" | ")


if __name__ == "__main__":
    main()
