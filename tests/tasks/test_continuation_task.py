"""Tasks made of plain texts."""

import pytest

from pymultiling import CorpusError, tasks


def test_continuation():
    texts = {
        "fr": ["un deux trois", "quatre cinq", "six sept", "huit neuf", "six sept", "dix"],
        "zh": ["一二三四", "五六", "七八"],
    }
    task = tasks.continuation(texts, choices=3)
    assert [item.prompt + item.answer for item in task.items["fr"]] == texts["fr"][:4] + ["dix"]
    assert task.items["zh"][0].prompt == "一二"
    for item in task.items["fr"] + task.items["zh"]:
        assert item.answer in item.choices and len(set(item.choices)) == 3
    assert tasks.continuation(texts, choices=3) == task
    with pytest.raises(CorpusError, match="'zh' has 3 different second halves of texts, too few for 4 choices"):
        tasks.continuation({"zh": texts["zh"]})
