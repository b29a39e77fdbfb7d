"""Imports within the package go in one direction only, as read from the source.

cli -> results -> methods -> passes -> probes -> ... -> ops -> reference
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pymultiling

PACKAGE = Path(pymultiling.__file__).parent
# From the lowest layer to the highest: a module may import modules of its own layer and of lower ones. The longest
# matching prefix decides which layer a module belongs to.
LAYERS = (
    {"errors", "mathematics", "runtime"},
    {"ops.reference", "triton_kernels"},
    {"ops"},
    {"neurons"},
    {"data", "models"},
    {"probes"},
    {"passes"},
    {"tasks"},
    {"methods"},
    {"results"},
    {"hub", "lm_eval", "demo_model"},
    {"cli", "__main__"},
)
MAX_TOP_LEVEL_MODULES = 6  # everything else belongs into a folder


def part_of(module: str) -> str | None:
    """Returns the longest matching prefix in LAYERS: pymultiling.ops.reference.gated_ffn -> ops.reference."""
    name = module.removeprefix("pymultiling.")
    matching = [prefix for layer in LAYERS for prefix in layer if name == prefix or name.startswith(f"{prefix}.")]
    return max(matching, key=len, default=None)


@cache
def imports_by_module() -> dict[str, set[str]]:
    """Returns {module: modules of the package that it imports, also inside of functions}.

    The __init__ of pymultiling itself is left out, as a module and as an import: it imports from all layers.
    """
    folders = {"pymultiling": PACKAGE, "pymultiling.triton_kernels": PACKAGE.parent / "triton_kernels"}
    files = {
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for name, path in files.items():
        if name == "pymultiling":
            continue
        imports[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imports[name] |= {target for target in targets if target in files and target != "pymultiling"} - {name}
    return imports


def test_every_module_belongs_to_a_layer_and_every_layer_has_modules():
    parts = {module: part_of(module) for module in imports_by_module()}
    assert [module for module, part in parts.items() if part is None] == []
    assert set(parts.values()) == set().union(*LAYERS)


def test_no_module_imports_from_a_higher_layer():
    rank = {prefix: number for number, layer in enumerate(LAYERS) for prefix in layer}
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports_by_module().items()
        for target in targets
        if rank[part_of(target)] > rank[part_of(module)]
    ]
    assert wrong == []


def test_only_the_operators_import_the_reference():
    """The registry imports it by name. Tests and benchmarks do too, but they are not in the package."""
    users = {part_of(name) for name, targets in imports_by_module().items() if "ops.reference" in map(part_of, targets)}
    assert users == {"ops.reference"}


def test_only_the_command_line_imports_the_demo_model():
    users = {part_of(name) for name, targets in imports_by_module().items() if "demo_model" in map(part_of, targets)}
    assert users == {"demo_model", "cli"}


def test_modules_do_not_import_each_other_in_circles():
    TopologicalSorter(imports_by_module()).prepare()  # raises CycleError if there is a circle


def test_parts_do_not_import_each_other_in_circles():
    imports_by_part: dict[str, set[str]] = {}
    for module, targets in imports_by_module().items():
        part = part_of(module)
        imports_by_part.setdefault(part, set()).update(set(map(part_of, targets)) - {part})
    TopologicalSorter(imports_by_part).prepare()  # raises CycleError if there is a circle


def test_few_modules_are_at_the_top_level():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_TOP_LEVEL_MODULES


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "triton", "numpy", "pandas", "matplotlib")
    program = f"import sys, pymultiling; dir(pymultiling); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_operators_does_not_import_triton():
    program = "import sys, pymultiling.ops; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_can_be_loaded():
    for name in pymultiling.__all__:
        assert getattr(pymultiling, name) is not None
