"""Answers over HTTP, from a server that fails in every way that it can."""

import random
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from pymultiling import BackendUnavailable, TranslationError
from pymultiling.methods.pmi import Server, server, translate
from pymultiling.methods.pmi.translation_requests import Request
from tests.support import chat_server as chat

openai = pytest.importorskip("openai")

TEXTS = [f"Satz {number}, {'lang ' * (number % 4)}Ende" for number in range(30)]
TEMPORARY = [chat.DROPPED, chat.CUT_OFF, chat.LIMITED, chat.BROKEN, chat.NO_JSON, chat.NO_CHOICES]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Neither the client nor we wait long."""
    for module, first, longest in (
        (openai._base_client, "INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"),
        (server, "FIRST_DELAY", "MAX_DELAY"),
    ):
        monkeypatch.setattr(module, first, 0.001)
        monkeypatch.setattr(module, longest, 0.004)


def prompts(texts, target="fr"):
    return [Request(text, "de", target).messages()[0]["content"] for text in texts]


def at(there, **options):
    return Server("m", there.url, **{"api_key": "k", "retries": 6, **options})


@pytest.mark.parametrize("how", TEMPORARY)
def test_one_failure(how):
    """Also where it comes as often as it may, and answers that are asked for at once."""
    with chat.ChatServer(lambda prompt, before: how if before < 2 else chat.WELL) as there:
        found = translate(TEXTS, ["fr"], source="de", by=at(there, retries=2))
    asked = prompts(TEXTS)
    assert found == {"fr": [chat.right(prompt) for prompt in asked]}
    assert there.asked == Counter(dict.fromkeys(asked, 3))
    assert there.delivered == Counter(asked)


@pytest.mark.parametrize("seed", range(3))
def test_any_failures(seed):
    """Of any kinds and in any order, and answers that are longer than their room."""
    draw = random.Random(seed)
    with chat.ChatServer(lambda prompt, before: draw.choice([*TEMPORARY, chat.WELL, chat.WELL])) as there:
        texts = TEXTS + TEXTS[:5]
        found = translate(texts, ["fr", "es"], source="de", by=at(there, retries=999, workers=5, max_tokens=4))
    for code in ("fr", "es"):
        assert found[code] == [chat.right(prompt) for prompt in prompts(texts, code)]
    assert there.delivered == Counter(prompts(TEXTS) + prompts(TEXTS, "es"))


def test_every_way_to_make_them():
    with chat.ChatServer() as there:
        by = at(there)
        there_and_back = translate(TEXTS, ["fr"], source="de", by=by, how="back-translation")["de~fr"]
        worded = translate(TEXTS, 3, source="de", by=by, how="paraphrase")
    through = [chat.right(prompt) for prompt in prompts(TEXTS)]
    back = [Request(text, "fr", "de").messages()[0]["content"] for text in through]
    assert there_and_back == [chat.right(prompt) for prompt in back]
    for place, text in enumerate(TEXTS):
        earlier = ()
        for number in (1, 2, 3):
            right = chat.right(Request(text, "de", earlier=earlier).messages()[0]["content"])
            assert worded[f"de~{number}"][place] == right
            earlier += (right,)
    assert set(there.delivered.values()) == {1}


@pytest.mark.parametrize("workers", [1, 6])
def test_a_run_that_fails_and_is_run_again(tmp_path, workers):
    """Some texts are equal; failures of all kinds come in between."""
    texts, path, draw = TEXTS + TEXTS[3:9], tmp_path / "answers.db", random.Random(workers)
    answers = []

    def behave(prompt, before):
        if len(answers) >= 11:
            return chat.REFUSED
        how = draw.choice([*TEMPORARY, *[chat.WELL] * 6])
        answers.extend([prompt] * (how == chat.WELL))
        return how

    with chat.ChatServer(behave) as there:
        by = at(there, workers=workers, retries=999)
        with pytest.raises(TranslationError) as caught:
            translate(texts, ["fr"], source="de", by=by, cache=path)
        sentence = rf"m at {there.url}/ does not answer 'Satz .*' \(401: it is refused\); "
        sentence += rf"11 answers are stored in {path}: repeat the call to get the rest"
        assert re.fullmatch(sentence, str(caught.value))
        assert there.delivered.total() == 11
        there.behave = lambda prompt, before: chat.BROKEN if before % 2 else chat.WELL
        found = translate(texts, ["fr"], source="de", by=by, cache=path)
        assert found["fr"] == [chat.right(prompt) for prompt in prompts(texts)]
        assert there.delivered == Counter(prompts(TEXTS))
        there.behave = lambda prompt, before: chat.REFUSED
        assert translate(texts, ["fr"], source="de", by=by, cache=path) == found


@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_has_kept_its_answers(tmp_path, sign):
    """Those on their way too, where it ends by itself."""
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pymultiling.methods.pmi import Server, translate
url, path, workers, *texts = sys.argv[1:]
translate(texts, ["fr"], source="de", by=Server("m", url, workers=int(workers)), cache=path)
"""
    path, workers = tmp_path / "answers.db", 1 if sign == signal.SIGKILL else 4
    with chat.ChatServer() as there:

        def behave(prompt, before):
            if there.asked.total() == 7:
                running.send_signal(sign)
            return chat.DROPPED if sign == signal.SIGKILL and there.asked.total() >= 7 else chat.WELL

        there.behave = behave
        arguments = [there.url, str(path), str(workers), *TEXTS]
        running = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
        told = running.communicate()[1].decode()
        assert running.returncode and told.strip().endswith("KeyboardInterrupt" if sign == signal.SIGINT else "")
        assert there.delivered.total() >= 6
        there.behave = lambda prompt, before: chat.WELL
        found = translate(TEXTS, ["fr"], source="de", by=at(there), cache=path)
    assert found["fr"] == [chat.right(prompt) for prompt in prompts(TEXTS)]
    assert there.delivered == Counter(prompts(TEXTS))


def test_answers_without_room_are_asked_for_with_more():
    with chat.ChatServer() as there:
        found = translate(TEXTS[2:3], ["fr"], source="de", by=at(there, max_tokens=1))
    assert found["fr"] == [chat.right(prompt) for prompt in prompts(TEXTS[2:3])]
    assert [body["max_tokens"] for body in there.bodies] == [1, 2, 4, 8]


@pytest.mark.parametrize("thinking", ["<think>\nhm, oui?\n</think>\n\n", "<think>\n\n</think>", "hm, oui?</think>"])
def test_what_a_model_thinks_is_no_answer(monkeypatch, thinking):
    """Also where the template has opened it already."""
    monkeypatch.setattr(chat, "right", lambda prompt: f"{thinking}Bon jour")
    with chat.ChatServer() as there:
        assert translate(["a"], ["fr"], source="de", by=at(there, max_tokens=1)) == {"fr": ["Bon jour"]}


def test_a_model_that_only_thinks(monkeypatch, tmp_path):
    monkeypatch.setattr(chat, "right", lambda prompt: "<think> hm hm")
    with chat.ChatServer() as there:
        with pytest.raises(
            TranslationError, match="the thinking of m at .* about 'a' does not end; 0 answers are stored"
        ):
            translate(["a"], ["fr"], source="de", by=at(there), cache=tmp_path / "c")
        with pytest.raises(TranslationError, match="the answer of m at .* to 'a' does not end within 8 tokens"):
            monkeypatch.setattr(chat, "right", lambda prompt: "<think>" + " hm" * 20)
            translate(["a"], ["fr"], source="de", by=at(there, max_tokens=1))


def test_marks_in_a_text_are_no_thinking(monkeypatch):
    monkeypatch.setattr(chat, "right", lambda prompt: "Put <think> here and </think> there")
    with chat.ChatServer() as there:
        found = translate(["a"], ["fr"], source="de", by=at(there))
    assert found == {"fr": ["Put <think> here and </think> there"]}


def test_texts_without_a_whole_answer(tmp_path):
    """They are told of after all others were answered; nothing is taken for whole that is not."""
    long = "Satz " + "sehr " * 20 + "lang"
    texts = [*TEXTS[:5], long, *TEXTS[5:9], long + "er"]
    with chat.ChatServer() as there:
        by = at(there, max_tokens=2)
        for _ in range(2):
            with pytest.raises(TranslationError) as caught:
                translate(texts, ["fr"], source="de", by=by, cache=tmp_path / "c")
            assert str(caught.value) == (
                f"the answer of m at {there.url}/ to {long[:60] + '...'!r} does not end within 16 tokens; "
                "1 more texts have no complete answer; "
                f"9 answers are stored in {tmp_path / 'c'}: repeat the call to get the rest"
            )
        assert there.delivered == Counter(prompts(TEXTS[:9]))


@pytest.mark.parametrize(
    "how, sentence",
    [
        (chat.EMPTY, "gives an empty answer to 'Satz 1, lang Ende'; 2 answers are lost: give cache="),
        (chat.FILTERED, r"withholds its answer to 'Satz 1, lang Ende' \(content_filter\); 2 answers"),
        (
            chat.NO_JSON,
            """does not return a chat completion for 'Satz 1, lang Ende', after 6 retries: '{"id": "1", "object""",
        ),
        (chat.BROKEN, r"does not answer 'Satz 1, lang Ende' \(500: it is broken\); "),
        (chat.LIMITED, r"does not answer 'Satz 1, lang Ende' \(429: it is limited\)"),
        (chat.DROPPED, r"does not answer 'Satz 1, lang Ende' \(RemoteProtocolError: Server disconnected"),
        (chat.CUT_OFF, r"does not answer 'Satz 1, lang Ende' \(RemoteProtocolError: peer closed"),
    ],
)
def test_failures_that_stay(how, sentence):
    with chat.ChatServer(lambda prompt, before: how if "Satz 1" in prompt else chat.WELL) as there:
        with pytest.raises(TranslationError, match=sentence):
            translate(TEXTS[:3], ["fr"], source="de", by=at(there, workers=1))
        tries = there.asked[prompts(TEXTS[:2])[1]]
    assert tries == (1 if how in (chat.EMPTY, chat.FILTERED) else 7)


def test_the_budget_is_one_for_all_kinds_of_failures():
    with chat.ChatServer(lambda prompt, before: (chat.BROKEN, chat.NO_JSON, chat.DROPPED)[before % 3]) as there:
        with pytest.raises(TranslationError):
            translate(TEXTS[:1], ["fr"], source="de", by=at(there, retries=7))
    assert there.asked.total() == 8


def test_servers_that_are_not_there():
    with chat.ChatServer() as there:
        url = there.url
        with pytest.raises(TranslationError, match=r"\(404: nothing is at /v2/chat/completions\)"):
            translate(TEXTS[:1], ["fr"], source="de", by=Server("m", url.replace("v1", "v2"), api_key="k"))
    with pytest.raises(TranslationError, match=r"m at .* does not answer 'Satz 0, Ende' \(ConnectError: .*refused"):
        translate(TEXTS[:1], ["fr"], source="de", by=Server("m", url, api_key="k", retries=1))


def test_what_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with chat.ChatServer() as there:
        translate(["a"], ["fr"], source="de", by=Server("m", there.url))
        translate(["a"], ["fr"], source="de", by=Server("m", there.url, api_key="mine", temperature=None, max_tokens=9))
        monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
        translate(["a"], ["fr"], source="de", by=Server("m", there.url, temperature=0.5))
    messages = Request("a", "de", "fr").messages()
    assert there.bodies == [
        {"model": "m", "messages": messages, "temperature": 0.0, "max_tokens": 1024},
        {"model": "m", "messages": messages, "max_tokens": 9},
        {"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 1024},
    ]
    assert there.keys == {"Bearer none", "Bearer mine", "Bearer of the environment"}


def test_models_that_call_the_room_otherwise():
    with chat.ChatServer() as there:
        there.behave = lambda prompt, before: chat.OLD_NAME if "max_tokens" in there.bodies[-1] else chat.WELL
        by = at(there, workers=1, max_tokens=4)
        found = translate(TEXTS[:2], ["fr"], source="de", by=by)
    assert found["fr"] == [chat.right(prompt) for prompt in prompts(TEXTS[:2])]
    names = ["max_tokens", "max_completion_tokens", "max_completion_tokens"]
    assert [next(name for name in body if name.startswith("max")) for body in there.bodies][:3] == names


def test_what_decides_an_answer(tmp_path):
    """Not the key, the room or how it is asked; but the model and the temperature."""
    with chat.ChatServer() as there:
        for options, asked in (
            ({}, 1),
            ({"max_tokens": 99, "workers": 2, "api_key": "other", "timeout": 3, "retries": 0}, 1),
            ({"temperature": 1.0}, 2),
        ):
            translate(["a"], ["fr"], source="de", by=at(there, **options), cache=tmp_path / "c")
            assert there.asked.total() == asked
        translate(["a"], ["fr"], source="de", by=Server("n", there.url, api_key="k"), cache=tmp_path / "c")
        assert there.asked.total() == 3


def test_what_a_server_needs(monkeypatch):
    for options in ({"retries": -1}, {"workers": 0}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match="retries must be 0 or more"):
            Server("m", "http://127.0.0.1:1/v1", **options)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="pass api_key= or set OPENAI_API_KEY"):
        Server("m")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BackendUnavailable, match=re.escape("pip install 'pymultiling[pmi]'")):
        Server("m", "http://127.0.0.1:1/v1")
