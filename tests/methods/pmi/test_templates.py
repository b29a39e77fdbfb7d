"""Loading and checking of prompt templates."""

import json
from pathlib import Path

import pytest

from pymultiling import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi.templates import NAMES, PARTS

FORM = {"opening": "{source} {{x}}\n", "input": "{language}: {text}\n", "closing": "{target}:", "answer": " {answer}\n"}
GOOD = {"fields": ["text"], "direct": FORM, "pmi": FORM}


def write_template(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_every_packaged_template_loads():
    folder = Path(pmi.__file__).parent / "templates"
    assert sorted(NAMES) == sorted(path.stem for path in folder.glob("*.json"))
    for name in NAMES:
        template = pmi.load_template(name)
        assert template.name == name and template.fields
        assert all(getattr(form, part) for form in (template.direct, template.pmi) for part in PARTS)


def test_a_template_of_the_caller_is_loaded_by_its_path(tmp_path):
    path = write_template(tmp_path / "mine.json", GOOD)
    for argument in (path, str(path)):
        template = pmi.load_template(argument)
        assert template.fields == ("text",) and template.pmi == pmi.Form(**FORM)
    item = pmi.ParallelItem({"de": {"text": "a {text} b"}}, ("x",))
    assert pmi.prompt(item, form="direct", source="de", target="en", template=path) == (
        "German {x}\nGerman: a {text} b\nEnglish:"
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ([], "needs 'fields'"),
        ({**GOOD, "fields": "text"}, "needs 'fields'"),
        ({**GOOD, "fields": ["language"]}, "'language' is a reserved placeholder"),
        ({"fields": ["text"], "direct": FORM}, "'pmi' has no 'opening': its parts are opening, input, closing, answer"),
        ({**GOOD, "direct": {**FORM, "closing": 3}}, "'direct' has no 'closing'"),
        (
            {**GOOD, "pmi": {**FORM, "opening": "{language}"}},
            "'opening' has the unknown placeholder {language}: it may have",
        ),
        ({**GOOD, "pmi": {**FORM, "input": "{question}"}}, "'input' has the unknown placeholder {question}: .*text"),
        ({**GOOD, "pmi": {**FORM, "input": "{text!r}"}}, "has the unknown placeholder {text!r}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text:>9}"}}, "has the unknown placeholder {text:>9}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text.real}"}}, "has the unknown placeholder {text.real}"),
        ({**GOOD, "pmi": {**FORM, "input": "{}"}}, "has the unknown placeholder {}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text"}}, "write {{ or }} for a brace in the text"),
        ({**GOOD, "pmi": {**FORM, "answer": "x"}}, "'answer' lacks the placeholder {answer}"),
        ({**GOOD, "pmi": {**FORM, "closing": "{target}: "}}, "'closing' ends with a space"),
        (
            {**GOOD, "direct": {**FORM, "input": "{language}"}},
            "'direct' does not show the field 'text': put {text} in 'input'",
        ),
        ({**GOOD, "fields": ["text", "topic"]}, "'direct' does not show the field 'topic'"),
    ],
)
def test_invalid_templates_are_refused(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        pmi.load_template(write_template(tmp_path / "bad.json", content))


def test_templates_that_do_not_exist_or_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="trnslation: no such template; give translation, translation_machine"):
        pmi.load_template("trnslation")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CorpusError, match="cannot be read"):
        pmi.load_template(tmp_path / "bytes.json")
