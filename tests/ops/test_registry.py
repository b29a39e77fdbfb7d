"""The registry is the one list of operators: rows are complete, and nothing that they name is missing or left over."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

import pymultiling
from benchmarks.operators import inputs
from pymultiling import ops
from pymultiling.ops import backends, reference
from pymultiling.ops.dispatch import TORCH_OPERATORS
from pymultiling.ops.registry import KERNELS, MAX_TRITON_NEIGHBORS, OPERATORS

REFERENCE = Path(reference.__file__).parent
TRITON = Path(pymultiling.__file__).parents[1] / "triton_kernels"
PUBLIC = Path(ops.__file__).parent

rows = pytest.mark.parametrize("row", OPERATORS.values(), ids=OPERATORS)


def public_function(row):
    return getattr(ops, row.public_function or row.name)


def arguments_of(function) -> list[tuple]:
    """Names and defaults."""
    return [(argument.name, argument.default) for argument in inspect.signature(function).parameters.values()]


def functions_of(file: Path) -> dict[str, ast.FunctionDef]:
    """Those that a file defines without an underscore; none where there is no file."""
    if not file.exists():
        return {}
    found = (node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef))
    return {node.name: node for node in found if not node.name.startswith("_")}


@rows
def test_a_row_is_complete(row):
    schema = TORCH_OPERATORS[row.name]._opoverload._schema
    assert row.name == schema.name.removeprefix("pymultiling::")
    assert row.argument_names == tuple(argument.name for argument in schema.arguments)
    assert len(row.results) == max(len(schema.returns), 1)
    written = {argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write}
    assert set(row.mutates) == written
    assert set(row.kernels) <= set(KERNELS)
    assert (row.budget is None) == (not row.kernels), "kernels have a budget of errors"
    if row.budget is not None:
        assert set(row.budget.exact) | set(row.budget.result_floors) <= set(row.results)
        assert row.budget.floor > 0 or set(row.budget.exact) == set(row.results)
    if row.arguments_type is not None:
        assert row.arguments_type._fields == row.argument_names
    assert not row.public_function or row.public_function in OPERATORS


@rows
def test_the_public_function_is_documented_and_takes_the_arguments_of_the_schema(row):
    function = public_function(row)
    assert all(f"\n    {part}:" in function.__doc__ for part in ("Args", "Returns", "Raises"))
    names = set(inspect.signature(function).parameters)
    assert {*row.argument_names, *row.options, "backend"} <= names
    assert function.__module__ == f"pymultiling.ops.{OPERATORS[row.public_function or row.name].module_name}"
    assert row.result_type is None or getattr(ops, row.result_type)._fields == row.results


@rows
def test_the_reference_takes_the_arguments_of_the_schema(row):
    names = tuple(name for name, _ in arguments_of(row.reference()))
    assert names == (row.argument_names if row.arguments_type is None else ("problem",))


@rows
@pytest.mark.parametrize("backend", ["cpp", "cuda"])
def test_the_extensions_have_the_schema_of_the_row(row, backend):
    if (reason := backends.load_extension(f"_{backend}")) is not None:
        pytest.skip(reason)
    extension = getattr(torch.ops, f"pymultiling_{backend}")
    declared = getattr(extension, row.name, None)
    assert (declared is not None) == (backend in row.kernels)
    if declared is not None:
        schema = row.schema.replace("SymInt", "int")  # C++ sees numbers only
        expected = torch._C.parse_schema(f"pymultiling_{backend}::{row.name}{schema}")
        assert str(declared.default._schema) == str(expected)


@rows
def test_the_launcher_takes_the_arguments_of_the_reference(row):
    if (reason := backends.load_triton()) is not None:
        pytest.skip(reason)
    if "triton" not in row.kernels:
        assert row.name not in functions_of(TRITON / f"{row.module_name}.py")
        return
    assert arguments_of(row.launcher()) == arguments_of(row.reference())
    operators = {variant.operator for variant in row.triton_module().variants()}
    assert row.name in operators and operators <= set(OPERATORS)


@rows
def test_benchmarks_have_an_input(row):
    assert callable(getattr(inputs, row.name))


def test_nothing_in_the_reference_is_unlisted():
    files = {file.stem for file in REFERENCE.glob("*.py")} - {"__init__"}
    assert files == {row.module_name for row in OPERATORS.values()}
    for row in OPERATORS.values():
        assert row.name in functions_of(REFERENCE / f"{row.module_name}.py")


def test_no_triton_launcher_is_unlisted():
    """A launcher is what its module's variants() belong to."""
    files = {file.stem for file in TRITON.glob("*.py") if "variants" in functions_of(file)}
    assert files == {row.module_name for row in OPERATORS.values() if "triton" in row.kernels}


def test_every_public_function_is_an_operators():
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert functions == {row.public_function or row.name for row in OPERATORS.values()} | {"unavailable"}
    others = {file.stem for file in PUBLIC.glob("*.py")} - {row.module_name for row in OPERATORS.values()}
    assert others == {"__init__", "arguments", "backends", "dispatch", "operator", "registry"}


def test_another_number_of_documents_is_no_other_program():
    """torch.compile compiles once more where a number first changes, and not again."""
    compiled, x = 0, torch.ones(6, 4)

    def count_programs(graph, inputs):
        nonlocal compiled
        compiled += 1
        return graph.forward

    run = torch.compile(lambda documents, count: ops.column_energy(x, documents, count), backend=count_programs)
    for count in range(1, 7):
        assert run(torch.zeros(6, dtype=torch.int64), count).shape == (count, 4)
    assert compiled <= 2


def test_dispatch_knows_how_many_neighbours_the_kernel_keeps():
    if (reason := backends.load_triton()) is not None:
        pytest.skip(reason)
    assert OPERATORS["nearest_neighbors"].triton_module().MAX_NEIGHBORS == MAX_TRITON_NEIGHBORS
