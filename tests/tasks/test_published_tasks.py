"""Tasks read from files in the fields of the published data sets."""

import gzip
import json

import pytest

from pymultiling import CorpusError, tasks
from pymultiling.tasks import Item


def write(path, *rows):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def test_mgsm(tmp_path):
    exemplars = write(
        tmp_path / "e.jsonl",
        {"lang": "en", "question": "Question: 1 + 1?", "answer": "Step-by-Step Answer: It is 2."},
        {"lang": "en", "question": "Question: 2 + 1?", "answer": "Step-by-Step Answer: It is 3."},
        {"lang": "zh", "question": "问题：一加一？", "answer": "逐步解答：是 2。"},
    )
    source = write(tmp_path / "m.jsonl.gz", {"lang": "en", "question": "3 + 4?", "answer": "7"})
    task = tasks.mgsm(source, exemplars, shots=2)
    shown = "Question: 1 + 1?\nStep-by-Step Answer: It is 2.\n\nQuestion: 2 + 1?\nStep-by-Step Answer: It is 3.\n\n"
    assert task.items == {"en": [Item(f"{shown}Question: 3 + 4?\nStep-by-Step Answer:", " 7", references=("7",))]}
    source = write(tmp_path / "m.jsonl", {"lang": "zh", "question": "三加四？", "answer": "7"})
    (item,) = tasks.mgsm(source, exemplars, shots=0).items["zh"]
    assert item == Item("问题：三加四？\n逐步解答：", "7", references=("7",))
    with pytest.raises(CorpusError, match="1 exemplars in 'zh' are too few, 2 are needed"):
        tasks.mgsm(source, exemplars, shots=2)


def test_xquad(tmp_path):
    contexts = write(tmp_path / "c.jsonl", {"lang": "de", "context_id": 3, "context": "Es waren 308 Punkte."})
    answers = [{"text": "308", "answer_start": 9}, {"text": "308 Punkte", "answer_start": 9}]
    row = {"lang": "de", "context_id": 3, "question": "Wie viele?", "answers": answers}
    task = tasks.xquad(write(tmp_path / "q.jsonl", row), contexts)
    expected = Item("Es waren 308 Punkte.\n\nQ: Wie viele?\nA:", " 308", references=("308", "308 Punkte"))
    assert task.items == {"de": [expected]} and task.metric == "f1"
    listed = {"text": ["308", "308 Punkte"], "answer_start": [9, 9]}
    assert tasks.xquad(write(tmp_path / "q.jsonl", {**row, "answers": listed}), contexts).items == task.items
    for bad in (["308"], "308", None, [{"text": 3}]):
        with pytest.raises(CorpusError, match="line 1 needs answers with texts"):
            tasks.xquad(write(tmp_path / "q.jsonl", {**row, "answers": bad}), contexts)
    with pytest.raises(CorpusError, match="line 1 needs answers with texts"):
        tasks.xquad(write(tmp_path / "q.jsonl", {**row, "context_id": 4}), contexts)


def test_xcopa(tmp_path):
    row = {
        "lang": "it",
        "split": "test",
        "question": "cause",
        "premise": "L'oggetto era incartato.",
        "choice1": "Era delicato.",
        "choice2": "Era piccolo.",
        "label": 1,
    }
    chinese = {
        **row,
        "lang": "zh",
        "question": "effect",
        "premise": "包着。",
        "choice1": "它易碎。",
        "choice2": "它小。",
    }
    path = write(tmp_path / "x.jsonl", row, {**row, "split": "val"}, chinese)
    task = tasks.xcopa(path)
    choices = (" era delicato.", " era piccolo.")
    assert task.items["it"] == [Item("L'oggetto era incartato perché", choices[1], choices)]
    assert task.items["zh"] == [Item("包着所以", "它小。", ("它易碎。", "它小。"))]
    assert len(tasks.xcopa(path, split=None).items["it"]) == 2
    turkish = {**row, "lang": "tr", "choice1": "İnsanlar gitti.", "choice2": "Işık söndü."}
    (item,) = tasks.xcopa(write(tmp_path / "t.jsonl", turkish)).items["tr"]
    assert item.choices == (" insanlar gitti.", " ışık söndü.")
    with pytest.raises(CorpusError, match="has no record of split 'validation'"):
        tasks.xcopa(path, split="validation")
    for bad in ({"label": 2}, {"question": "why"}, {"lang": "xx"}, {"premise": None}):
        with pytest.raises(CorpusError, match="line 1 needs"):
            tasks.xcopa(write(tmp_path / "x.jsonl", {**row, **bad}))


def test_xcsqa_and_xlsum(tmp_path):
    question = {"stem": "Where is it?", "choices": [{"label": "A", "text": "here"}, {"label": "B", "text": "there"}]}
    path = write(tmp_path / "x.jsonl", {"id": "1", "question": question, "answerKey": "B"})
    assert tasks.xcsqa({"en": path}).items == {"en": [Item("Q: Where is it?\nA:", " there", (" here", " there"))]}
    with pytest.raises(CorpusError, match="answerKey is none of the labels A, B"):
        tasks.xcsqa({"en": write(path, {"question": question, "answerKey": "C"})})
    task = tasks.xlsum({"fr": write(path, {"text": "Il neige.", "summary": "Neige"})})
    assert task.items == {"fr": [Item("Il neige.\n\nTL;DR:", " Neige", references=("Neige",))]}


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(CorpusError, match="no such file"):
        tasks.xlsum({"fr": tmp_path / "none.jsonl"})
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(CorpusError, match="line 1 is not JSON"):
        tasks.xcopa(tmp_path / "bad.jsonl")
    (tmp_path / "list.jsonl").write_text("[3]\n")
    for read in (tasks.xcopa, tasks.xlsum, tasks.xcsqa):
        with pytest.raises(CorpusError, match="line 1 must be a JSON object"):
            read({"it": tmp_path / "list.jsonl"})
    with pytest.raises(CorpusError, match="line 1 needs a string 'lang'"):
        tasks.xcopa(write(tmp_path / "x.jsonl", {"premise": "x"}))


def test_parts_of_a_task():
    task = tasks.Task("t", {"fr": [Item("a", "b"), Item("c", "d")], "de": [Item("e", "f")]}, "likelihood")
    assert task.only(["de"]).items == {"de": task.items["de"]}
    assert task.only(limit=1).items == {"fr": task.items["fr"][:1], "de": task.items["de"]}
    assert task.judged_by("f1").metric == "f1" and task.judged_by("f1").items == task.items
    with pytest.raises(CorpusError, match="no items in 'en', only in fr, de"):
        task.only(["en"])
