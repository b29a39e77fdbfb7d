"""The kernels compiled for chips that are not here, in a process of its own, where they are not interpreted.

Compiled is, of the kernels that take a second each, every variant for sm_90 and those in bfloat16 for the other targets: another
dtype changes a kernel's loads and stores on all chips alike. Of the heavy ones (5 to 10 seconds) the plainest for all targets,
and for sm_90 one with everything in it and the other kinds of attention. benchmarks/machine_code/compile_table.py does all.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code import sweep_bound
from benchmarks.machine_code.chips import CHIPS

pytest.importorskip("triton", reason="Triton is not installed")

from pymultiling.ops.registry import OPERATORS
from pymultiling.triton_kernels.qk_sweep import ROWS, UNROLL

pytestmark = pytest.mark.long
SCRIPT = "benchmarks.machine_code.compile_table"
ROOT = Path(__file__).parents[2]
WITH_KERNELS = {name: operator for name, operator in OPERATORS.items() if "triton" in operator.kernels}
LIGHT = tuple(name for name, operator in WITH_KERNELS.items() if not operator.slow_to_compile)
HEAVY = tuple(name for name, operator in WITH_KERNELS.items() if operator.slow_to_compile)
OTHER_CHIPS = tuple(chip for chip in CHIPS if chip != "sm_90")
PLAINEST = "bf16, d = 128, pre"
FULLEST = "bf16, d = 256, norm, cap"
COMPILED = (
    ("--operator", *LIGHT, "--target", "sm_90"),
    ("--operator", *LIGHT, "--target", *OTHER_CHIPS, "--dtype", "bf16"),
    ("--operator", *HEAVY, "--target", *OTHER_CHIPS, "--variant", PLAINEST),
    ("--operator", *HEAVY, "--target", "sm_90", "--variant", PLAINEST, FULLEST, "fp32, d = 128, pre"),
    ("--operator", "qk_importance", "--target", "sm_90", "--variant", "bf16, d = 128, post", "bf16, d = 128, norm"),
)

# Bytes of a thread that may lie in memory, outside innermost loops: a value or two that are needed before and after a loop and
# that ptxas puts away to fit one more block.
SPILLED = 16
# The heavy kernels use all registers there are and put away what their sweeps do not need. AMD's compiler puts away more, some
# of it inside loops: for gfx942 they are not tuned.
SPILLED_HEAVY = {"sm_80": 512, "sm_90": 512, "sm_100": 512, "gfx942": 1536}

# qk_importance's sweeps on sm_90, instructions an element at most, by the kind of attention (bfloat16). An exponential takes 8
# clocks, so that up to 8 issued are free. fp32: 5 are v = A e - A, m, b1, b2 and t, one more with a partner, one with a gain.
# global: a key's 16 probabilities are 4 loads, its neuron one or two, for 16 rows. What is above is slack for another ptxas.
MOST = {
    "post": {"fp32": 5.1, "global": 0.5, "local": 0.0, "issued": 7.5},
    "pre": {"fp32": 6.3, "global": 0.6, "local": 0.0, "issued": 8.75},
    "norm": {"fp32": 7.5, "global": 0.9, "local": 0.1, "issued": 10.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def table(folder) -> pandas.DataFrame:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = []
    for number, options in enumerate(COMPILED):
        out = folder / f"{number}.csv"
        command = [sys.executable, "-m", SCRIPT, *options, "--out", out, "--code", folder]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        found.append(pandas.read_csv(out))
    return pandas.concat(found, ignore_index=True)


def test_nothing_is_spilled_in_loops(table):
    light = table[table["operator"].isin(LIGHT)]
    bad = (light["in_loops"] > 0) | (light["spills"] > SPILLED)
    assert not bad.any(), light[bad].to_string(index=False)


def test_heavy_kernels_spill_little(table):
    heavy = table[table["operator"].isin(HEAVY)]
    bad = heavy["spills"] > heavy["target"].map(SPILLED_HEAVY)
    assert not bad.any(), heavy[bad].to_string(index=False)


def test_qk_estimate_spills_nothing_in_loops(table):
    """But under a soft cap, where a change takes a dozen values more."""
    plainest = table[(table["operator"] == "qk_estimate") & (table["variant"] == PLAINEST)]
    bad = (plainest["in_loops"] > 0) | (plainest["spills"] > 2 * SPILLED)
    assert len(plainest) == len(CHIPS) and not bad.any(), plainest.to_string(index=False)


def test_blocks_fit_on_a_processor(table):
    bad = (table["shared"] > table["shared_limit"]) | (table["resident_warps"] < table["warps"])
    assert not bad.any(), table[bad].to_string(index=False)


def test_every_operator_is_there_for_every_target(table):
    assert set(zip(table["operator"], table["target"])) == {(name, chip) for name in WITH_KERNELS for chip in CHIPS}


def test_interpreted_kernels_are_refused():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-m", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("TRITON_INTERPRET is set")


def test_gated_ffn_moves_16_bytes_at_a_time(table, folder):
    default = on_sm_90(table, "gated_ffn").str.startswith("bf16, silu, gated, rows")
    assert default.any()
    for file in table["code"][default[default].index]:
        (loop,) = machine_code.sweep_loops(machine_code.parse((folder / file).read_text()))
        moves = [instruction.opcode.split(".") for instruction in loop if instruction.kind == "global"]
        loads = [
            move for move in moves if move[0] in ("LDG", "LDGSTS") and "64" not in move
        ]  # 64 bits: a document's id
        stores = [move for move in moves if move[0] == "STG"]
        assert len(loads) >= 2 and all("128" in move for move in loads), loads
        assert len(stores) >= 1 and all("128" in move for move in stores), stores


@pytest.mark.parametrize("kind", MOST)
def test_qk_importance_issues_few_instructions_beside_its_exponentials(table, folder, kind):
    (row,) = on_sm_90(table, "qk_importance").loc[lambda names: names == f"bf16, d = 128, {kind}"].index
    sass = (folder / table["code"][row]).read_text()
    for counts in sweep_bound.count_per_element(sass, ROWS.value * UNROLL.value):
        assert counts["ex2"] == 1
        assert all(counts[name] <= most for name, most in MOST[kind].items()), counts


def on_sm_90(table: pandas.DataFrame, operator: str) -> pandas.Series:
    """The variants' names."""
    return table["variant"][(table["operator"] == operator) & (table["target"] == "sm_90")]
