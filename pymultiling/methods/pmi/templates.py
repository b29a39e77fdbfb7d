"""Templates of prompts: what stands before the inputs, around each of them, and behind. They are JSON files, in templates/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter

from pymultiling.errors import CorpusError

NAMES = ("translation", "translation_machine", "math", "nli", "nli_premises", "free")
PARTS = ("opening", "input", "closing", "answer")
# What any part but the answer may name, beside the fields of the inputs; those of the first input where it is not an input.
COMMON = ("source", "target", "languages", "labels", "instruction")


@dataclass(frozen=True)
class Form:
    """The parts of a prompt, with {placeholders}.

    Attributes:
        opening: comes first.
        input: is there once for every input; has its {language} too.
        closing: comes last; the answer begins behind it.
        answer: what follows the closing in an example, up to the next one's opening; has the {answer}.
    """

    opening: str
    input: str
    closing: str
    answer: str

    def names(self, placeholder: str) -> bool:
        """Whether any part has this placeholder."""
        return any(placeholder in _placeholders(getattr(self, part)) for part in PARTS)


@dataclass(frozen=True)
class Template:
    """How an item is put to a model.

    Attributes:
        name: for messages.
        fields: which an item's inputs must have.
        direct: for one input, the source's or a pivot's.
        pmi: for several.
    """

    name: str
    fields: tuple[str, ...]
    direct: Form
    pmi: Form


def load_template(template: str | Path) -> Template:
    """A template by its name, one of NAMES, or from the caller's JSON file, which has the parts of those in templates/.

    Raises:
        CorpusError: there is no such template; a part is missing; a placeholder is unknown; a field is shown nowhere.
    """
    if template in NAMES:
        return _packaged(str(template))
    path = Path(template)
    if not path.is_file():
        raise CorpusError(f"{template}: no such template; give {', '.join(NAMES)} or the path of a .json file")
    try:
        return _parsed(str(path), path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"template {path} cannot be read: {error}") from None


@cache
def _packaged(name: str) -> Template:
    return _parsed(name, files("pymultiling.methods.pmi").joinpath("templates", f"{name}.json").read_text("utf-8"))


def _parsed(name: str, text: str) -> Template:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"template {name} is not JSON: {error}") from None
    fields = given.get("fields") if isinstance(given, dict) else None
    if not isinstance(fields, list) or not fields or not all(isinstance(field, str) for field in fields):
        raise CorpusError(f"template {name}: looked for 'fields', a list of names such as [\"text\"]")
    taken = [field for field in fields if field in (*COMMON, "language", "answer")]
    if taken:
        raise CorpusError(f"template {name}: {taken[0]!r} has a meaning of its own and can be no field")
    return Template(name, tuple(fields), *(_form(name, given, form, fields) for form in ("direct", "pmi")))


def _form(name: str, given: dict, form: str, fields: list[str]) -> Form:
    parts = given.get(form) if isinstance(given.get(form), dict) else {}
    for part in PARTS:
        where = f"template {name}, {form!r}"
        if not isinstance(parts.get(part), str):
            raise CorpusError(f"{where} has no {part!r}: its parts are {', '.join(PARTS)}")
        known = {"answer"} if part == "answer" else {*COMMON, *fields, *(["language"] if part == "input" else [])}
        try:
            unknown = sorted(_placeholders(parts[part]) - known)
        except ValueError as error:
            raise CorpusError(f"{where}, {part!r}: {error}; a brace that is meant is written twice") from None
        if unknown:
            raise CorpusError(f"{where}, {part!r} has {{{unknown[0]}}}: it may have {', '.join(sorted(known))}")
    if "answer" not in _placeholders(parts["answer"]):
        raise CorpusError(f"template {name}, {form!r}, 'answer' lacks {{answer}}")
    if parts["closing"].endswith(" "):
        raise CorpusError(f"template {name}, {form!r}, 'closing' ends with a space, which is the answer's")
    found = Form(**{part: parts[part] for part in PARTS})
    hidden = [field for field in fields if not found.names(field)]
    if hidden:
        raise CorpusError(
            f"template {name}, {form!r} shows the field {hidden[0]!r} nowhere: put {{{hidden[0]}}} in 'input'"
        )
    return found


def _placeholders(text: str) -> set[str]:
    """With what follows a name in braces, such as {text!r}, as part of it: no part may have that."""
    return {
        name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, name, spec, conversion in Formatter().parse(text)
        if name is not None
    }
