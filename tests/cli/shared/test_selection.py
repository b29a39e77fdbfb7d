"""What detect and select print of the selected neurons."""

import pytest

from tests.support.command_line import detect, run
from tests.support.tiny_text import texts, write_text

LENGTHS = "fr has 4 tokens in a document on average and de has 13, which changes how many neurons are selected"
NUMBERS = "de has 3 documents and fr has 9, which changes how many neurons are selected"


@pytest.mark.parametrize(
    "fr, de, share, sentence",
    [
        ([3] * 9, [12] * 3, "0.7", LENGTHS),
        ([8] * 9, [8] * 3, "1", NUMBERS),
        ([8] * 9, [8] * 3, "0.7", None),
        ([8] * 9, [9] * 5, "1", None),
    ],
)
def test_says_when_documents_make_the_numbers_of_neurons_differ(model, tmp_path, capsys, fr, de, share, sentence):
    """The same of detect and select. Means over documents are compared without the sentence."""
    lengths = {"fr": fr, "de": de}
    corpora = {name: write_text(tmp_path / f"{name}.txt", texts(name, lengths[name])) for name in lengths}
    assert detect(model, corpora, tmp_path / "found", "--share", share) == 0
    assert run("select", tmp_path / "found", "--share", share, "--out", tmp_path / "selected") == 0
    printed = capsys.readouterr().out
    assert printed.count("which changes how many neurons are selected") == (2 if sentence else 0)
    assert sentence is None or printed.count(sentence) == 2
    assert run("select", tmp_path / "found", "--mean", "--out", tmp_path / "means") == 0
    assert "which changes how many" not in capsys.readouterr().out
