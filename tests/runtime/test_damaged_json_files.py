"""Every field of every JSON file that is read is damaged in turn: none of these files is used."""

import copy
import json
import os
import warnings
from collections.abc import Iterator

import pytest
import torch

import pymultiling as pml
from pymultiling import tasks
from pymultiling.data.chunks import ChunkStart
from pymultiling.data.corpora import CorpusReport
from pymultiling.methods.pmi.templates import load_template
from pymultiling.passes import checkpoints as checkpoints_module
from pymultiling.passes.checkpoints import CheckpointInterval, PassState, open_checkpoints
from pymultiling.results.record_schema import read_run_record
from pymultiling.results.run import Run
from pymultiling.runtime.processes import Processes

WRONG_VALUES = (None, True, 7, -1, 1.5, 2**70, float("nan"), float("inf"), "", "x", "\x1b[31mred", [], {}, [[]], [None])
# What no JSON reader accepts, and files of other formats.
WRONG_TEXTS = [b"", b" ", b"{", b"null", b"7", b"[]", b'"a"', b"[" * 100_000, b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}']
WRONG_TEXTS += [b"PK\x03\x04", b"\x80\x04\x95", b"command,detect\n", b"a: b\n", b"\0" * 99]


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yields the path of every field and of every item of a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(body: dict) -> Iterator[tuple[str, dict]]:
    """Yields copies of a JSON object in which a field is removed or has a value of another type."""
    for path in places(body):
        for wrong in ("removed", *WRONG_VALUES):
            changed = copy.deepcopy(body)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            value = parent[path[-1]]
            if wrong == "removed":
                del parent[path[-1]]
            elif type(wrong) is type(value):
                continue  # a text for a text, a number for a number: see the tests of each format
            else:
                parent[path[-1]] = wrong
            yield f"{'.'.join(map(str, path))}: {wrong!r}", changed


def make_state() -> PassState:
    start = ChunkStart(2, 10, 3, "digest", {0: ("one", "hash")})
    report = CorpusReport(texts=4, cut=1)
    counts = pml.ActivationStatistics(torch.ones(2, 3, dtype=torch.int64), 9)
    return PassState(counts, start, "end", 5, 7, report, report, False, 64)


# Earlier versions did not write all of these. A list without an item is a list.
VALID = ("batch_tokens: 'removed'", "batch_tokens: None", "place.finished.0: 'removed'", "place.tokens: 'removed'")
VALID += tuple(f"{part}.{name}: 'removed'" for part in ("before", "report") for name in vars(CorpusReport()))


@pytest.mark.parametrize("has_checksum", [True, False])
def test_no_damaged_manifest_is_restored(tmp_path, has_checksum):
    """With the right checksum only the schema can refuse a manifest."""
    interval = CheckpointInterval(60.0)
    with open_checkpoints(tmp_path, Processes(), {"model": "abc"}, interval) as checkpoints:
        checkpoints.write(0, make_state())
        file = tmp_path / "process-0-of-1" / "0-0.json"
        assert checkpoints.restore(0, pml.ActivationStatistics.load).documents == 7
        body = json.loads(file.read_text())
        del body["checksum"]
        cases = [(what, changed) for what, changed in damaged(body) if not what.startswith("run.")]
        if has_checksum:
            cases = [(what, changed) for what, changed in cases if not what.startswith(VALID)]
        cases += [(f"{name} -1", {**body, name: -1}) for name in ("batches", "documents", "batch_tokens")]
        cases += [(f"{name} 2**63", {**body, name: 2**63}) for name in ("batches", "documents")]
        for what, changed in cases:
            checksum = checkpoints_module._checksum(changed) if has_checksum else "ab" * 32
            file.write_text(json.dumps({"checksum": checksum, **changed}))
            refuse(checkpoints, what)
        assert len(cases) > 150
        for text in WRONG_TEXTS:
            file.write_bytes(text)
            refuse(checkpoints, repr(text[:20]))


def refuse(checkpoints, what: str) -> None:
    """Restores, and checks that there is a warning of damage and no state, or the error for another run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            state = checkpoints.restore(0, pml.ActivationStatistics.load)
        except pml.CheckpointError:
            assert what.startswith("run"), what
            return
    assert state is None and ["is damaged" in str(warning.message) for warning in caught] == [True], what


def test_a_manifest_of_an_earlier_version_is_restored(tmp_path):
    with open_checkpoints(tmp_path, Processes(), {"model": "abc"}, CheckpointInterval(60.0)) as checkpoints:
        checkpoints.write(0, make_state())
        file = tmp_path / "process-0-of-1" / "0-0.json"
        body = json.loads(file.read_text())
        for part, name in (("batch_tokens", None), ("report", "left_over"), ("checksum", None)):
            if name is None:
                del body[part]
            else:
                del body[part][name]
        file.write_text(json.dumps({"checksum": checkpoints_module._checksum(body), **body}))
        state = checkpoints.restore(0, pml.ActivationStatistics.load)
    assert (
        state.batch_tokens is None
        and state.report == CorpusReport(texts=4, cut=1)
        and state.start == make_state().start
    )


def make_record() -> dict:
    description = {"title": "t", "about": "a", "papers": {"2402.18815": "neurons"}}
    run = Run("detect", {"model": "m", "top": 0.1}, {"card": description, "command_line": {"model": ["--model", "m"]}})
    run.note(
        published_whole={"arguments": ["model"], "facts": []},
        model={"name": "m", "revision": None, "type": "llama", "dtype": "float32"},
        corpora={"fr": {"file": "fr.txt", "sha256": "ab"}, "de": {"file": "*.txt", "files": {"a.txt": "ab"}}},
        device="cpu",
        rule="top-k",
        seed=3,
    )
    return {**run.record, "seconds": {"total": 1.5}, "files": ["a.csv", "neurons/fr.safetensors"]}


# Fields that must be there. All others may be absent or null, as in the records of earlier versions.
REQUIRED = {"files", "card.title", "card.about", "card.papers", "model.name", "model.type", "model.dtype"}
REQUIRED |= {"published_whole.arguments", "published_whole.facts"}
FREE = ("arguments", "seconds")  # may hold anything


def test_no_damaged_record_of_a_run_is_read(tmp_path):
    file, record = tmp_path / "run.json", make_record()
    file.write_text(json.dumps(record))
    assert read_run_record(file) == record
    count = 0
    for what, changed in damaged(record):
        place, _, wrong = what.partition(": ")
        if place.split(".")[0] in FREE and not (place == "arguments" and wrong not in ("'removed'", "None", "{}")):
            continue
        if wrong == "'removed'" and place not in REQUIRED:
            continue
        if wrong == "None" and (place == "model.revision" or not ("." in place or place == "files")):
            continue
        # Hashes are a text, or texts by file; also of no files.
        if place in ("model.revision", "corpora.de.files") and wrong.startswith("'"):
            continue
        if wrong == "{}" and place.count(".") == 2 and place.startswith("corpora."):
            continue
        file.write_text(json.dumps(changed))
        require_refusal(file, what)
        count += 1
    assert count > 200
    for name in ("../a.csv", "/a.csv", "a/../../b.csv", "C:\\a.csv", "", ".", "a//b", "\x1b[31mred.csv", "a\nb"):
        file.write_text(json.dumps({**record, "files": [name]}))
        require_refusal(file, name)
    for text in WRONG_TEXTS:
        file.write_bytes(text)
        require_refusal(file, repr(text[:20]))


def require_refusal(file, what: str) -> None:
    with pytest.raises(pml.CheckpointError) as refused:  # noqa: PT012 - the message says which damage
        read_run_record(file)
        pytest.fail(f"it is read: {what}")
    message = str(refused.value)
    assert str(file) in message and message.isprintable() and len(message) < 500 + len(str(file)), what


def test_records_of_earlier_versions_are_read(tmp_path):
    file = tmp_path / "run.json"
    for record in ({"files": []}, {"files": ["a.csv"], "versions": {"pymultiling": "0.1"}, "model": None, "more": 3}):
        file.write_text(json.dumps(record))
        assert read_run_record(file) == record


QUESTION = {"stem": "s", "choices": [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}]}
PREMISE = {"premise": "p", "question": "cause", "choice1": "a", "choice2": "b", "label": 1}
MATH, PAIR = {"id": 1, "question": "q", "answer": "7"}, {"id": 1, "premise": "p", "hypothesis": "h", "label": "neutral"}


# {task: (its reader, a record, fields that may have other values)}
def read_msvamp(path):
    """Reads a file of questions, with worked examples that are right."""
    exemplars = path.with_name("exemplars.jsonl")
    exemplars.write_text(json.dumps({"question": "q: x", "answer": "a: 7"}))
    return tasks.msvamp({"en": path}, {"en": exemplars}, shots=1)


TASKS = {
    "mgsm": (lambda path: tasks.mgsm({"en": path}, {"en": path}, shots=1), {"question": "q: x", "answer": "a: 7"}, ()),
    "xquad": (
        lambda path: tasks.xquad({"en": path}, {"en": path}),
        {"context_id": "3", "context": "c", "question": "q", "answers": [{"text": "a"}]},
        ("context_id: 7", "context_id: -1", f"context_id: {2**70}"),
    ),
    "xcopa": (lambda path: tasks.xcopa({"en": path}), PREMISE, ()),
    "xcsqa": (
        lambda path: tasks.xcsqa({"en": path}),
        {"question": QUESTION, "answerKey": "A"},
        ("question.choices.1: 'removed'",),
    ),
    "xlsum": (lambda path: tasks.xlsum({"en": path}), {"text": "t", "summary": "s"}, ()),
    "msvamp": (read_msvamp, {"m_query": "q", "response": "7"}, ()),
    "msvamp as mgsm": (read_msvamp, {"question": "q", "answer": "7"}, ()),
    "xnli": (
        lambda path: tasks.xnli({"en": path}),
        {"sentence1": "p", "sentence2": "h", "gold_label": "neutral"},
        (),
    ),
    "xnli of the Hub": (lambda path: tasks.xnli({"en": path}), {"premise": "p", "hypothesis": "h", "label": 1}, ()),
    "boolq": (lambda path: tasks.boolq({"en": path}), {"question": "q", "passage": "p", "answer": True}, ()),
    "math": (
        lambda path: pml.pmi.math({"en": path}),
        MATH,
        ("id: ''", "id: 'x'", "id: '\\x1b[31mred'", *(f"answer: {value}" for value in (7, -1, 1.5, 2**70))),
    ),
    "nli": (lambda path: pml.pmi.nli({"en": path}), PAIR, ("id: ''", "id: 'x'", "id: '\\x1b[31mred'")),
}


@pytest.mark.parametrize("name", TASKS)
def test_no_damaged_task_file_is_read(tmp_path, name):
    read, record, valid = TASKS[name]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(record) + "\n\n")
    assert read(file)
    for what, changed in damaged(record):
        if what in valid:
            continue
        file.write_text(json.dumps(record) + "\n" + json.dumps(changed) + "\n")
        with pytest.raises(pml.CorpusError) as refused:  # noqa: PT012 - the message says which damage
            read(file)
            pytest.fail(f"it is read: {what}")
        assert "a.jsonl, line 2" in str(refused.value) and str(refused.value).isprintable(), what
    whole = json.dumps(record, ensure_ascii=False).encode()
    texts = [text for text in WRONG_TEXTS if text.strip()]
    for text in (
        *texts,
        whole[:-1],
        whole.replace(b'"', b"\xff", 1),
        os.urandom(64) + b"\xff",
        whole.decode().encode("utf-16"),
    ):
        file.write_bytes(text)
        with pytest.raises(pml.CorpusError, match=r"a\.jsonl"):
            read(file)
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    with pytest.raises(pml.CorpusError, match=r"a\.jsonl\.gz cannot be read"):
        read(tmp_path / "a.jsonl.gz")


def test_lone_surrogates_of_task_files_are_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b", "summary": "\\udc80"}\n')
    (item,) = tasks.xlsum({"en": tmp_path / "a.jsonl"}).items["en"]
    assert item.prompt.startswith("a\ufffdb") and item.answer == " \ufffd"


def test_no_damaged_template_is_loaded(tmp_path):
    file = tmp_path / "a.json"
    form = {"opening": "o", "input": "{text}", "closing": "c:", "answer": " {answer}"}
    template = {"fields": ["text"], "direct": form, "pmi": form}
    file.write_text(json.dumps(template))
    assert load_template(file).fields == ("text",)
    cases = [(what, json.dumps(changed).encode()) for what, changed in damaged(template)]
    cases += [(f"field {name!r}", json.dumps({**template, "fields": ["text", name]}).encode()) for name in ("a.b", "")]
    for what, text in (*cases, *((repr(text[:20]), text) for text in WRONG_TEXTS)):
        file.write_bytes(text)
        with pytest.raises(pml.CorpusError) as refused:  # noqa: PT012 - the message says which damage
            load_template(file)
            pytest.fail(f"it is loaded: {what}")
        assert str(file) in str(refused.value) and str(refused.value).isprintable(), what
