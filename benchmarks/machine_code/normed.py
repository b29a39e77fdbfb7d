"""Predicts how long normed_energy takes on an H200, from simulated issue slots and from the bytes that it reads.

A launch takes the longer of two times: that of its instructions (issue.py), and that of reading its tiles from the L2
cache. Assumptions, in addition to those of issue.py, phases.py and predict.py:

* L2 delivers L2_RATE to all multiprocessors together. This project has not measured it: the part `ceilings` of `python
  -m benchmarks.gpu.run` measures a copy of 34 MB, which fits into L2.
* A multiprocessor takes new programs when all its programs have ended, so that the last ones of a launch leave
  multiprocessors idle.
"""

from dataclasses import replace
from functools import cache
from math import ceil

from benchmarks.machine_code.ahead_of_time import variants
from benchmarks.machine_code.issue import MACHINES, Machine
from benchmarks.machine_code.phases import clocks_of_items, phases_of_normed
from benchmarks.machine_code.predict import CHIP, CLOCK, DOCUMENTS, MULTIPROCESSORS, Compiled
from benchmarks.operators.shapes import Shape
from pymultiling.triton_kernels.variant import Variant

L2_RATE = 5.5e12  # bytes a second
NUMBER = 2  # bytes of a bfloat16 number


def normed_variant(group: int, target: str = CHIP) -> Variant:
    """Returns the kernel for neurons of `group` columns, with single columns too if there are several.

    The batch has no padding.
    """
    if group == 1:
        return variants(target)["normed_energy", "bf16, 1 column a neuron, in order"]
    four = variants(target)["normed_energy", "bf16, 4 columns a neuron, single columns too"]
    signature = {name: pointer for name, pointer in four.signature.items() if name != "order"}
    constants = {**four.constants, "GROUP": group, "order": None}
    name = f"bf16, {group} columns a neuron, single columns too, in order"
    return replace(four, name=name, signature=signature, constants=constants)


def normed_milliseconds(shape: Shape, inputs: int, group: int) -> list[float]:
    """Returns the time of a launch in every layer, on each of MACHINES.

    Args:
        shape: the model's.
        inputs: N, the inputs of the linear map.
        group: columns of a neuron.
    """
    return [1e3 * shape.layers * max(seconds) for seconds in seconds_of_launch(shape, inputs, group)]


@cache
def seconds_of_launch(shape: Shape, inputs: int, group: int) -> list[tuple[float, float]]:
    """Returns (seconds of its instructions, seconds of reading from L2) on each of MACHINES."""
    variant = normed_variant(group)
    kernel, constants = Compiled.of(variant), variant.constants
    phases = phases_of_normed(kernel.code, group, shape.hidden, constants["BLOCK_D"])
    tiles = ceil(shape.length / constants["BLOCK_T"])
    # Neurons of one column are the dimensions of one long head.
    heads, size = (1, inputs) if group == 1 else (shape.kv_heads, shape.head_size)
    programs = DOCUMENTS * heads * ceil(size / constants["BLOCK_J"])

    def clocks(count: int, machine: Machine) -> float:
        """Returns the clocks in which a multiprocessor runs `count` programs at once."""
        warps = count * kernel.block
        return warps * clocks_of_items(phases, [0] * tiles, warps, machine) if count else 0.0

    at_once = kernel.resident // kernel.block
    waves, rest = divmod(programs, MULTIPROCESSORS * at_once)
    last = ceil(rest / MULTIPROCESSORS)
    rows, columns = constants["BLOCK_T"], constants["BLOCK_J"]
    outputs = (1 + group) * rows * shape.hidden  # read for their squares, and for each column of a neuron
    weight, x = group * shape.hidden * columns, 2 * group * rows * columns
    seconds = programs * tiles * NUMBER * (outputs + weight + x) / L2_RATE
    return [((waves * clocks(at_once, machine) + clocks(last, machine)) / CLOCK, seconds) for machine in MACHINES]
