"""Compiles the kernels for chips that this machine does not have, in a separate process where they are not interpreted.

Kernels that compile in about a second are compiled in every variant for sm_90 and in bfloat16 for the other targets,
because another dtype changes loads and stores on all chips alike. Of the slow kernels (5 to 10 seconds) the simplest
variant is compiled for all targets, and for sm_90 also one with all features and the other kinds of attention. The
kinds are parts of the variants' names, which `qk_heads.variants_of` explains: "pre" (neurons are zeroed before the
rotation), "post" (after it), "norm" (over the head) and "cap" (a soft cap).
benchmarks/machine_code/compile_table.py compiles all variants.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.chips import CHIPS

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.machine_code import phases
from pymultiling.ops.registry import OPERATORS
from pymultiling.triton_kernels import gated_ffn
from pymultiling.triton_kernels.qk_sweep import ROWS, UNROLL

pytestmark = pytest.mark.long
SCRIPT = "benchmarks.machine_code.compile_table"
ROOT = Path(__file__).parents[2]
WITH_KERNELS = {name: operator for name, operator in OPERATORS.items() if "triton" in operator.kernels}
FAST_TO_COMPILE = tuple(name for name, operator in WITH_KERNELS.items() if not operator.slow_to_compile)
SLOW_TO_COMPILE = tuple(name for name, operator in WITH_KERNELS.items() if operator.slow_to_compile)
OTHER_CHIPS = tuple(chip for chip in CHIPS if chip != "sm_90")
SIMPLEST = "bf16, d = 128, pre"
FULL_FEATURED = "bf16, d = 256, norm, cap"
COMPILED = (
    ("--operator", *FAST_TO_COMPILE, "--target", "sm_90"),
    ("--operator", *FAST_TO_COMPILE, "--target", *OTHER_CHIPS, "--dtype", "bf16"),
    ("--operator", *SLOW_TO_COMPILE, "--target", *OTHER_CHIPS, "--variant", SIMPLEST),
    ("--operator", *SLOW_TO_COMPILE, "--target", "sm_90", "--variant", SIMPLEST, FULL_FEATURED, "fp32, d = 128, pre"),
    ("--operator", "qk_importance", "--target", "sm_90", "--variant", "bf16, d = 128, post", "bf16, d = 128, norm"),
)

# Bytes that a thread may spill outside innermost loops: up to three addresses that are needed before and after a loop
# and that ptxas spills to fit one more block.
SPILLED = 24
# The slow kernels use all registers and spill what their sweeps do not need. qk_importance is limited to 168 of 255
# registers, so that it has to spill up to 348 bytes more. AMD's compiler spills more, some of it inside loops, because
# the kernels are not tuned for gfx942.
SPILLED_SLOW = {"sm_80": 1024, "sm_90": 1024, "sm_100": 1024, "gfx942": 1536}

# Largest numbers of instructions per element in the sweeps of qk_importance on sm_90, {kind of attention: limits}
# (bfloat16, 128 dimensions). fp32: 5 compute v = A e - A, m, b1, b2 and t ("post"), one more adds the rotation
# partner's part ("pre"), and one more the norm's gain ("norm"). global: the 16 probabilities of a key are 4 loads and
# its neuron is 1 or 2, for 16 rows. local: 2 spilled addresses are loaded for 64 elements ("pre"), and 8 ("norm"). The
# remainder is a margin for other versions of ptxas.
MAX_INSTRUCTIONS = {
    "post": {"fp32": 5.1, "global": 0.5, "local": 0.0, "issued": 7.5},
    "pre": {"fp32": 6.3, "global": 0.6, "local": 0.05, "issued": 8.8},
    "norm": {"fp32": 7.5, "global": 0.9, "local": 0.15, "issued": 10.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Returns the folder of the machine code of all compiled variants."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def table(folder) -> pandas.DataFrame:
    """Returns the table of all compiled variants, as compile_table.py writes it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    tables = []
    for number, options in enumerate(COMPILED):
        out = folder / f"{number}.csv"
        command = [sys.executable, "-m", SCRIPT, *options, "--out", out, "--code", folder]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        tables.append(pandas.read_csv(out))
    return pandas.concat(tables, ignore_index=True)


def test_fast_compiling_kernels_spill_nothing_in_loops(table):
    kernels = table[table["operator"].isin(FAST_TO_COMPILE)]
    bad = (kernels["in_loops"] > 0) | (kernels["spills"] > SPILLED)
    assert not bad.any(), kernels[bad].to_string(index=False)


def test_slow_compiling_kernels_spill_little(table):
    kernels = table[table["operator"].isin(SLOW_TO_COMPILE)]
    bad = kernels["spills"] > kernels["target"].map(SPILLED_SLOW)
    assert not bad.any(), kernels[bad].to_string(index=False)


def test_qk_estimate_spills_nothing_in_loops(table):
    """The variant with a soft cap may spill: it needs a dozen more values."""
    simplest = table[(table["operator"] == "qk_estimate") & (table["variant"] == SIMPLEST)]
    bad = (simplest["in_loops"] > 0) | (simplest["spills"] > 32)
    assert len(simplest) == len(CHIPS) and not bad.any(), simplest.to_string(index=False)


def test_at_least_one_block_fits_on_a_multiprocessor(table):
    bad = (table["shared"] > table["shared_limit"]) | (table["resident_warps"] < table["warps"])
    assert not bad.any(), table[bad].to_string(index=False)


def test_every_operator_is_compiled_for_every_target(table):
    assert set(zip(table["operator"], table["target"])) == {(name, chip) for name in WITH_KERNELS for chip in CHIPS}


def test_the_script_refuses_interpreted_kernels():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-m", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("TRITON_INTERPRET is set")


def test_gated_ffn_moves_16_bytes_at_a_time(table, folder):
    is_default = on_sm_90(table, "gated_ffn").str.startswith("bf16, silu, gated, rows")
    assert is_default.any()
    for file in table["code"][is_default[is_default].index]:
        (loop,) = machine_code.sweep_loops(machine_code.parse((folder / file).read_text()))
        moves = [instruction.opcode.split(".") for instruction in loop if instruction.kind == "global"]
        loads = [move for move in moves if move[0] == "LDGSTS"]
        tokens = [move for move in moves if move[0] == "LDG"]  # of a scattered document: 32 bits for each row
        stores = [move for move in moves if move[0] == "STG"]
        assert len(loads) >= 2 and all("128" in move for move in loads), loads
        assert tokens == [["LDG", "E"]] * gated_ffn.ROWS, tokens
        assert len(stores) >= 1 and all("128" in move for move in stores), stores


@pytest.mark.parametrize("kind", MAX_INSTRUCTIONS)
def test_qk_importance_issues_few_instructions_besides_exponentials(table, folder, kind):
    (row,) = on_sm_90(table, "qk_importance").loc[lambda names: names == f"bf16, d = 128, {kind}"].index
    sass = (folder / table["code"][row]).read_text()
    for sweep in machine_code.sweep_loops(machine_code.parse(sass)):
        counts = {**machine_code.count_classes(sweep), "issued": len(sweep)}
        per_element = {name: number / (ROWS.value * UNROLL.value) for name, number in counts.items()}
        assert per_element["ex2"] == 1
        assert all(per_element[name] <= limit for name, limit in MAX_INSTRUCTIONS[kind].items()), per_element


def test_the_phases_of_the_slow_kernels_are_found(table, folder):
    """A thread computes 8 of a tile's 16 x 64 attention scores, and for its neuron 16 rows x 64 keys, or 16 slots."""
    (row,) = on_sm_90(table, "qk_importance").loc[lambda names: names == SIMPLEST].index
    found = phases.phases_of_importance(machine_code.parse((folder / table["code"][row]).read_text()))
    exponentials = {phase.name: machine_code.count_classes(phase.code)["ex2"] for phase in found}
    assert exponentials["query sweep"] == exponentials["key sweep"] == 16 * 64 + 8
    (row,) = on_sm_90(table, "qk_estimate").loc[lambda names: names == SIMPLEST].index
    found = phases.phases_of_estimate(machine_code.parse((folder / table["code"][row]).read_text()))
    exponentials = {phase.name: machine_code.count_classes(phase.code)["ex2"] for phase in found}
    assert exponentials["rows"] == 2 * 16  # for the query neuron and for the key neuron


def on_sm_90(table: pandas.DataFrame, operator: str) -> pandas.Series:
    """Returns the names of an operator's variants for sm_90, with their index in the table."""
    return table["variant"][(table["operator"] == operator) & (table["target"] == "sm_90")]
