"""Keeps the PTX of kernels, so that only what has changed must be compiled: a file for each Triton version and chip.

An entry is found by the kernel's source code, dtypes, constants, and what is known of its arguments.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import json
import re
import zipfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from pymultiling import triton_kernels
from tests.ptx.registers import restore

FOLDER = Path(__file__).with_name("archives")
KERNELS = Path(triton_kernels.__file__).parent
IMPORTED = re.compile(r"^from pymultiling\.triton_kernels\.(\w+) import", re.MULTILINE)
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")  # of the compiler, that launches choose
PLAIN = (int, float, str, bool, type(None))  # constants that can be kept


@dataclass(frozen=True)
class Compiled:
    """A kernel's PTX, and what a launch must know.

    Attributes:
        short: the text, as `registers.shorten` writes it.
        shared: bytes of shared memory of a program.
        warps: warps of a program.
    """

    short: str
    shared: int
    warps: int

    @property
    def ptx(self) -> str:
        """The text."""
        return restore(self.short)


@dataclass(frozen=True)
class Specialization:
    """One way in which a kernel is compiled.

    Attributes:
        module: the kernel's module in triton_kernels.
        function: the kernel's name.
        signature: (argument, Triton's name of its type).
        constants: (position of the argument, value).
        attributes: (position of the argument, what is known of its value, such as a divisor).
        options: (option of the compiler, value) for OPTIONS.
    """

    module: str
    function: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, object], ...]
    attributes: tuple[tuple[int, object], ...]
    options: tuple[tuple[str, object], ...]

    @property
    def is_plain(self) -> bool:
        """Whether all constants can be kept in a file."""
        return all(isinstance(value, PLAIN) for _, value in self.constants)

    @property
    def key(self) -> str:
        """A hash of the kernel's source code and of this specialisation."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256((source_hash(self.module) + text).encode()).hexdigest()[:24]

    @classmethod
    def of(cls, source: object, options: dict[str, object]) -> Specialization:
        """Returns that of Triton's ASTSource."""
        return cls(
            source.fn.__module__.rpartition(".")[2],
            source.fn.__name__,
            tuple(source.signature.items()),
            tuple((place, value) for (place,), value in sorted(source.constants.items())),
            tuple((place, json.loads(json.dumps(known))) for (place,), known in sorted(source.attrs.items()) if known),
            tuple((name, options[name]) for name in OPTIONS),
        )

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Specialization:
        pairs = {name: tuple(map(tuple, fields[name])) for name in ("signature", "constants", "attributes", "options")}
        return cls(**fields | pairs)

    def source(self) -> tuple[object, dict[str, object]]:
        """Returns Triton's ASTSource and its options."""
        from triton.compiler import ASTSource

        function = getattr(importlib.import_module(f"pymultiling.triton_kernels.{self.module}"), self.function)
        constants = {(place,): value for place, value in self.constants}
        attributes = {(place,): known for place, known in self.attributes}
        source = ASTSource(fn=function, signature=dict(self.signature), constexprs=constants, attrs=attributes)
        return source, dict(self.options)


def compiled_code(module: str) -> str:
    """Returns the functions that Triton compiles and the constants of a module, without comments and docstrings.

    What launches the kernel is not among them, so that it may change without the kernel being compiled again.
    """
    code = []
    for node in ast.parse((KERNELS / f"{module}.py").read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(x) for x in node.decorator_list):
            node.body = node.body[ast.get_docstring(node) is not None :]
            code.append(ast.unparse(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            code.append(ast.unparse(node))
    return "\n".join(code)


@functools.cache
def source_hash(module: str) -> str:
    """Returns a hash of the code of a kernel's module and of all modules of triton_kernels that it imports."""
    found, new = set(), {module}
    while new:
        found |= new
        texts = [(KERNELS / f"{name}.py").read_text("utf-8") for name in new]
        new = {name for text in texts for name in IMPORTED.findall(text)} - found
    return hashlib.sha256("\0".join(map(compiled_code, sorted(found))).encode()).hexdigest()


Entries = dict[str, tuple[Specialization, Compiled]]


def path_of(triton_version: str, target: str) -> Path:
    """Returns the file of a Triton version and a chip."""
    return FOLDER / f"triton-{triton_version}-{target}.zip"


@functools.cache
def read(path: Path) -> Entries:
    """Returns {key: (specialisation, kernel)} of a file, nothing if there is no such file."""
    entries: Entries = {}
    if path.exists():
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                for key, fields in json.loads(archive.read(name)).items():
                    entries[key] = _from_json(*fields)
    return entries


def read_recorded(folder: Path) -> Entries:
    """Returns {key: (specialisation, kernel)} of the files that tests with --ptx-record wrote."""
    return {file.stem: _from_json(*json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))}


def _from_json(specialization: dict[str, object], compiled: dict[str, object]) -> tuple[Specialization, Compiled]:
    return Specialization.from_json(specialization), Compiled(**compiled)


def write(path: Path, entries: Entries) -> None:
    """Writes a file. All specialisations of a kernel are compressed together, because they resemble each other."""
    members: dict[str, dict[str, object]] = defaultdict(dict)
    for key, (specialization, compiled) in sorted(entries.items()):
        name = f"{specialization.module}.{specialization.function}.json"
        members[name][key] = asdict(specialization), asdict(compiled)
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, contents in sorted(members.items()):
            # A fixed date, so that the same contents are the same file.
            archive.writestr(zipfile.ZipInfo(name), json.dumps(contents), zipfile.ZIP_LZMA)
    read.cache_clear()


def known_specializations() -> list[Specialization]:
    """Returns those of all files whose code is still the same, each once."""
    found = {}
    for path in sorted(FOLDER.glob("triton-*.zip")):
        for key, (specialization, _) in read(path).items():
            if specialization.key == key:
                found[key] = specialization
    return list(found.values())
