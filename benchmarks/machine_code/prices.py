"""Predicts what importance costs on an H200 in models of Llama's and Gemma 3's shapes, compared with the plain forward.

    python -m benchmarks.machine_code.prices [--shapes Gemma-3-4B ...]

No GPU is needed and none is used: nothing here is measured. The batch has 8 documents of 512 tokens in bfloat16, which
Gemma's windows of 512 or 1,024 tokens do not shorten. The first table has the resources of Gemma's kernels as they are
compiled for each of CHIPS: registers of a thread / bytes spilled / KiB of shared memory. The second has milliseconds,
for all layers of a model, with those on the fast and the slow `Machine` in parentheses; the third relates them to the
plain forward.

* Plain forward: every matrix product takes its operations at PRODUCT_RATE or its bytes at MEMORY_RATE, whichever takes
  longer, and all other operations take their bytes at MEMORY_RATE (forward_work.py).
* Without norms behind the sublayers, gated_ffn computes the FFN's product and its statistics in one pass, which moves
  two tensors less than the model's own operations. o and v read the input of o_proj once each.
* With norms behind the sublayers, normed_energy multiplies f and the two bfloat16 parts of g^2 f with W, writes the
  products in float32, and reads them and x once, for the FFN's neurons and for v and o.
* q and k: predict.py.

Launches take no time, so models whose layers take less than the host needs to launch them (Gemma 3 270M) are slower.
"""

import argparse
import sys
from functools import partial

import pandas
import triton

from benchmarks.machine_code.ahead_of_time import compile_variant, resources, variants
from benchmarks.machine_code.chips import CHIPS, KIB
from benchmarks.machine_code.forward_work import NUMBER, work_of_forward
from benchmarks.machine_code.issue import MACHINES
from benchmarks.machine_code.predict import DOCUMENTS, OPERATORS, qk_milliseconds, qk_variant
from benchmarks.operators.shapes import GEMMA_4B, GEMMA_12B, GEMMA_270M, LLAMA_31_8B, Shape
from pymultiling.triton_kernels.variant import Variant

PRODUCT_RATE = 790e12  # operations a second
MEMORY_RATE = 4.3e12  # bytes a second
SHAPES = {shape.name: shape for shape in (LLAMA_31_8B, GEMMA_270M, GEMMA_4B, GEMMA_12B)}
Times = list[float]  # milliseconds on each of MACHINES


def forward_milliseconds(shape: Shape) -> float:
    """Returns the time of the plain forward without the head."""
    work = work_of_forward(shape, DOCUMENTS)
    products = sum(max(operations / PRODUCT_RATE, moved / MEMORY_RATE) for operations, moved in work.products)
    return 1e3 * (products + work.bytes / MEMORY_RATE)


def moving(shape: Shape, width: int) -> Times:
    """Returns the time to read or write a number of every token and layer, for each of `width` columns."""
    moved = NUMBER * DOCUMENTS * shape.length * shape.layers * width
    return [1e3 * moved / MEMORY_RATE] * len(MACHINES)


def normed(shape: Shape, inputs: int) -> Times:
    """Returns the time of normed_energy for a linear map with this many inputs, in all layers."""
    tokens = DOCUMENTS * shape.length
    rows = 3 * tokens  # of the factors and of the products
    factors, products = NUMBER * rows * shape.hidden, 4 * rows * inputs
    work = 2 * rows * shape.hidden * inputs / PRODUCT_RATE
    multiplying = max(work, (factors + NUMBER * shape.hidden * inputs + products) / MEMORY_RATE)
    passing = (NUMBER * tokens * (shape.hidden + inputs) + factors + products) / MEMORY_RATE
    return [1e3 * shape.layers * (multiplying + passing)] * len(MACHINES)


def times_of(shape: Shape) -> dict[str, Times]:
    """Returns the milliseconds that each measurement adds to the plain forward, by name."""
    if shape.normed:
        ffn, v_o = normed(shape, shape.ffn), normed(shape, shape.mixed)
    else:
        ffn = moving(shape, -2 * shape.ffn)
        v_o = moving(shape, 2 * shape.mixed)
    exact, fast = (qk_milliseconds(operator, shape) for operator in OPERATORS)
    return {"ffn": ffn, "v and o": v_o, "q and k, exact": exact, "q and k, fast": fast}


def as_text(times: Times, digits: int) -> str:
    """Returns the expected number, and the least and the largest in parentheses if they differ."""
    expected, least, largest = (f"{time:.{digits}f}" for time in (times[0], min(times), max(times)))
    return expected if least == largest else f"{expected} ({least} to {largest})"


def columns_of(shape: Shape) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the columns of a shape in the tables of milliseconds and of ratios."""
    forward, added = forward_milliseconds(shape), times_of(shape)
    digits = 2 if forward < 10 else 0
    milliseconds = {"plain forward": f"{forward:.{max(digits, 1)}f}"}
    milliseconds |= {name: as_text(times, max(digits, 1)) for name, times in added.items()}
    sums = {"ffn, v, o": ["ffn", "v and o"]}
    sums["all five sites, exact"] = [*sums["ffn, v, o"], "q and k, exact"]
    sums["all five sites, fast"] = [*sums["ffn, v, o"], "q and k, fast"]
    ratios = {}
    for name, parts in sums.items():
        totals = [forward + sum(times) for times in zip(*(added[part] for part in parts))]
        ratios[name] = as_text([total / forward for total in totals], 2)
    return milliseconds, ratios


def _normed_variant(name: str, target: str) -> Variant:
    return variants(target)["normed_energy", f"bf16, {name}"]


def resource_rows() -> list[dict[str, str]]:
    """Returns the rows of the table of Gemma's kernels, with a column for every chip."""
    normed = ("factors", "1 column a neuron, in order", "4 columns a neuron, single columns too")
    makers = {
        **{f"normed_energy, {name}": partial(_normed_variant, name) for name in normed},
        **{f"{operator}, heads of 256, norms": partial(qk_variant, operator, GEMMA_4B) for operator in OPERATORS},
    }
    rows = []
    for name, make in makers.items():
        row = {"kernel": name}
        for target in CHIPS:
            used = resources(compile_variant(make(target), target))
            in_loops = " (in loops)" if used["in_loops"] else ""
            row[target] = f"{used['registers']} / {used['spills']}{in_loops} / {used['shared'] / KIB:.0f}"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="models (default: all)")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it.")
    print(pandas.DataFrame(resource_rows()).to_string(index=False), end="\n\n")
    columns = {name: columns_of(SHAPES[name]) for name in options.shapes}
    for table in range(2):
        print(pandas.DataFrame({name: both[table] for name, both in columns.items()}).to_string(), end="\n\n")


if __name__ == "__main__":
    main()
