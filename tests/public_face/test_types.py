"""Type checkers accept right calls of the public functions, and report wrong ones."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.public_face.public_names import PublicFunction, public_functions

ROOT = Path(__file__).parents[2]
PROLOGUE = """
from typing import Any
import pymultiling as pml

class Wrong:
    "No parameter of the library is of this type."

anything: Any
wrong: Wrong
""".lstrip()
WRONG_TYPE = {"arg-type", "call-overload", "dict-item", "list-item", "type-var"}


def type_errors(file: Path) -> dict[int, set[str]]:
    """Returns {line: codes of the errors that mypy reports for it}."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        ROOT / "pyproject.toml",
        "--no-error-summary",
        "--follow-imports=silent",
        file,
    ]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    errors: dict[int, set[str]] = {}
    for line in printed.splitlines():
        error = re.fullmatch(rf".*{re.escape(file.name)}:(\d+): error: .*\[([\w-]+)\]", line)
        if error:
            errors.setdefault(int(error[1]), set()).add(error[2])
        else:
            assert ": note: " in line, printed
    return errors


def call(function: PublicFunction, arguments: dict[str, str]) -> str:
    """Returns a line with the call as users write it. A method is called on a value that is annotated with its class.

    arguments: {parameter: expression}; "nonsense" is passed as a keyword even if there is no such parameter.
    """
    owner = function.name.rpartition(".")[0]
    static = function.kind != "method" or "self" not in inspect.signature(function.function).parameters
    prefix = "" if static else f"value: {owner} = anything; "
    name = function.name if static else f"value.{function.name.rpartition('.')[2]}"
    words = [
        value
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL)
        else f"{parameter.name}={value}"
        for parameter in function.parameters
        for value in [arguments.get(parameter.name)]
        if value is not None
    ]
    words += [f"nonsense={arguments['nonsense']}"] if "nonsense" in arguments else []
    return f"def _() -> None: {prefix}{name}({', '.join(words)})"


def right_and_wrong_calls() -> Iterator[tuple[PublicFunction, str | None, str]]:
    """Yields (function, the parameter that gets a wrong value, the call). The parameter is None for a right call."""
    for function in public_functions():
        parameters = function.parameters
        if function.kind == "property" or not parameters:
            continue
        required = {
            parameter.name: "anything"
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        yield function, None, call(function, required)
        for parameter in parameters:
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield function, parameter.name, call(function, {**required, parameter.name: "wrong"})
        if "metadata" not in {parameter.name for parameter in parameters}:  # functions with `metadata` take any keyword
            yield function, "nonsense", call(function, {**required, "nonsense": "anything"})


@pytest.fixture(scope="module")
def checked_calls(tmp_path_factory):
    """Returns [(the parameter that gets a wrong value, the call, the codes of its type errors)]."""
    calls = list(right_and_wrong_calls())
    file = tmp_path_factory.mktemp("types") / "generated_calls.py"
    file.write_text(PROLOGUE + "\n".join(line for _, _, line in calls) + "\n")
    errors = type_errors(file)
    first = PROLOGUE.count("\n") + 1
    assert all(line >= first for line in errors), errors
    return [(parameter, line, errors.get(first + index, set())) for index, (_, parameter, line) in enumerate(calls)]


def test_right_calls_have_no_type_errors(checked_calls):
    refused = {line: codes for parameter, line, codes in checked_calls if parameter is None and codes}
    assert not refused


def test_a_value_of_a_wrong_type_is_an_error_for_every_parameter(checked_calls):
    accepted = [
        line
        for parameter, line, codes in checked_calls
        if parameter not in (None, "nonsense") and not codes & WRONG_TYPE
    ]
    assert not accepted


def test_an_unknown_keyword_is_an_error_for_every_function(checked_calls):
    accepted = [
        line
        for parameter, line, codes in checked_calls
        if parameter == "nonsense" and not codes & {"call-arg", "call-overload"}
    ]
    assert not accepted


def test_calls_written_by_hand_have_exactly_the_errors_that_are_marked():
    assert type_errors(Path(__file__).with_name("hand_written_calls.py")) == {}
