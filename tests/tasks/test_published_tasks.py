"""Tasks from files with the fields of the published data sets."""

import gzip
import json

import pytest

from pymultiling import CorpusError, tasks
from pymultiling.tasks import Item
from pymultiling.tasks.xnli import LABELS, WORDS


def write_records(path, *records):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


def test_mgsm_shows_exemplars_before_the_question(tmp_path):
    exemplars = write_records(
        tmp_path / "e.jsonl",
        {"lang": "en", "question": "Question: 1 + 1?", "answer": "Step-by-Step Answer: It is 2."},
        {"lang": "en", "question": "Question: 2 + 1?", "answer": "Step-by-Step Answer: It is 3."},
        {"lang": "zh", "question": "问题：一加一？", "answer": "逐步解答：是 2。"},
    )
    source = write_records(tmp_path / "m.jsonl.gz", {"lang": "en", "question": "3 + 4?", "answer": "7"})
    task = tasks.mgsm(source, exemplars, shots=2)
    shown = "Question: 1 + 1?\nStep-by-Step Answer: It is 2.\n\nQuestion: 2 + 1?\nStep-by-Step Answer: It is 3.\n\n"
    assert task.items == {"en": [Item(f"{shown}Question: 3 + 4?\nStep-by-Step Answer:", " 7", references=("7",))]}
    source = write_records(tmp_path / "m.jsonl", {"lang": "zh", "question": "三加四？", "answer": "7"})
    (item,) = tasks.mgsm(source, exemplars, shots=0).items["zh"]
    assert item == Item("问题：三加四？\n逐步解答：", "7", references=("7",))
    with pytest.raises(CorpusError, match="1 exemplars in 'zh' are too few, 2 are needed"):
        tasks.mgsm(source, exemplars, shots=2)
    source = write_records(tmp_path / "m.jsonl", {"lang": "fr", "question": "3 + 4 ?", "answer": "7"})
    with pytest.raises(CorpusError, match="0 exemplars in 'fr' are too few, 1 are needed: give at least one"):
        tasks.mgsm(source, exemplars, shots=0)


@pytest.mark.parametrize("response, answer", [("7.0", "7"), ("2.5", "2.5")])
def test_msvamp_is_asked_as_mgsm(tmp_path, response, answer):
    """In the layout of the published files, of which each is of one language, and in the layout of MGSM."""
    exemplars = {
        "de": write_records(tmp_path / "e.jsonl", {"question": "Frage: 1 + 1?", "answer": "Antwort: Es ist 2."})
    }
    record = {"query": "3 + 4 ?", "equation": "+ number0 number1", "response": response, "m_query": " Was ist 3 + 4?"}
    source = {"de": write_records(tmp_path / "test_German.json", record)}
    expected = "Frage: 1 + 1?\nAntwort: Es ist 2.\n\nFrage: Was ist 3 + 4?\nAntwort:"
    task = tasks.msvamp(source, exemplars, shots=1)
    assert task.items == {"de": [Item(expected, f" {answer}", references=(answer,))]} and task.metric == "number"
    as_mgsm = {"lang": "de", "question": "Was ist 3 + 4?", "answer": response}
    assert tasks.msvamp(write_records(tmp_path / "msvamp.jsonl", as_mgsm), exemplars, shots=1) == task
    with pytest.raises(CorpusError, match=r"test_German\.json, line 1 needs the fields of MSVAMP: it lacks 'm_query'"):
        tasks.msvamp({"de": write_records(tmp_path / "test_German.json", {"query": "3 + 4 ?"})}, exemplars, shots=1)
    with pytest.raises(CorpusError, match="1 exemplars in 'de' are too few, 8 are needed"):
        tasks.msvamp({"de": write_records(tmp_path / "test_German.json", record)}, exemplars)


def test_xquad_joins_questions_and_contexts(tmp_path):
    contexts = write_records(tmp_path / "c.jsonl", {"lang": "de", "context_id": 3, "context": "Es waren 308 Punkte."})
    answers = [{"text": "308", "answer_start": 9}, {"text": "308 Punkte", "answer_start": 9}]
    record = {"lang": "de", "context_id": 3, "question": "Wie viele?", "answers": answers}
    task = tasks.xquad(write_records(tmp_path / "q.jsonl", record), contexts)
    expected = Item("Es waren 308 Punkte.\n\nQ: Wie viele?\nA:", " 308", references=("308", "308 Punkte"))
    assert task.items == {"de": [expected]} and task.metric == "f1"
    listed = {"text": ["308", "308 Punkte"], "answer_start": [9, 9]}
    assert tasks.xquad(write_records(tmp_path / "q.jsonl", {**record, "answers": listed}), contexts).items == task.items
    for invalid in (["308"], "308", None, [{"text": 3}]):
        with pytest.raises(CorpusError, match="line 1 needs answers with texts"):
            tasks.xquad(write_records(tmp_path / "q.jsonl", {**record, "answers": invalid}), contexts)
    with pytest.raises(CorpusError, match="line 1 needs answers with texts"):
        tasks.xquad(write_records(tmp_path / "q.jsonl", {**record, "context_id": 4}), contexts)


def test_few_unreadable_characters_are_kept_and_another_encoding_is_refused(tmp_path):
    """The published XQuAD has U+FFFD in an Arabic paragraph and in two questions."""
    context = {"lang": "ar", "context_id": 3, "context": "a" * 2000 + "\ufffd"}
    contexts = write_records(tmp_path / "c.jsonl", context)
    questions = write_records(
        tmp_path / "q.jsonl", {"lang": "ar", "context_id": 3, "question": "Q?", "answers": [{"text": "a"}]}
    )
    (item,) = tasks.xquad(questions, contexts).items["ar"]
    assert item.prompt.startswith(context["context"])
    text = json.dumps({**context, "context": "für Züge" * 20}, ensure_ascii=False)
    (tmp_path / "latin.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin\.jsonl.* are not utf-8.*give --encoding"):
        tasks.xquad(questions, tmp_path / "latin.jsonl")


def test_xcopa_joins_premise_and_choice_by_a_connector(tmp_path):
    record = {
        "lang": "it",
        "split": "test",
        "question": "cause",
        "premise": "L'oggetto era incartato.",
        "choice1": "Era delicato.",
        "choice2": "Era piccolo.",
        "label": 1,
    }
    chinese = {
        **record,
        "lang": "zh",
        "question": "effect",
        "premise": "包着。",
        "choice1": "它易碎。",
        "choice2": "它小。",
    }
    path = write_records(tmp_path / "x.jsonl", record, {**record, "split": "val"}, chinese)
    task = tasks.xcopa(path)
    choices = (" era delicato.", " era piccolo.")
    assert task.items["it"] == [Item("L'oggetto era incartato perché", choices[1], choices)]
    assert task.items["zh"] == [Item("包着所以", "它小。", ("它易碎。", "它小。"))]
    assert len(tasks.xcopa(path, split=None).items["it"]) == 2
    turkish = {**record, "lang": "tr", "choice1": "İnsanlar gitti.", "choice2": "Işık söndü."}
    (item,) = tasks.xcopa(write_records(tmp_path / "t.jsonl", turkish)).items["tr"]
    assert item.choices == (" insanlar gitti.", " ışık söndü.")
    with pytest.raises(CorpusError, match="has no record of split 'validation'"):
        tasks.xcopa(path, split="validation")
    for invalid in ({"label": 2}, {"question": "why"}, {"lang": "xx"}, {"premise": None}):
        with pytest.raises(CorpusError, match="line 1 needs"):
            tasks.xcopa(write_records(tmp_path / "x.jsonl", {**record, **invalid}))


def test_xcsqa_has_questions_with_choices_and_xlsum_has_summaries(tmp_path):
    question = {"stem": "Where is it?", "choices": [{"label": "A", "text": "here"}, {"label": "B", "text": "there"}]}
    path = write_records(tmp_path / "x.jsonl", {"id": "1", "question": question, "answerKey": "B"})
    assert tasks.xcsqa({"en": path}).items == {"en": [Item("Q: Where is it?\nA:", " there", (" here", " there"))]}
    with pytest.raises(CorpusError, match="answerKey is none of the labels A, B"):
        tasks.xcsqa({"en": write_records(path, {"question": question, "answerKey": "C"})})
    task = tasks.xlsum({"fr": write_records(path, {"text": "Il neige.", "summary": "Neige"})})
    assert task.items == {"fr": [Item("Il neige.\n\nTL;DR:", " Neige", references=("Neige",))]}


def test_invalid_files_are_refused(tmp_path):
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
        tasks.xcopa(write_records(tmp_path / "x.jsonl", {"premise": "x"}))


def test_a_task_is_reduced_or_gets_another_metric():
    task = tasks.Task("t", {"fr": [Item("a", "b"), Item("c", "d")], "de": [Item("e", "f")]}, "likelihood")
    assert task.only(["de"]).items == {"de": task.items["de"]}
    assert task.only(limit=1).items == {"fr": task.items["fr"][:1], "de": task.items["de"]}
    assert task.judged_by("f1").metric == "f1" and task.judged_by("f1").items == task.items
    with pytest.raises(CorpusError, match="no items in 'en', only in fr, de"):
        task.only(["en"])


def test_xnli_puts_a_word_between_premise_and_hypothesis(tmp_path):
    """In the layouts of XNLI 1.0, where one file has all languages, and of the Hub."""
    pair = {
        "language": "en",
        "gold_label": "neutral",
        "sentence1": "He was happy.",
        "sentence2": "He smiled.",
        "pairID": "1",
        "genre": "fiction",
    }
    chinese = {**pair, "language": "zh", "sentence1": "他很高兴。", "sentence2": "他笑了。", "gold_label": "entailment"}
    task = tasks.xnli(write_records(tmp_path / "xnli.test.jsonl", pair, chinese))
    choices = (" Yes, He smiled.", " Also, He smiled.", " No, He smiled.")
    assert task.items["en"] == [Item("He was happy, right?", choices[1], choices)] and task.metric == "accuracy"
    choices_in_chinese = ("对，他笑了。", "而且，他笑了。", "不，他笑了。")
    assert task.items["zh"] == [Item("他很高兴，对吗？", choices_in_chinese[0], choices_in_chinese)]
    (table := tmp_path / "xnli.test.tsv").write_text(
        "".join("\t".join(row) + "\n" for row in (pair, pair.values(), chinese.values())), "utf-8"
    )
    assert tasks.xnli(table) == task
    of_hub = {"premise": "He was happy.", "hypothesis": "He smiled.", "label": 2}
    (item,) = tasks.xnli({"en": write_records(tmp_path / "hub.jsonl", of_hub)}).items["en"]
    assert item == Item("He was happy, right?", choices[2], choices)
    for invalid in ({"gold_label": "-"}, {"language": "xx"}, {"sentence2": None}):
        with pytest.raises(CorpusError, match="line 1 needs"):
            tasks.xnli(write_records(tmp_path / "x.jsonl", {**pair, **invalid}))
    with pytest.raises(CorpusError, match=r"line 1 is in 'en', and was given as 'de': give the file by itself"):
        tasks.xnli({"de": write_records(tmp_path / "x.jsonl", pair)})
    for language, words in WORDS.items():
        assert len(set(words.answers)) == len(LABELS), language


@pytest.mark.parametrize("gold", [{"answer": True}, {"label": 1}, {"label": True}])
def test_boolq_has_questions_with_yes_and_no(tmp_path, gold):
    record = {"question": "is it cold", "title": "Ice", "passage": "Ice is cold."} | gold
    task = tasks.boolq({"en": write_records(tmp_path / "dev.jsonl", record)})
    expected = Item("Ice is cold.\nQuestion: is it cold?\nAnswer:", " yes", (" no", " yes"))
    assert task.items == {"en": [expected]} and task.metric == "accuracy"
    (other,) = tasks.boolq({"en": write_records(tmp_path / "dev.jsonl", record | {next(iter(gold)): False})}).items[
        "en"
    ]
    assert other.answer == " no" and other.choices == expected.choices
    for invalid in ({"question": 3}, {next(iter(gold)): "yes"}):
        with pytest.raises(CorpusError, match="line 1 needs the fields of BoolQ"):
            tasks.boolq({"en": write_records(tmp_path / "dev.jsonl", record | invalid)})
