"""Templates of prompts."""

import json
from pathlib import Path

import pytest

from pymultiling import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi.templates import NAMES, PARTS

FORM = {"opening": "{source} {{x}}\n", "input": "{language}: {text}\n", "closing": "{target}:", "answer": " {answer}\n"}
GOOD = {"fields": ["text"], "direct": FORM, "pmi": FORM}


def write(path, given):
    path.write_text(given if isinstance(given, str) else json.dumps(given), "utf-8")
    return path


def test_every_packaged_template_loads():
    folder = Path(pmi.__file__).parent / "templates"
    assert sorted(NAMES) == sorted(path.stem for path in folder.glob("*.json"))
    for name in NAMES:
        template = pmi.load_template(name)
        assert template.name == name and template.fields
        assert all(getattr(form, part) for form in (template.direct, template.pmi) for part in PARTS)


def test_the_callers_template(tmp_path):
    path = write(tmp_path / "mine.json", GOOD)
    for given in (path, str(path)):
        template = pmi.load_template(given)
        assert template.fields == ("text",) and template.pmi == pmi.Form(**FORM)
    item = pmi.ParallelItem({"de": {"text": "a {text} b"}}, ("x",))
    assert pmi.prompt(item, form="direct", source="de", target="en", template=path) == (
        "German {x}\nGerman: a {text} b\nEnglish:"
    )


@pytest.mark.parametrize(
    "given, sentence",
    [
        ("{", "is not JSON"),
        ([], "looked for 'fields'"),
        ({**GOOD, "fields": "text"}, "looked for 'fields'"),
        ({**GOOD, "fields": ["language"]}, "'language' has a meaning of its own"),
        ({"fields": ["text"], "direct": FORM}, "'pmi' has no 'opening': its parts are opening, input, closing, answer"),
        ({**GOOD, "direct": {**FORM, "closing": 3}}, "'direct' has no 'closing'"),
        ({**GOOD, "pmi": {**FORM, "opening": "{language}"}}, "'opening' has {language}: it may have"),
        ({**GOOD, "pmi": {**FORM, "input": "{question}"}}, "'input' has {question}: .*text"),
        ({**GOOD, "pmi": {**FORM, "input": "{text!r}"}}, "has {text!r}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text:>9}"}}, "has {text:>9}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text.real}"}}, "has {text.real}"),
        ({**GOOD, "pmi": {**FORM, "input": "{}"}}, "has {}"),
        ({**GOOD, "pmi": {**FORM, "input": "{text"}}, "a brace that is meant is written twice"),
        ({**GOOD, "pmi": {**FORM, "answer": "x"}}, "'answer' lacks {answer}"),
        ({**GOOD, "pmi": {**FORM, "closing": "{target}: "}}, "'closing' ends with a space"),
        (
            {**GOOD, "direct": {**FORM, "input": "{language}"}},
            "'direct' shows the field 'text' nowhere: put {text} in 'input'",
        ),
        ({**GOOD, "fields": ["text", "topic"]}, "'direct' shows the field 'topic' nowhere"),
    ],
)
def test_what_is_no_template(tmp_path, given, sentence):
    with pytest.raises(CorpusError, match=sentence):
        pmi.load_template(write(tmp_path / "bad.json", given))


def test_a_template_that_is_not_there(tmp_path):
    with pytest.raises(CorpusError, match="trnslation: no such template; give translation, translation_machine"):
        pmi.load_template("trnslation")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CorpusError, match="cannot be read"):
        pmi.load_template(tmp_path / "bytes.json")
