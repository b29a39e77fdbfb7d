"""Every public name has a docstring of the same shape: meaning, parameters, results, errors, source."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import pymultiling as pml
from tests.public_face.public_names import PublicFunction, public_functions, public_objects

FUNCTIONS = public_functions()
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Warns|Source|Example|Note):", re.MULTILINE)
# Functions that compute what a paper or its published code defines.
OF_A_PAPER = {
    "pml.activations",
    "pml.cka",
    "pml.deactivate",
    "pml.detect",
    "pml.freeze",
    "pml.ilo",
    "pml.importance",
    "pml.lape",
    "pml.lens",
    "pml.mwork",
    "pml.mwork_search",
    "pml.pmi.compare",
    "pml.retrieval",
    "pml.ternary",
    "pml.ternary_change",
    "pml.ternary_parts",
    "pml.train_only",
}


def docstring(function: PublicFunction) -> str:
    documented = function.owner if function.kind == "constructor" else function.function
    return inspect.getdoc(documented) or ""


def sections(text: str) -> dict[str, str]:
    """Returns {heading: text}. The text before the first heading has the key ""."""
    parts = SECTION.split(text)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> set[str]:
    """Returns the names that a section of a Google docstring explains."""
    return set(re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?: \S", section, re.MULTILINE))


def ids(functions: list[PublicFunction]) -> list[str]:
    return [function.name for function in functions]


@pytest.mark.parametrize("function", FUNCTIONS, ids=ids(FUNCTIONS))
def test_progress_is_shown_unless_it_is_turned_off(function):
    """TQDM_DISABLE turns it off for all functions."""
    assert {parameter.default for parameter in function.parameters if parameter.name == "progress"} <= {True}


@pytest.mark.parametrize("function", FUNCTIONS, ids=ids(FUNCTIONS))
def test_the_first_line_is_a_sentence(function):
    first_paragraph = docstring(function).split("\n\n")[0].strip()
    assert first_paragraph.endswith((".", ":"))


@pytest.mark.parametrize("function", FUNCTIONS, ids=ids(FUNCTIONS))
def test_every_parameter_has_its_own_entry(function):
    if function.kind == "constructor" and issubclass(function.owner, (BaseException, dict)):
        return  # the library makes these objects, and users only read them
    parts = sections(docstring(function))
    explained = entries(parts.get("Args", "") + parts.get("Attributes", ""))
    parameters = {parameter.name for parameter in function.parameters}
    assert parameters <= explained
    if function.kind != "constructor":
        assert entries(parts.get("Args", "")) <= parameters


RETURNING = [
    function
    for function in FUNCTIONS
    if function.kind in ("function", "method")
    and inspect.signature(function.function).return_annotation not in (None, "None", inspect.Signature.empty)
]


@pytest.mark.parametrize("function", RETURNING, ids=ids(RETURNING))
def test_functions_with_a_result_say_what_they_return(function):
    parts = sections(docstring(function))
    assert "Returns" in parts or "Yields" in parts or re.match(r"(Returns|Reads|Loads|Whether|Yields)\b", parts[""])


def entry(function: PublicFunction, parameter: str) -> str:
    """Returns the text that explains a parameter."""
    parts = sections(docstring(function))
    text = parts.get("Args", "") + parts.get("Attributes", "")
    found = re.search(rf"^    \*{{0,2}}{parameter}: (.*(?:\n(?:        .*)?$)*)", text, re.MULTILINE)
    return found[1] if found else ""


SHAPE = re.compile(r"\(\w[^()]*,[^()]*\)|of any shape")
TENSORS = [
    (function, parameter.name)
    for function in FUNCTIONS
    for parameter in function.parameters
    if "Tensor" in str(parameter.annotation)
]


@pytest.mark.parametrize("function, parameter", TENSORS, ids=[f"{f.name}-{name}" for f, name in TENSORS])
def test_tensors_have_a_shape(function, parameter):
    assert SHAPE.search(entry(function, parameter))


def raised_errors(function: PublicFunction) -> set[str]:
    """Returns the names of the errors that stand behind `raise` in a function, or in the making of an object."""
    called = inspect.unwrap(function.function)
    if function.kind == "constructor":
        called = vars(function.owner).get("__post_init__") or vars(function.owner).get("__init__")
    if called is None or not Path(called.__code__.co_filename).is_file():  # a constructor that dataclasses has written
        return set()
    code = ast.parse(textwrap.dedent(inspect.getsource(called)))
    raised = [node.exc for node in ast.walk(code) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in raised if isinstance(call.func, ast.Name)}


RAISING = [(function, name) for function in FUNCTIONS for name in sorted(raised_errors(function))]


@pytest.mark.parametrize("function, error", RAISING, ids=[f"{f.name}-{name}" for f, name in RAISING])
def test_functions_that_raise_an_error_say_when(function, error):
    assert error in entries(sections(docstring(function)).get("Raises", ""))


@pytest.mark.parametrize("name", sorted(OF_A_PAPER))
def test_functions_of_papers_name_their_source(name):
    (function,) = (function for function in FUNCTIONS if function.name == name)
    assert re.search(r"^Source: .*arXiv \d{4}\.\d{5}", docstring(function), re.MULTILINE)


def test_errors_say_when_they_are_raised_and_what_to_do():
    errors = [value for value in public_objects().values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert errors
    for error in errors:
        assert len((inspect.getdoc(error) or "").split()) >= 12, error


def test_dir_shows_the_public_names_and_no_others():
    assert sorted(dir(pml)) == sorted(pml.__all__)
    assert {name for name in pml.__all__ if name.startswith("_")} == {"__version__"}
    assert pml.embedded is pml.demo_model  # a former name, which still works
