"""Making and caching of parallel inputs, with a stand-in for the model that counts its requests."""

import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from pymultiling import CheckpointError, CorpusError, TranslationError
from pymultiling.methods import pmi
from pymultiling.methods.pmi import ParallelItem, translate, translate_items
from pymultiling.methods.pmi.cache import Cache
from pymultiling.methods.pmi.translation_requests import Request

FAILURE = TranslationError("the model fails")


class Echo:
    """Answers with the request itself; raises `error` after `until` answers."""

    def __init__(self, until=None, error=FAILURE, name="echo"):
        self.until, self.error, self.name = until, error, name
        self.count = Counter()

    def asked(self, request):
        return {"who": self.name, "messages": request.messages()}

    def answer(self, requests, keep):
        for place, request in enumerate(requests):
            if self.until is not None and self.count.total() >= self.until:
                raise self.error
            self.count[request.messages()[0]["content"]] += 1
            keep(place, echo_answer(request))


def echo_answer(request: Request) -> str:
    kind = request.target or f"again {len(request.earlier)}"
    return f"<{request.source} to {kind}: {request.text}>"


def test_equal_texts_are_translated_once():
    echo = Echo()
    inputs = translate(["a", "b", "a"], ["fr", "es"], source="de", by=echo)
    assert inputs == {
        "fr": ["<de to fr: a>", "<de to fr: b>", "<de to fr: a>"],
        "es": ["<de to es: a>", "<de to es: b>", "<de to es: a>"],
    }
    assert list(echo.count.values()) == [1] * 4
    assert translate([], ["fr"], source="de", by=echo) == {"fr": []}


def test_paraphrases_show_the_earlier_ones():
    echo = Echo()
    inputs = translate(["a {x}", "b"], 3, source="de", by=echo, how="paraphrase")
    assert inputs == {f"de~{n + 1}": [f"<de to again {n}: {text}>" for text in ("a {x}", "b")] for n in range(3)}
    last = list(echo.count)[4]
    assert "in German" in last and "Text: a {x}\n" in last
    assert last.endswith("In other words: <de to again 0: a {x}>\nIn other words: <de to again 1: a {x}>")


def test_back_translation_goes_into_another_language_and_back():
    echo = Echo()
    inputs = translate(["a", "b"], ["fr", "es"], source="de", by=echo, how="back-translation")
    assert inputs == {
        f"de~{code}": [f"<{code} to de: <de to {code}: {text}>>" for text in "ab"] for code in ("fr", "es")
    }
    assert echo.count.total() == 8


def test_items_get_inputs_made_of_all_their_fields():
    items = [
        ParallelItem({"en": {"premise": "P", "hypothesis": "H"}, "it": {"premise": "p"}}, ("neutral",)),
        ParallelItem({"en": {"premise": "Q", "hypothesis": "H"}}, ("entailment",)),
    ]
    echo = Echo()
    new_items = translate_items(items, ["fr"], source="en", by=echo)
    assert [item.references for item in new_items] == [("neutral",), ("entailment",)]
    assert new_items[0].texts == {**items[0].texts, "fr": {"premise": "<en to fr: P>", "hypothesis": "<en to fr: H>"}}
    assert new_items[1].texts["fr"] == {"premise": "<en to fr: Q>", "hypothesis": "<en to fr: H>"}
    assert echo.count.total() == 3 and "fr" not in items[0].texts
    again = translate_items(new_items, 2, source="en", by=echo, how="paraphrase")
    assert list(again[1].texts) == ["en", "fr", "en~1", "en~2"]
    assert translate_items([], ["fr"], source="en", by=echo) == []
    with pytest.raises(CorpusError, match="item 2 has no input 'it', only en"):
        translate_items(items, ["fr"], source="it", by=echo)
    with pytest.raises(CorpusError, match="item 1 has an input 'it' already"):
        translate_items(items, ["it"], source="en", by=echo)


def test_stored_answers_are_not_requested_again(tmp_path):
    path, texts = tmp_path / "answers.db", [f"text {number}" for number in range(20)]
    first = Echo(until=7)
    with pytest.raises(TranslationError) as caught:
        translate(texts, ["fr"], source="de", by=first, cache=path)
    assert str(caught.value) == (f"the model fails; 7 answers are stored in {path}: repeat the call to get the rest")
    interrupted = Echo(until=4, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        translate(texts, ["fr"], source="de", by=interrupted, cache=path)
    last = Echo()
    inputs = translate(texts, ["fr"], source="de", by=last, cache=path)
    assert inputs["fr"] == [f"<de to fr: {text}>" for text in texts]
    count = first.count + interrupted.count + last.count
    assert len(count) == 20 and set(count.values()) == {1}
    # The model and the names of the languages are parts of the key in the cache.
    for options in ({"by": Echo(name="other")}, {"by": Echo(), "names": {"fr": "Breton"}}):
        translate(texts[:2], ["fr"], source="de", cache=path, **options)
        assert options["by"].count.total() == 2


def test_without_a_cache_the_error_says_that_answers_are_lost():
    with pytest.raises(TranslationError, match="fails; 2 answers are lost: give cache=, a file that stores them"):
        translate(["a", "b", "c"], ["fr"], source="de", by=Echo(until=2))


def test_incomplete_answers_are_not_stored(tmp_path):
    class PartialEcho(Echo):
        def answer(self, requests, keep):
            for place, request in enumerate(requests):
                self.count[request.text] += 1
                keep(place, "half", whole=request.text == "a")

    echo = PartialEcho()
    for _ in range(2):
        inputs = translate(["a", "b"], ["fr"], source="de", by=echo, cache=tmp_path / "c")
        assert inputs == {"fr": ["half", "half"]}
    assert echo.count == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "into, how, message",
    [
        (["fr"], "translations", "how must be one of translation, paraphrase, back-translation"),
        ("fr", "translation", "needs a list of language codes"),
        ([], "translation", "needs a list of language codes"),
        (2, "back-translation", "needs a list of language codes"),
        (["fr", "fr"], "translation", "each once"),
        (["de"], "back-translation", "without the source's own"),
        (["fr"], "paraphrase", "needs the number of paraphrases"),
        (0, "paraphrase", "needs the number of paraphrases"),
        (["qqq"], "translation", "the language of 'qqq' is unknown: give its English name"),
    ],
)
def test_invalid_arguments_are_refused_before_any_request(into, how, message):
    echo = Echo()
    with pytest.raises(ValueError, match=message):
        translate(["a"], into, source="de~1", by=echo, how=how)
    with pytest.raises(ValueError, match=message):
        translate_items([ParallelItem({"de": {"text": "a"}}, ("b",))], into, source="de", by=echo, how=how)
    assert not echo.count


def test_empty_texts_are_refused():
    for invalid in ("", " \n", None):
        with pytest.raises(CorpusError, match="text 2 of 2 is empty"):
            translate(["a", invalid], ["fr"], source="de", by=Echo())


def test_a_plain_string_is_refused():
    echo = Echo()
    with pytest.raises(CorpusError, match="texts must be a list, got the plain string 'abc'"):
        translate("abc", ["fr"], source="de", by=echo)
    assert not echo.count


def test_lone_surrogates_are_replaced(tmp_path):
    inputs = translate(["a \ud83d"], ["fr"], source="de", by=Echo(), cache=tmp_path / "c")
    assert inputs == {"fr": ["<de to fr: a \ufffd>"]}


def test_progress_counts_answers(capsys):
    translate(["a", "b", "a"], ["fr", "es"], source="de", by=Echo(), how="back-translation", progress=True)
    assert "back-translation: 12 of 12 answers" in capsys.readouterr().err


def test_files_that_are_not_a_cache_are_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, and longer than the header of one " * 9)
    database = sqlite3.connect(tmp_path / "other.db")
    database.execute("CREATE TABLE cakes (name TEXT)")
    database.commit()
    database.close()
    before = (tmp_path / "other.db").read_bytes()
    for name, message in (
        ("text", "is not a cache of answers, or is damaged"),
        ("other.db", "is the database of another program"),
        ("", "cannot be opened as a cache"),
        ("no folder/answers.db", "cannot be opened as a cache"),
    ):
        with pytest.raises(CheckpointError, match=message):
            translate(["a"], ["fr"], source="de", by=Echo(), cache=tmp_path / name)
    assert (tmp_path / "other.db").read_bytes() == before
    with Cache(tmp_path / "damaged.db") as cache:
        for number in range(200):
            cache.add(f"question {number}", "answer")
    content = (tmp_path / "damaged.db").read_bytes()
    (tmp_path / "damaged.db").write_bytes(content[:4096] + b"x" * (len(content) - 4096))
    with pytest.raises(CheckpointError, match=r"damaged\.db is not a cache of answers, or is damaged"):
        Cache(tmp_path / "damaged.db")


def test_threads_and_processes_share_a_cache(tmp_path):
    path = tmp_path / "answers.db"
    program = """
import sys
from pymultiling.methods.pmi.cache import Cache
path, name = sys.argv[1:]
print("started", flush=True)
for start in range(0, 20, 5):
    with Cache(path) as cache:
        for number in range(start, start + 5):
            cache.add(f"{name} {number}", f"answer {number}")
            cache.add(f"both {number}", f"answer of {name}")
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(path), "process"], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    with Cache(path) as cache, ThreadPoolExecutor(4) as pool:
        while process.poll() is None:
            list(pool.map(lambda number: cache.add(f"thread {number}", f"answer {number}"), range(20)))
            list(pool.map(lambda number: cache.add(f"both {number}", "answer of thread"), range(20)))
    process.stdout.close()
    assert process.returncode == 0
    with Cache(path) as cache:
        for number in range(20):
            assert cache.get(f"thread {number}") == cache.get(f"process {number}") == f"answer {number}"
            assert cache.get(f"both {number}") in ("answer of thread", "answer of process")
        assert cache.get("thread 20") is None
        both = cache.get("both 0")
        cache.add("both 0", "another")
        assert cache.get("both 0") == both


def test_public_names_exist():
    assert pmi.translate is translate
    assert all(getattr(pmi, name) is not None for name in pmi.__all__)
