"""Imports run one way, read from the source: cli -> hub -> results -> methods -> passes -> probes -> data, models -> ops."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pymultiling

PACKAGE = Path(pymultiling.__file__).parent
LAYERS = (
    {"errors", "runtime", "mathematics"},
    {"ops", "triton_kernels"},
    {"neurons"},
    {"data", "models", "probes"},
    {"passes"},
    {"tasks"},
    {"methods"},
    {"results"},
    {"hub", "lm_eval"},
    {"cli", "__main__"},
)
APART = {"demo_model"}  # the packaged model and the scripts that made it use whatever they need


def part(module: str) -> str:
    """pymultiling.data.batches -> data."""
    return module.split(".")[1]


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
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in files else node.module for name in names]
            found[name] |= {target for target in targets if target in files and target != "pymultiling"} - {name}
    return found


def test_every_part_has_its_layer():
    parts = {part(module) for module in imports()}
    assert parts == set().union(*LAYERS, APART)


def test_imports_run_one_way():
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if part(module) not in APART and part(target) not in APART and rank[part(target)] > rank[part(module)]
    ]
    assert wrong == []


def test_the_library_does_not_need_the_packaged_model():
    users = {part(module) for module, targets in imports().items() if any(part(target) in APART for target in targets)}
    assert users <= {"demo_model", "cli"}


def test_no_circles():
    library = {module: targets for module, targets in imports().items() if part(module) not in APART}
    TopologicalSorter(library).prepare()


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
