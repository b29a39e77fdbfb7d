"""Templates of prompts: the texts before, around and after the inputs. templates/ has those of the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter

from pymultiling.errors import CorpusError
from pymultiling.runtime.short_repr import short_repr

NAMES = ("translation", "translation_machine", "math", "nli", "nli_premises", "free")
PARTS = ("opening", "input", "closing", "answer")
# Placeholders of every part except the answer, in addition to the fields of the inputs. In the opening and the
# closing, a field is that of the first input.
COMMON_PLACEHOLDERS = ("source", "target", "languages", "labels", "instruction")


@dataclass(frozen=True)
class Form:
    """The parts of a prompt, with {placeholders}.

    Attributes:
        opening: the text before the inputs.
        input: the text of one input, which is repeated for every input; it may also have the placeholder {language}.
        closing: the text after the inputs; the answer begins after it.
        answer: the text after the closing of an example, up to the next example; it has the placeholder {answer}.
    """

    opening: str
    input: str
    closing: str
    answer: str

    def __repr__(self) -> str:
        return short_repr(self)

    def names(self, placeholder: str) -> bool:
        """Returns whether any part has a placeholder.

        Args:
            placeholder: the name, without braces.

        Returns:
            True if a part has the placeholder.
        """
        return any(placeholder in _placeholders(part) for part in (self.opening, self.input, self.closing, self.answer))


@dataclass(frozen=True)
class Template:
    """The forms of the prompts of a task.

    Attributes:
        name: the name, for messages.
        fields: the fields that an item's inputs must have.
        direct: the form for one input, which is the source or a pivot.
        pmi: the form for several inputs.
    """

    name: str
    fields: tuple[str, ...]
    direct: Form
    pmi: Form

    def __repr__(self) -> str:
        return short_repr(self)


def load_template(template: str | Path) -> Template:
    """Loads a template.

    Args:
        template: the name of a packaged template ("translation", "translation_machine", "math", "nli", "nli_premises"
            or "free"), or the path of a JSON file with the parts that the packaged files have.

    Returns:
        The template.

    Raises:
        CorpusError: the template does not exist, a part is missing, a placeholder is unknown, or a field is not shown.
    """
    if template in NAMES:
        return _load_packaged_template(str(template))
    path = Path(template)
    if not path.is_file():
        raise CorpusError(f"{template}: no such template; give {', '.join(NAMES)} or the path of a .json file")
    try:
        return _parse_template(str(path), path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"template {path} cannot be read ({error}): give a JSON file in UTF-8") from None


@cache
def _load_packaged_template(name: str) -> Template:
    path = files("pymultiling.methods.pmi").joinpath("templates", f"{name}.json")
    return _parse_template(name, path.read_text("utf-8"))


def _parse_template(name: str, text: str) -> Template:
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"template {name} is not JSON: {error}") from None
    template = content if isinstance(content, dict) else {}
    fields = template.get("fields")
    if not isinstance(fields, list) or not fields or not all(_is_name(field) for field in fields):
        raise CorpusError(f"template {name} needs 'fields', a list of names such as [\"text\"]")
    reserved = [field for field in fields if field in (*COMMON_PLACEHOLDERS, "language", "answer")]
    if reserved:
        raise CorpusError(f"template {name}: {reserved[0]!r} is a reserved placeholder: give the field another name")
    direct = _parse_form(name, "direct", template.get("direct"), fields)
    return Template(name, tuple(fields), direct, _parse_form(name, "pmi", template.get("pmi"), fields))


def _is_name(field: object) -> bool:
    """Whether a field can be a placeholder. In other texts a dot or a bracket would read an attribute or an item."""
    return isinstance(field, str) and field.isidentifier()


def _parse_form(template_name: str, form_name: str, content: object, fields: Sequence[str]) -> Form:
    where = f"template {template_name}, {form_name!r}"
    parts: dict[str, str] = {}
    for part in PARTS:
        text = content.get(part) if isinstance(content, dict) else None
        if not isinstance(text, str):
            raise CorpusError(f"{where} has no {part!r}: its parts are {', '.join(PARTS)}")
        if part == "answer":
            allowed = {"answer"}
        else:
            allowed = {*COMMON_PLACEHOLDERS, *fields}
            if part == "input":
                allowed.add("language")
        try:
            unknown = sorted(_placeholders(text) - allowed)
        except ValueError as error:
            raise CorpusError(f"{where}, {part!r}: {error}; write {{{{ or }}}} for a brace in the text") from None
        if unknown:
            raise CorpusError(
                f"{where}, {part!r} has the unknown placeholder {{{unknown[0]}}}: it may have "
                f"{', '.join(sorted(allowed))}"
            )
        parts[part] = text
    if "answer" not in _placeholders(parts["answer"]):
        raise CorpusError(f"{where}, 'answer' lacks the placeholder {{answer}}")
    if parts["closing"].endswith(" "):
        raise CorpusError(f"{where}, 'closing' ends with a space: write the space in 'answer'")
    form = Form(**parts)
    hidden = [field for field in fields if not form.names(field)]
    if hidden:
        raise CorpusError(f"{where} does not show the field {hidden[0]!r}: put {{{hidden[0]}}} in 'input'")
    return form


def _placeholders(text: str) -> set[str]:
    """Returns the placeholders of a text.

    A conversion or a format, as in {text!r} and {text:>9}, is part of the result, so that it is refused as unknown.
    """
    return {
        name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, name, spec, conversion in Formatter().parse(text)
        if name is not None
    }
