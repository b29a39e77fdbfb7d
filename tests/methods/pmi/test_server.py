"""Answers over HTTP from a local server with many kinds of failures."""

import random
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from pymultiling import BackendUnavailable, TranslationError
from pymultiling.methods.pmi import Server, translate
from pymultiling.methods.pmi import server as server_module
from pymultiling.methods.pmi.translation_requests import Request
from tests.support import chat_server as chat

openai = pytest.importorskip("openai")

TEXTS = [f"Satz {number}, {'lang ' * (number % 4)}Ende" for number in range(30)]
TEMPORARY = [chat.DROPPED, chat.CUT_OFF, chat.LIMITED, chat.BROKEN, chat.NO_JSON, chat.NO_CHOICES]


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    """Shortens the delays before retries, of the client and of Server."""
    for module, first, maximum in (
        (openai._base_client, "INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"),
        (server_module, "FIRST_DELAY", "MAX_DELAY"),
    ):
        monkeypatch.setattr(module, first, 0.001)
        monkeypatch.setattr(module, maximum, 0.004)


def prompts(texts, target="fr"):
    return [Request(text, "de", target).messages()[0]["content"] for text in texts]


def client(server, **options):
    return Server("m", server.url, **{"api_key": "k", "retries": 6, **options})


@pytest.mark.parametrize("outcome", TEMPORARY)
def test_a_failure_that_passes_is_retried(outcome):
    """Every request fails as often as `retries` allows, and requests are sent at the same time."""
    with chat.ChatServer(lambda prompt, before: outcome if before < 2 else chat.ANSWERED) as server:
        inputs = translate(TEXTS, ["fr"], source="de", by=client(server, retries=2))
    expected_prompts = prompts(TEXTS)
    assert inputs == {"fr": [chat.expected_answer(prompt) for prompt in expected_prompts]}
    assert server.asked == Counter(dict.fromkeys(expected_prompts, 3))
    assert server.delivered == Counter(expected_prompts)


@pytest.mark.parametrize("seed", range(3))
def test_failures_of_any_kind_and_order_are_retried(seed):
    """Answers are also longer than their token limit."""
    generator = random.Random(seed)
    with chat.ChatServer(lambda prompt, before: generator.choice([*TEMPORARY, chat.ANSWERED, chat.ANSWERED])) as server:
        texts = TEXTS + TEXTS[:5]
        inputs = translate(texts, ["fr", "es"], source="de", by=client(server, retries=999, workers=5, max_tokens=4))
    for code in ("fr", "es"):
        assert inputs[code] == [chat.expected_answer(prompt) for prompt in prompts(texts, code)]
    assert server.delivered == Counter(prompts(TEXTS) + prompts(TEXTS, "es"))


def test_back_translations_and_paraphrases_are_made_of_the_earlier_answers():
    with chat.ChatServer() as server:
        by = client(server)
        back_translations = translate(TEXTS, ["fr"], source="de", by=by, how="back-translation")["de~fr"]
        paraphrases = translate(TEXTS, 3, source="de", by=by, how="paraphrase")
    intermediate = [chat.expected_answer(prompt) for prompt in prompts(TEXTS)]
    back = [Request(text, "fr", "de").messages()[0]["content"] for text in intermediate]
    assert back_translations == [chat.expected_answer(prompt) for prompt in back]
    for place, text in enumerate(TEXTS):
        earlier = ()
        for number in (1, 2, 3):
            expected = chat.expected_answer(Request(text, "de", earlier=earlier).messages()[0]["content"])
            assert paraphrases[f"de~{number}"][place] == expected
            earlier += (expected,)
    assert set(server.delivered.values()) == {1}


@pytest.mark.parametrize("workers", [1, 6])
def test_a_repeated_run_requests_only_missing_answers(tmp_path, workers):
    """Some texts are equal, and failures of all kinds occur."""
    texts, path, generator = TEXTS + TEXTS[3:9], tmp_path / "answers.db", random.Random(workers)
    answers = []

    def behave(prompt, before):
        if len(answers) >= 11:
            return chat.REFUSED
        outcome = generator.choice([*TEMPORARY, *[chat.ANSWERED] * 6])
        answers.extend([prompt] * (outcome == chat.ANSWERED))
        return outcome

    with chat.ChatServer(behave) as server:
        by = client(server, workers=workers, retries=999)
        with pytest.raises(TranslationError) as caught:
            translate(texts, ["fr"], source="de", by=by, cache=path)
        message = rf"m at {server.url}/ does not answer 'Satz .*' \(401: it is refused\); "
        message += "check the URL, the key, the model's name and the server's limits; "
        message += rf"11 answers are stored in {path}: repeat the call to get the rest"
        assert re.fullmatch(message, str(caught.value))
        assert server.delivered.total() == 11
        server.behave = lambda prompt, before: chat.BROKEN if before % 2 else chat.ANSWERED
        inputs = translate(texts, ["fr"], source="de", by=by, cache=path)
        assert inputs["fr"] == [chat.expected_answer(prompt) for prompt in prompts(texts)]
        assert server.delivered == Counter(prompts(TEXTS))
        server.behave = lambda prompt, before: chat.REFUSED
        assert translate(texts, ["fr"], source="de", by=by, cache=path) == inputs


@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_run_has_stored_its_answers(tmp_path, sign):
    """After SIGINT, the answers to requests that were already sent are stored too."""
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pymultiling.methods.pmi import Server, translate
url, path, workers, *texts = sys.argv[1:]
translate(texts, ["fr"], source="de", by=Server("m", url, workers=int(workers)), cache=path)
"""
    path, workers = tmp_path / "answers.db", 1 if sign == signal.SIGKILL else 4
    with chat.ChatServer() as server:

        def behave(prompt, before):
            if server.asked.total() == 7:
                running.send_signal(sign)
            return chat.DROPPED if sign == signal.SIGKILL and server.asked.total() >= 7 else chat.ANSWERED

        server.behave = behave
        arguments = [server.url, str(path), str(workers), *TEXTS]
        running = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
        printed = running.communicate()[1].decode()
        assert running.returncode and printed.strip().endswith("KeyboardInterrupt" if sign == signal.SIGINT else "")
        assert server.delivered.total() >= 6
        server.behave = lambda prompt, before: chat.ANSWERED
        inputs = translate(TEXTS, ["fr"], source="de", by=client(server), cache=path)
    assert inputs["fr"] == [chat.expected_answer(prompt) for prompt in prompts(TEXTS)]
    assert server.delivered == Counter(prompts(TEXTS))


def test_cut_answers_are_requested_with_a_larger_limit():
    with chat.ChatServer() as server:
        inputs = translate(TEXTS[2:3], ["fr"], source="de", by=client(server, max_tokens=1))
    assert inputs["fr"] == [chat.expected_answer(prompt) for prompt in prompts(TEXTS[2:3])]
    assert [body["max_tokens"] for body in server.bodies] == [1, 2, 4, 8]


@pytest.mark.parametrize("thinking", ["<think>\nhm, oui?\n</think>\n\n", "<think>\n\n</think>", "hm, oui?</think>"])
def test_thinking_is_removed_from_answers(monkeypatch, thinking):
    """In the last case the prompt's template has already written <think>, so that the answer has only </think>."""
    monkeypatch.setattr(chat, "expected_answer", lambda prompt: f"{thinking}Bon jour")
    with chat.ChatServer() as server:
        assert translate(["a"], ["fr"], source="de", by=client(server, max_tokens=1)) == {"fr": ["Bon jour"]}


def test_an_answer_with_thinking_only_is_not_accepted(monkeypatch, tmp_path):
    monkeypatch.setattr(chat, "expected_answer", lambda prompt: "<think> hm hm")
    with chat.ChatServer() as server:
        with pytest.raises(
            TranslationError, match=r"the thinking of m at .* about 'a' does not end: switch .*; 0 answers are stored"
        ):
            translate(["a"], ["fr"], source="de", by=client(server), cache=tmp_path / "c")
        monkeypatch.setattr(chat, "expected_answer", lambda prompt: "<think>" + " hm" * 20)
        with pytest.raises(
            TranslationError, match=r"the answer of m at .* to 'a' does not end within 8 tokens: raise max_tokens"
        ):
            translate(["a"], ["fr"], source="de", by=client(server, max_tokens=1))


def test_thinking_marks_inside_a_text_stay(monkeypatch):
    monkeypatch.setattr(chat, "expected_answer", lambda prompt: "Put <think> here and </think> there")
    with chat.ChatServer() as server:
        inputs = translate(["a"], ["fr"], source="de", by=client(server))
    assert inputs == {"fr": ["Put <think> here and </think> there"]}


def test_texts_without_a_complete_answer_are_reported_after_all_others(tmp_path):
    """A cut answer is not stored."""
    long = "Satz " + "sehr " * 20 + "lang"
    texts = [*TEXTS[:5], long, *TEXTS[5:9], long + "er"]
    with chat.ChatServer() as server:
        by = client(server, max_tokens=2)
        for _ in range(2):
            with pytest.raises(TranslationError) as caught:
                translate(texts, ["fr"], source="de", by=by, cache=tmp_path / "c")
            assert str(caught.value) == (
                f"the answer of m at {server.url}/ to {long[:60] + '...'!r} does not end within 16 tokens: raise "
                "max_tokens; 1 more texts have no complete answer; "
                f"9 answers are stored in {tmp_path / 'c'}: repeat the call to get the rest"
            )
        assert server.delivered == Counter(prompts(TEXTS[:9]))


@pytest.mark.parametrize(
    "outcome, message",
    [
        (chat.EMPTY, "gives an empty answer to 'Satz 1, lang Ende': leave .*; 2 answers are lost: give cache="),
        (chat.FILTERED, r"withholds its answer to 'Satz 1, lang Ende' \(content_filter\): leave .*; 2 answers"),
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
def test_failures_that_stay_are_reported(outcome, message):
    with chat.ChatServer(lambda prompt, before: outcome if "Satz 1" in prompt else chat.ANSWERED) as server:
        with pytest.raises(TranslationError, match=message):
            translate(TEXTS[:3], ["fr"], source="de", by=client(server, workers=1))
        tries = server.asked[prompts(TEXTS[:2])[1]]
    assert tries == (1 if outcome in (chat.EMPTY, chat.FILTERED) else 7)


def test_retries_limit_the_total_of_all_kinds_of_failures():
    failures = (chat.BROKEN, chat.NO_JSON, chat.DROPPED)
    with chat.ChatServer(lambda prompt, before: failures[before % 3]) as server, pytest.raises(TranslationError):
        translate(TEXTS[:1], ["fr"], source="de", by=client(server, retries=7))
    assert server.asked.total() == 8


def test_unreachable_servers_are_reported():
    with chat.ChatServer() as server:
        url = server.url
        with pytest.raises(TranslationError, match=r"\(404: nothing is at /v2/chat/completions\)"):
            translate(TEXTS[:1], ["fr"], source="de", by=Server("m", url.replace("v1", "v2"), api_key="k"))
    with pytest.raises(TranslationError, match=r"m at .* does not answer 'Satz 0, Ende' \(ConnectError: .*refused"):
        translate(TEXTS[:1], ["fr"], source="de", by=Server("m", url, api_key="k", retries=1))


def test_an_error_of_the_network_without_text_is_named_by_its_type():
    error = openai.APIConnectionError(request=None)
    error.__cause__ = TimeoutError()
    assert server_module._error_reason(error) == "TimeoutError"


def test_the_sent_bodies_and_keys_are_those_of_the_arguments(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with chat.ChatServer() as server:
        translate(["a"], ["fr"], source="de", by=Server("m", server.url))
        translate(
            ["a"], ["fr"], source="de", by=Server("m", server.url, api_key="mine", temperature=None, max_tokens=9)
        )
        monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
        translate(["a"], ["fr"], source="de", by=Server("m", server.url, temperature=0.5))
    messages = Request("a", "de", "fr").messages()
    assert server.bodies == [
        {"model": "m", "messages": messages, "temperature": 0.0, "max_tokens": 1024},
        {"model": "m", "messages": messages, "max_tokens": 9},
        {"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 1024},
    ]
    assert server.keys == {"Bearer none", "Bearer mine", "Bearer of the environment"}


def test_a_model_that_refuses_max_tokens_gets_max_completion_tokens():
    with chat.ChatServer() as server:
        server.behave = lambda prompt, before: chat.OLD_NAME if "max_tokens" in server.bodies[-1] else chat.ANSWERED
        by = client(server, workers=1, max_tokens=4)
        inputs = translate(TEXTS[:2], ["fr"], source="de", by=by)
    assert inputs["fr"] == [chat.expected_answer(prompt) for prompt in prompts(TEXTS[:2])]
    names = ["max_tokens", "max_completion_tokens", "max_completion_tokens"]
    assert [next(name for name in body if name.startswith("max")) for body in server.bodies][:3] == names


def test_the_model_and_the_temperature_determine_an_answer(tmp_path):
    """With another key, token limit, timeout or number of workers, the cached answer is used."""
    with chat.ChatServer() as server:
        for options, requests in (
            ({}, 1),
            ({"max_tokens": 99, "workers": 2, "api_key": "other", "timeout": 3, "retries": 0}, 1),
            ({"temperature": 1.0}, 2),
        ):
            translate(["a"], ["fr"], source="de", by=client(server, **options), cache=tmp_path / "c")
            assert server.asked.total() == requests
        translate(["a"], ["fr"], source="de", by=Server("n", server.url, api_key="k"), cache=tmp_path / "c")
        assert server.asked.total() == 3


def test_numbers_out_of_range_and_a_missing_key_or_package_are_refused(monkeypatch):
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
