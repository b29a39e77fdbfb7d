"""Prompts with one input, or with the same input in several languages.

Source: arXiv 2403.09073, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pymultiling.data.languages import language_name
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.items import ParallelItem
from pymultiling.methods.pmi.records import LABELS
from pymultiling.methods.pmi.templates import Form, Template, load_template

PromptForm: TypeAlias = Literal["direct", "pivot", "pmi"]
FORMS: tuple[PromptForm, ...] = get_args(PromptForm)


def prompt(
    item: ParallelItem,
    *,
    form: PromptForm = "pmi",
    source: str,
    others: Sequence[str] = (),
    target: str | None = None,
    template: str | Path = "translation",
    examples: Sequence[tuple[ParallelItem, str]] = (),
    instruction: str = "",
    labels: Sequence[str] = LABELS,
    names: Mapping[str, str] | None = None,
) -> str:
    """Returns the prompt for an item, up to the answer and without a space at the end.

    Source: arXiv 2403.09073, section 3.

    Args:
        item: the question.
        form: "direct": the source alone; "pivot": the only input of `others` alone; "pmi": the source and then the
            others.
        source: the name of the source input.
        others: the names of the other inputs, in the order in which they are shown.
        target: the code of the language to translate into.
        template: the name of a packaged template, or the path of a JSON file, as in `load_template`.
        examples: items with their answers, which are shown first, in the same form.
        instruction: what to do, for the template "free".
        labels: the labels to choose from, for the templates "nli" and "nli_premises".
        names: {code: English name}, for languages that are unknown or need another name.

    Returns:
        The text of the prompt.

    Raises:
        CorpusError: the item or an example lacks an input or a field, or there is no such template.
        ValueError: the template shows target, instruction or labels, which are missing; it does not show an instruction
            that was given; form, others or labels are invalid; or the name of a language that is shown is unknown.
    """
    inputs = _select_inputs(form, source, others)
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of words, got the plain string {labels!r}")
    loaded = load_template(template)
    parts = loaded.direct if len(inputs) == 1 else loaded.pmi
    for name, value in (("target", target), ("instruction", instruction), ("labels", labels)):
        if parts.names(name) and not value:
            raise ValueError(f"template {loaded.name} needs {name}=")
    if instruction and not parts.names("instruction"):
        raise ValueError(f"template {loaded.name} has no place for an instruction: use the template 'free'")
    fields = _input_fields(item, "the item", inputs, loaded)
    languages = _language_names(inputs, parts, names)
    common = {
        "source": languages[0],
        "target": language_name(target, names) if target is not None and parts.names("target") else "",
        "languages": _join_words(list(dict.fromkeys(languages)), "and"),
        "labels": _join_words(list(labels), "or"),
        "instruction": instruction,
    }
    shown = []
    for place, (example, answer) in enumerate(examples, 1):
        example_fields = _input_fields(example, f"example {place}", inputs, loaded)
        question = _fill_form(example_fields, parts, languages, common)
        shown.append(question + parts.answer.format(answer=answer))
    return "".join(shown) + _fill_form(fields, parts, languages, common)


def _select_inputs(form: PromptForm, source: str, others: Sequence[str]) -> list[str]:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if isinstance(others, str):
        raise ValueError(f"others must be a list of names, got the plain string {others!r}")
    if form == "direct":
        return [source]
    if form == "pivot" and len(others) != 1:
        raise ValueError(f"form 'pivot' needs exactly one input in others, got {len(others)}")
    if not others:
        raise ValueError("form 'pmi' needs at least one input in others: give one, or use form 'direct'")
    return list(others) if form == "pivot" else [source, *others]


def _input_fields(item: ParallelItem, label: str, inputs: Sequence[str], template: Template) -> list[Mapping[str, str]]:
    """Returns {field: text} of every input; `label` names the item in messages."""
    for name in inputs:
        if name not in item.texts:
            raise CorpusError(f"{label} has no input {name!r}, only {', '.join(item.texts)}")
        for field in template.fields:
            if field not in item.texts[name]:
                existing = ", ".join(item.texts[name])
                raise CorpusError(
                    f"template {template.name} needs the field {field!r}; {name!r} of {label} has {existing}"
                )
    return [item.texts[name] for name in inputs]


def _language_names(inputs: Sequence[str], parts: Form, names: Mapping[str, str] | None) -> list[str]:
    """Returns the names of the inputs' languages; "" for names that no part shows, which may be unknown."""
    if parts.names("language") or parts.names("languages"):
        shown = inputs
    else:
        shown = inputs[:1] if parts.names("source") else []
    return [language_name(name, names) for name in shown] + [""] * (len(inputs) - len(shown))


def _fill_form(
    inputs: Sequence[Mapping[str, str]], parts: Form, languages: Sequence[str], common: Mapping[str, str]
) -> str:
    """Fills the placeholders; braces in the inputs themselves stay."""
    blocks = [
        parts.input.format_map({**fields, **common, "language": language})
        for fields, language in zip(inputs, languages)
    ]
    values = {**inputs[0], **common}
    return parts.opening.format_map(values) + "".join(blocks) + parts.closing.format_map(values)


def _join_words(words: list[str], conjunction: str) -> str:
    """Joins words as in "a, b and c"."""
    if not words:
        return ""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
