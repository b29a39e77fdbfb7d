"""Prompts with one input, or with the same input in several languages (PMI, arXiv 2403.09073, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pymultiling.data.languages import language_name
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.items import ParallelItem
from pymultiling.methods.pmi.readers import LABELS
from pymultiling.methods.pmi.templates import Form, Template, load_template

FORMS = ("direct", "pivot", "pmi")


def prompt(
    item: ParallelItem,
    *,
    form: str = "pmi",
    source: str,
    others: Sequence[str] = (),
    target: str | None = None,
    template: str | Path = "translation",
    examples: Sequence[tuple[ParallelItem, str]] = (),
    instruction: str = "",
    labels: Sequence[str] = LABELS,
    names: Mapping[str, str] | None = None,
) -> str:
    """What a model is given for an item; it ends where the answer begins, without a space.

    Args:
        item: the question.
        form: "direct", the source alone; "pivot", the only one of `others` alone; "pmi", the source and then the others.
        source: the name of the source's input.
        others: names of other inputs, in the order in which they are to stand.
        target: the language's code that a translation is asked for.
        template: the name of one, or the path of the caller's own: `load_template`.
        examples: items with their answers, shown before in the same form.
        instruction: what to do, for the template "free".
        labels: to choose from, for the templates "nli" and "nli_premises".
        names: {code: English name}, of languages that are to be called otherwise than they are, or are not known.

    Raises:
        CorpusError: the item or an example lacks an input or a field; the template is none.
        ValueError: target, instruction or labels are lacking where the template shows them, or an instruction is given
            where it does not; form, others or labels do not suit; the name of a language that is shown is not known.
    """
    inputs = _inputs(form, source, others)
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of words, got the plain string {labels!r}")
    used = load_template(template)
    parts = used.direct if len(inputs) == 1 else used.pmi
    for name, given in (("target", target), ("instruction", instruction), ("labels", labels)):
        if parts.names(name) and not given:
            raise ValueError(f"template {used.name} needs {name}=")
    if instruction and not parts.names("instruction"):
        raise ValueError(f"template {used.name} has no place for an instruction; the template 'free' has")
    texts = _texts(item, "the item", inputs, used)
    languages = _languages(inputs, parts, names)
    common = {
        "source": languages[0],
        "target": language_name(target, names) if parts.names("target") else "",
        "languages": _joined(list(dict.fromkeys(languages)), "and"),
        "labels": _joined(list(labels), "or"),
        "instruction": instruction,
    }
    shown = [
        _asked(_texts(example, f"example {place}", inputs, used), parts, languages, common)
        + parts.answer.format(answer=answer)
        for place, (example, answer) in enumerate(examples, 1)
    ]
    return "".join(shown) + _asked(texts, parts, languages, common)


def _inputs(form: str, source: str, others: Sequence[str]) -> list[str]:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if isinstance(others, str):
        raise ValueError(f"others must be a list of names, got {others!r}")
    if form == "direct":
        return [source]
    if form == "pivot" and len(others) != 1:
        raise ValueError(f"form 'pivot' takes exactly one of others, got {len(others)}")
    if not others:
        raise ValueError("form 'pmi' takes one of others at least; form 'direct' takes none")
    return list(others) if form == "pivot" else [source, *others]


def _texts(item: ParallelItem, what: str, inputs: Sequence[str], template: Template) -> list[Mapping[str, str]]:
    """The fields of every input."""
    for name in inputs:
        if name not in item.texts:
            raise CorpusError(f"{what} has no input {name!r}, only {', '.join(item.texts)}")
        for field in template.fields:
            if field not in item.texts[name]:
                has = ", ".join(item.texts[name])
                raise CorpusError(f"template {template.name} needs the field {field!r}; {name!r} of {what} has {has}")
    return [item.texts[name] for name in inputs]


def _languages(inputs: Sequence[str], parts: Form, names: Mapping[str, str] | None) -> list[str]:
    """Names of the inputs' languages, empty where no part shows them: they need not be known."""
    every = parts.names("language") or parts.names("languages")
    shown = inputs if every else inputs[: parts.names("source")]
    return [language_name(name, names) for name in shown] + [""] * (len(inputs) - len(shown))


def _asked(texts: Sequence[Mapping[str, str]], parts: Form, languages: Sequence[str], common: Mapping[str, str]) -> str:
    """Texts are put into the template's parts and are none themselves, so that braces in them stay."""
    blocks = [
        parts.input.format_map({**one, **common, "language": language}) for one, language in zip(texts, languages)
    ]
    around = {**texts[0], **common}
    return parts.opening.format_map(around) + "".join(blocks) + parts.closing.format_map(around)


def _joined(words: list[str], last: str) -> str:
    """a, b and c."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
