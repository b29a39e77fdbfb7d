"""The registry is the only list of operators: entries are complete, and every module of an operator has an entry."""

import ast
import dataclasses
import inspect
from importlib import import_module
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

each_entry = pytest.mark.parametrize("entry", OPERATORS.values(), ids=OPERATORS)


def public_function(entry):
    return getattr(ops, entry.public_function or entry.name)


def arguments_of(function) -> list[tuple]:
    """Returns the names and defaults of a function's arguments."""
    return [(argument.name, argument.default) for argument in inspect.signature(function).parameters.values()]


def functions_of(file: Path) -> dict[str, ast.FunctionDef]:
    """Returns the public functions that a file defines; none if there is no file."""
    if not file.exists():
        return {}
    definitions = [node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in definitions if not node.name.startswith("_")}


@each_entry
def test_an_entry_is_complete(entry):
    schema = TORCH_OPERATORS[entry.name]._opoverload._schema
    assert entry.name == schema.name.removeprefix("pymultiling::")
    assert (*entry.argument_names, "backend") == tuple(argument.name for argument in schema.arguments)
    assert len(entry.results) == max(len(schema.returns), 1)
    written = {argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write}
    assert set(entry.mutates) == written
    assert set(entry.kernels) <= set(KERNELS)
    assert (entry.budget is None) == (not entry.kernels), "exactly the operators with kernels have an error budget"
    if entry.budget is not None:
        assert set(entry.budget.equal_to_reference) | set(entry.budget.result_floors) <= set(entry.results)
        assert entry.budget.floor > 0 or set(entry.budget.equal_to_reference) == set(entry.results)
    if entry.arguments_type is not None:
        assert entry.arguments_type._fields == entry.argument_names
    assert not entry.public_function or entry.public_function in OPERATORS


@each_entry
def test_the_public_function_is_documented_and_takes_the_arguments_of_the_schema(entry):
    function = public_function(entry)
    assert all(f"\n    {part}:" in function.__doc__ for part in ("Args", "Returns", "Raises"))
    names = set(inspect.signature(function).parameters)
    if "documents" in names:
        names |= {field.name for field in dataclasses.fields(ops.Documents)}
    assert {*entry.argument_names, *entry.options, "backend"} <= names
    assert function.__module__ == f"pymultiling.ops.{OPERATORS[entry.public_function or entry.name].module_name}"
    assert entry.result_type is None or getattr(ops, entry.result_type)._fields == entry.results


@each_entry
def test_the_reference_takes_the_arguments_of_the_schema(entry):
    names = tuple(name for name, _ in arguments_of(entry.reference()))
    assert names == (entry.argument_names if entry.arguments_type is None else ("problem",))


@each_entry
@pytest.mark.parametrize("backend", ["cpp", "cuda"])
def test_the_extensions_declare_the_schema_of_the_entry(entry, backend):
    if (reason := backends.load_extension(f"_{backend}")) is not None:
        pytest.skip(reason)
    extension = getattr(torch.ops, f"pymultiling_{backend}")
    declared = getattr(extension, entry.name, None)
    assert (declared is not None) == (backend in entry.kernels)
    if declared is not None:
        schema = entry.schema.replace("SymInt", "int")  # C++ gets plain numbers
        expected = torch._C.parse_schema(f"pymultiling_{backend}::{entry.name}{schema}")
        assert str(declared.default._schema) == str(expected)


@each_entry
def test_the_launcher_takes_the_arguments_of_the_reference(entry):
    if (reason := backends.load_triton()) is not None:
        pytest.skip(reason)
    if "triton" not in entry.kernels:
        assert entry.name not in functions_of(TRITON / f"{entry.module_name}.py")
        return
    assert arguments_of(entry.launcher) == arguments_of(entry.reference())
    operators = {variant.operator for variant in entry.triton_module().variants()}
    assert entry.name in operators and operators <= set(OPERATORS)


@each_entry
def test_benchmarks_have_an_input_for_every_operator(entry):
    assert callable(getattr(inputs, entry.name))


def test_the_registry_lists_every_reference():
    files = {file.stem for file in REFERENCE.glob("*.py")} - {"__init__"}
    assert files == {entry.module_name for entry in OPERATORS.values()}
    for entry in OPERATORS.values():
        assert entry.name in functions_of(REFERENCE / f"{entry.module_name}.py")


def test_the_registry_lists_every_triton_launcher():
    """A module with a launcher is one that defines variants()."""
    files = {file.stem for file in TRITON.glob("*.py") if "variants" in functions_of(file)}
    assert files == {entry.module_name for entry in OPERATORS.values() if "triton" in entry.kernels}


def test_the_public_functions_are_those_of_the_registry():
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    of_operators = {entry.public_function or entry.name for entry in OPERATORS.values()}
    assert functions == of_operators | {"group_tokens", "unavailable"}
    helpers = {file.stem for file in PUBLIC.glob("*.py")} - {entry.module_name for entry in OPERATORS.values()}
    assert helpers == {
        "__init__", "arguments", "backends", "checks", "direct_calls", "dispatch", "operator", "recorded_calls",
        "registry", "requirements",
    }  # fmt: skip


def test_all_names_the_functions_and_results_of_the_registry():
    """Every name of __all__ is bound to the object of the operator's module, not to the module of the same name."""
    names = {
        "unavailable": "ops.backends",
        "Documents": "mathematics.documents",
        "group_tokens": "mathematics.documents",
    }
    for entry in OPERATORS.values():
        module_name = f"ops.{OPERATORS[entry.public_function or entry.name].module_name}"
        names[entry.public_function or entry.name] = module_name
        if entry.result_type is not None:
            names[entry.result_type] = module_name
    assert sorted(ops.__all__) == sorted(names)
    for name, module_name in names.items():
        assert getattr(ops, name) is getattr(import_module(f"pymultiling.{module_name}"), name)


@pytest.mark.parametrize("grouped", [False, True])
def test_another_number_of_documents_does_not_recompile(grouped):
    """torch.compile compiles once more when the number first changes, and not again."""
    compiled, x = 0, torch.ones(6, 4)

    def count_programs(graph, inputs):
        nonlocal compiled
        compiled += 1
        return graph.forward

    def energy(ids, count):
        return ops.column_energy(x, ops.group_tokens(ids, count) if grouped else ids, count)

    run = torch.compile(energy, backend=count_programs, fullgraph=True)
    for count in range(1, 7):
        assert run(torch.arange(6) % count, count)[:, 0].sum() == 6
    assert compiled <= 2


def test_the_registry_has_the_largest_number_of_neighbours_of_the_kernel():
    if (reason := backends.load_triton()) is not None:
        pytest.skip(reason)
    assert OPERATORS["nearest_neighbors"].triton_module().MAX_NEIGHBORS == MAX_TRITON_NEIGHBORS
