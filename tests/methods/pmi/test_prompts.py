"""The texts of prompts, written out in full."""

import json

import pytest

from pymultiling import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi import ParallelItem, prompt

ITEM = ParallelItem(
    {"de": {"text": "Hallo {welt}!"}, "es": {"text": "¡Hola {0}!"}, "de~1": {"text": "Tag."}, "fr": {"text": "Salut"}},
    ("Hello world!",),
)
EXAMPLE = ParallelItem({"de": {"text": "eins"}, "es": {"text": "uno"}}, ("one",))
PAIR = ParallelItem(
    {
        "en": {"premise": "It rains.", "hypothesis": "It is wet."},
        "fr": {"premise": "Il pleut.", "hypothesis": "C'est mouillé."},
    },
    ("entailment",),
)


def test_translation_prompts_show_the_source_the_pivot_or_all_inputs():
    options = {"source": "de", "target": "en"}
    assert prompt(ITEM, form="direct", **options) == "Translate into English.\nGerman: Hallo {welt}!\nEnglish:"
    assert prompt(ITEM, form="direct", others=["es"], **options) == prompt(ITEM, form="direct", **options)
    assert prompt(ITEM, form="pivot", others=["es"], **options) == (
        "Translate into English.\nSpanish: ¡Hola {0}!\nEnglish:"
    )
    assert prompt(ITEM, others=["es", "de~1"], **options) == (
        "Translate into English.\nGerman: Hallo {welt}!\nSpanish: ¡Hola {0}!\nGerman: Tag.\nEnglish:"
    )
    assert prompt(ITEM, others=["de~1", "de"], **options) == (
        "Translate into English.\nGerman: Hallo {welt}!\nGerman: Tag.\nGerman: Hallo {welt}!\nEnglish:"
    )


def test_languages_have_the_names_that_the_caller_gives():
    text = prompt(ITEM, form="direct", source="de", target="xx", names={"de": "Deutsch", "xx": "Elvish"})
    assert text == "Translate into Elvish.\nDeutsch: Hallo {welt}!\nElvish:"
    with pytest.raises(ValueError, match="give its English name in names"):
        prompt(ITEM, form="direct", source="de", target="xx")


def test_examples_precede_the_question():
    text = prompt(ITEM, source="de", others=["es"], target="en", examples=[(EXAMPLE, "{one}"), (EXAMPLE, "1")])
    assert text == (
        "Translate into English.\nGerman: eins\nSpanish: uno\nEnglish: {one}\n\n"
        "Translate into English.\nGerman: eins\nSpanish: uno\nEnglish: 1\n\n"
        "Translate into English.\nGerman: Hallo {welt}!\nSpanish: ¡Hola {0}!\nEnglish:"
    )


def test_the_template_for_machine_translations_names_the_original():
    text = prompt(ITEM, source="de", others=["es", "fr"], target="en", template="translation_machine")
    opening, *rest = text.split("\n")
    assert opening.startswith("Translate into English. The first text, in German, is the original")
    assert rest == ["German: Hallo {welt}!", "Spanish: ¡Hola {0}!", "French: Salut", "English:"]
    direct = prompt(ITEM, form="direct", source="de", target="en", template="translation_machine")
    assert direct == prompt(ITEM, form="direct", source="de", target="en")


def test_math_prompts_show_the_question_in_each_language():
    item = ParallelItem(
        {"en": {"question": "1 + 1?"}, "de": {"question": "1 und 1?"}, "de~1": {"question": "1, 1?"}}, ("2",)
    )
    assert prompt(item, form="direct", source="en", template="math").split("\n")[1:] == ["English: 1 + 1?", "Solution:"]
    text = prompt(item, source="en", others=["de", "de~1"], template="math")
    assert text.split("\n")[1:] == ["English: 1 + 1?", "German: 1 und 1?", "German: 1, 1?", "Solution:"]
    assert " in English and German.\n" in text


def test_inference_prompts_show_the_hypothesis_in_all_languages_or_in_the_source_only():
    options = {"source": "en", "others": ["fr"]}
    assert prompt(PAIR, **options, template="nli") == (
        "The same premise and hypothesis are given in English and French. "
        "How does the hypothesis relate to the premise: entailment, neutral or contradiction?\n"
        "Premise (English): It rains.\nHypothesis (English): It is wet.\n"
        "Premise (French): Il pleut.\nHypothesis (French): C'est mouillé.\nRelation:"
    )
    text = prompt(PAIR, **options, template="nli_premises", labels=("yes", "no"), examples=[(PAIR, "yes")])
    assert text.endswith(
        ": yes or no?\nPremise (English): It rains.\nPremise (French): Il pleut.\n"
        "Hypothesis (English): It is wet.\nRelation:"
    )
    assert "Relation: yes\n\nThe same premise" in text
    direct = [prompt(PAIR, form="direct", source="en", template=name) for name in ("nli", "nli_premises")]
    assert direct[0] == direct[1]
    pivot = prompt(PAIR, form="pivot", **options, template="nli_premises")
    assert pivot.endswith("Premise (French): Il pleut.\nHypothesis (French): C'est mouillé.\nRelation:")


def test_the_instruction_opens_the_prompt_and_braces_stay():
    """Braces in the instruction or in a text, such as {one} and {0}, are no placeholders."""
    options = {"source": "de", "template": "free", "instruction": "Say it in {one} word."}
    assert prompt(ITEM, form="direct", **options) == "Say it in {one} word.\nGerman: Hallo {welt}!\nAnswer:"
    assert prompt(ITEM, others=["fr", "es"], **options) == (
        "Say it in {one} word. The same text is given in German, French and Spanish.\n"
        "German: Hallo {welt}!\nFrench: Salut\nSpanish: ¡Hola {0}!\nAnswer:"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"form": "both"}, "form must be one of direct, pivot, pmi"),
        ({"others": []}, "'pmi' needs at least one input in others"),
        ({"others": "es"}, "others must be a list of names, got the plain string 'es'"),
        ({"form": "pivot", "others": ["es", "fr"]}, "'pivot' needs exactly one input in others, got 2"),
        ({"others": ["it"]}, "the item has no input 'it', only de, es, de~1, fr"),
        ({"source": "it"}, "the item has no input 'it'"),
        ({"others": ["fr"], "examples": [(ITEM, "x"), (EXAMPLE, "one")]}, "example 2 has no input 'fr', only de, es"),
        ({"template": "math"}, "template math needs the field 'question'; 'de' of the item has text"),
        ({"target": None}, "template translation needs target="),
        ({"template": "free"}, "template free needs instruction="),
        ({"instruction": "Do."}, "no place for an instruction"),
        ({"template": "nli", "labels": ()}, "template nli needs labels="),
        ({"template": "nli", "labels": "yes"}, "labels must be a list of words, got the plain string 'yes'"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prompt(ITEM, **{"source": "de", "others": ["es"], "target": "en", **options})


def test_languages_that_are_not_shown_may_be_unknown(tmp_path):
    item = ParallelItem({name: {"text": name} for name in ("qq", "rr", "de")}, ("x",))

    def prompt_with(opening, source="qq", **options):
        form = {"opening": opening, "input": "<{text}>", "closing": "", "answer": "{answer}"}
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"fields": ["text"], "direct": form, "pmi": form}), "utf-8")
        return prompt(item, source=source, others=["rr"], template=path, **options)

    assert prompt_with("") == prompt_with("", target="zz") == "<qq><rr>"
    assert prompt_with("{source}", source="de", target="zz") == "German<de><rr>"
    assert prompt_with("{target}", target="de") == "German<qq><rr>"
    for opening, options, code in (
        ("{source}", {}, "qq"),
        ("{languages}", {"source": "de"}, "rr"),
        ("{target}", {"target": "zz"}, "zz"),
    ):
        with pytest.raises(ValueError, match=f"the language of '{code}' is unknown"):
            prompt_with(opening, **options)


def test_errors_have_the_documented_types():
    options = {"source": "de", "others": ["es"], "target": "en"}
    for invalid in ({"others": ["it"]}, {"template": "math"}, {"template": "none"}):
        with pytest.raises(CorpusError):
            prompt(ITEM, **{**options, **invalid})
    for invalid in ({"target": None}, {"form": "both"}, {"target": "qqq"}):
        with pytest.raises(ValueError, match=r"needs target=|form must be|is unknown") as caught:
            prompt(ITEM, **{**options, **invalid})
        assert not isinstance(caught.value, CorpusError)


def test_tasks_from_readers_fit_their_template():
    task = pmi.translation({"de": ["eins"], "fr": ["un"], "en": ["one"]}, target="en")
    text = prompt(task.items[0], source="de", others=["fr"], target="en", template=task.template)
    assert text.endswith("German: eins\nFrench: un\nEnglish:")
    with pytest.raises(CorpusError):
        prompt(task.items[0], source="en", others=["fr"], target="en")
