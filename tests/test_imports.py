"""Imports run one way, read from the source: cli -> results -> methods -> passes -> probes -> ... -> ops -> reference."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pymultiling

PACKAGE = Path(pymultiling.__file__).parent
# From the bottom: a module may import its own layer and those above it in this list. A longer prefix counts before a shorter.
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
MOST_LOOSE = 6  # modules that stand at the top, beside the rooms


def part(module: str) -> str | None:
    """The longest prefix among LAYERS: pymultiling.ops.reference.gated_ffn -> ops.reference."""
    name = module.removeprefix("pymultiling.")
    fitting = [prefix for layer in LAYERS for prefix in layer if name == prefix or name.startswith(f"{prefix}.")]
    return max(fitting, key=len, default=None)


@cache
def imports() -> dict[str, set[str]]:
    """{module: the package's modules that it imports, anywhere in it}."""
    folders = {"pymultiling": PACKAGE, "pymultiling.triton_kernels": PACKAGE.parent / "triton_kernels"}
    files = {
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
    }
    found = {}
    for name, path in files.items():
        if name == "pymultiling":
            continue
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found[name] |= {target for target in targets if target in files and target != "pymultiling"} - {name}
    return found


def test_every_module_has_its_layer():
    parts = {module: part(module) for module in imports()}
    assert [module for module, found in parts.items() if found is None] == []
    assert set(parts.values()) == set().union(*LAYERS)


def test_imports_run_one_way():
    rank = {prefix: number for number, layer in enumerate(LAYERS) for prefix in layer}
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if rank[part(target)] > rank[part(module)]
    ]
    assert wrong == []


def test_the_oracle_is_for_the_operators_alone():
    """And for tests and benchmarks, which are no part of the package."""
    users = {part(module) for module, targets in imports().items() if "ops.reference" in map(part, targets)}
    assert users == {"ops", "ops.reference"}


def test_the_library_does_not_need_the_packaged_model():
    users = {part(module) for module, targets in imports().items() if "demo_model" in map(part, targets)}
    assert users == {"demo_model", "cli"}


def test_no_circles():
    TopologicalSorter(imports()).prepare()


def test_no_circles_between_rooms():
    rooms: dict[str, set[str]] = {}
    for module, targets in imports().items():
        rooms.setdefault(part(module), set()).update(set(map(part, targets)) - {part(module)})
    TopologicalSorter(rooms).prepare()


def test_few_modules_stand_beside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_LOOSE


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "triton", "numpy", "pandas", "matplotlib")
    program = f"import sys, pymultiling; dir(pymultiling); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_operators_import_triton_only_to_run_it():
    program = "import sys, pymultiling.ops; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_is_there():
    for name in pymultiling.__all__:
        assert getattr(pymultiling, name) is not None
