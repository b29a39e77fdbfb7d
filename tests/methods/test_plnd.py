"""pml.detect against a loop over single documents."""

import math

import pytest
import torch

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.methods import plnd
from tests.support.tiny_models import tiny_batch, tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama", torch.float64), tiny_tokenizer()
CORPORA = {language: texts(language) for language in LANGUAGES}


def detect(corpora=None, **options) -> pml.Detection:
    return pml.detect(MODEL, TOKENIZER, corpora or CORPORA, **{"progress": False, "batch_tokens": 30, **options})


def importance_one_by_one(language: str, max_length: int = 512, **options) -> dict[str, torch.Tensor]:
    """Returns {site: (documents, layers, neurons)}, from a forward for each document."""
    ids = [TOKENIZER(text, return_tensors="pt")["input_ids"][:, :max_length] for text in CORPORA[language]]
    values = [pml.importance(MODEL, document, **options) for document in ids]
    return {site: torch.cat([importance[site] for importance in values]) for site in values[0]}


@pytest.mark.parametrize("options", [{}, {"rope": "post"}, {"score": "released"}, {"max_length": 6}, {"sites": "k"}])
def test_statistics_are_those_of_a_loop_over_documents(options):
    rule = pml.TopK(ffn=0.2, attention=0.4, share=1.0)
    detection = detect(select=rule, **options)
    for language, statistics in detection.statistics.items():
        expected = importance_one_by_one(language, **options)
        assert statistics.documents == len(CORPORA[language])
        for site, values in expected.items():
            torch.testing.assert_close(statistics.minimum[site], values.amin(0))
            torch.testing.assert_close(statistics.sum[site], values.sum(0))
            assert torch.equal(statistics.votes[site], rule.votes(expected)[site].sum(0))
        assert detection.neurons[language] == pml.NeuronSet(
            {site: rule.votes(expected)[site].all(0) for site in expected}
        )
        assert 0 < len(detection.neurons[language])


def test_a_threshold_must_be_reached_in_every_document():
    expected = importance_one_by_one("fr", sites="ffn")["ffn"]
    epsilon = expected.amin(0).median().item()
    neurons = detect(select=pml.Threshold(epsilon), sites="ffn").neurons["fr"]
    assert torch.equal(neurons.sites["ffn"], (expected >= epsilon).all(0))


@pytest.mark.parametrize("batch_tokens", [1, 17, 10_000])
def test_batching_does_not_change_the_result(batch_tokens):
    a, b = detect(), detect(batch_tokens=batch_tokens)
    for language in CORPORA:
        assert a.neurons[language] == b.neurons[language]
        for site in pml.SITES:
            assert torch.equal(a.statistics[language].votes[site], b.statistics[language].votes[site])
            torch.testing.assert_close(a.statistics[language].sum[site], b.statistics[language].sum[site])


def test_packing_joins_texts_into_documents_of_that_length():
    detection = detect(pack=10)
    tokens = sum(len(text.split()) + 1 for text in CORPORA["fr"])  # </s> behind each
    assert detection.statistics["fr"].documents == tokens // 9  # <s> in front of each
    assert detection.corpora["fr"].left_over == tokens % 9


def test_a_corpus_is_read_while_it_is_measured(monkeypatch):
    """A generator is read only a few chunks ahead of the measurement."""
    monkeypatch.setattr(chunks, "LEAST", 1)
    texts_of_a_chunk, drawn, drawn_at_batch = 4 * 10, 0, []

    def corpus():
        nonlocal drawn
        for _ in range(20 * texts_of_a_chunk):
            drawn += 1
            yield "w3"

    measure = plnd.ImportanceProbe.launch

    def recording_measure(*arguments):
        drawn_at_batch.append(drawn)
        return measure(*arguments)

    monkeypatch.setattr(plnd.ImportanceProbe, "launch", recording_measure)
    for workers in (0, 1):
        drawn, drawn_at_batch = 0, []
        detection = detect({"fr": corpus()}, sites="ffn", batch_tokens=10, workers=workers)
        assert detection.statistics["fr"].documents == 20 * texts_of_a_chunk
        for batch, number in enumerate(drawn_at_batch):  # 5 documents of two tokens
            assert number - 5 * batch <= 5 * texts_of_a_chunk


def test_another_rule_selects_from_the_same_statistics_what_it_selects_when_it_measures():
    measured = detect(select=pml.TopK(ffn=0.3, attention=0.3))
    for rule in (pml.TopK(ffn=0.2, attention=0.1, share=0.5), pml.Threshold(1e-4)):
        selected, truth = measured.select(rule), detect(select=rule)
        assert selected.neurons == truth.neurons and any(map(len, truth.neurons.values()))
        assert selected.statistics is measured.statistics and selected.corpora is measured.corpora
    assert measured.select(pml.TopMean(0.1)).neurons["fr"] == pml.TopMean(0.1).select(measured.statistics["fr"])


def test_a_rule_that_has_no_votes_cannot_be_measured():
    with pytest.raises(ValueError, match="select must be TopK or Threshold, got TopMean"):
        detect(select=pml.TopMean())


def test_specific_neurons_are_those_of_at_most_so_many_languages():
    def neurons(*members: int) -> pml.NeuronSet:
        mask = torch.zeros(1, 4, dtype=torch.bool)
        mask[0, list(members)] = True
        return pml.NeuronSet({"ffn": mask})

    detection = pml.Detection({"en": neurons(0, 1), "de": neurons(1, 2), "fr": neurons(0, 1, 3)}, {})
    assert detection.specific() == {"en": neurons(), "de": neurons(2), "fr": neurons(3)}
    assert detection.specific(at_most=2) == {"en": neurons(0), "de": neurons(2), "fr": neurons(0, 3)}
    assert detection.specific(at_most=3) == detection.neurons
    assert detection.specific(at_most=3, minus=["en"]) == {"en": neurons(0, 1), "de": neurons(2), "fr": neurons(3)}
    with pytest.raises(ValueError, match="'it'"):
        detection.specific(minus=["it"])


def test_report_counts_the_neurons_of_sets():
    detection = detect()
    report = detection.report()
    assert list(report.columns) == ["language", "site", "layer", "selected", "specific"]
    assert len(report) == 2 * len(pml.SITES) * 2
    specific = detection.specific()
    for language, part in report.groupby("language"):
        assert part.selected.sum() == len(detection.neurons[language])
        assert part.specific.sum() == len(specific[language])
    row = report.set_index(["language", "site", "layer"]).loc[("de", "q", 1)]
    assert row.selected == detection.neurons["de"].count("layer")["q"][1]


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pml.detect(model, TOKENIZER, CORPORA, progress=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_names_the_site_and_layer_of_a_nan():
    model, expected = tiny_model("llama"), pml.importance(tiny_model("llama"), **tiny_batch())
    weight = model.model.layers[1].self_attn.o_proj.weight.data
    value = weight[3, 2].item()
    weight[3, 2] = math.nan
    with pytest.raises(pml.NonFiniteActivations, match=r"'fr'.*site v, layer 1"):
        pml.detect(model, TOKENIZER, CORPORA, sites=["v"], progress=False)
    weight[3, 2] = value
    again = pml.importance(model, **tiny_batch())  # no state of the failed forward is left in the model
    assert all(torch.equal(again[site], expected[site]) for site in pml.SITES)


def test_wrong_arguments_and_empty_corpora_are_refused():
    for corpora, words in (({}, "no corpora"), ({"fr": []}, "'fr' has no documents"), ({"fr": [" "]}, "empty 1")):
        with pytest.raises(pml.CorpusError, match=words):
            pml.detect(MODEL, TOKENIZER, corpora, progress=False)
    for options in (
        {"max_length": 0},
        {"batch_tokens": 0},
        {"pack": 0},
        {"sites": "z"},
        {"rope": "mid"},
        {"score": "x"},
    ):
        with pytest.raises(ValueError, match=r"at least|unknown site|must be"):
            detect(**options)


def test_progress_without_a_terminal_is_a_line_for_each_language(capsys):
    detect(progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.partition(",")[0] for line in printed.err.splitlines()] == [
        "fr: measuring (1 of 2): 6 documents",
        "de: measuring (2 of 2): 6 documents",
    ]


def test_statistics_of_different_definitions_of_importance_cannot_be_added():
    """The error is for the definition of importance, since both use the same selection rule."""
    paper, released = (detect(score=score).statistics["fr"] for score in ("importance", "released"))
    with pytest.raises(ValueError, match="different rules"):
        paper + released


def test_a_document_of_one_token_is_left_out():
    """A single token has attention probability 1 whatever q and k are: its votes would empty the sets of q and k."""
    tokenizer = tiny_tokenizer(bos=False)
    corpus = texts("fr")
    with_short_text = pml.detect(MODEL, tokenizer, {"fr": [*corpus, "w3"]}, progress=False)
    assert with_short_text.corpora["fr"].short == 1
    assert with_short_text.neurons["fr"] == pml.detect(MODEL, tokenizer, {"fr": corpus}, progress=False).neurons["fr"]
    with pytest.raises(pml.CorpusError, match="'fr' has no documents: texts 2, short 2"):
        pml.detect(MODEL, tokenizer, {"fr": ["w3", "w4"]}, progress=False)


def test_packed_documents_longer_than_max_length_are_refused():
    with pytest.raises(ValueError, match="pack fewer tokens"):
        detect(pack=99, max_length=32)


def test_an_error_names_the_document_of_a_nan():
    broken = tiny_model("llama")
    word = TOKENIZER("w19", add_special_tokens=False)["input_ids"][0]
    broken.get_input_embeddings().weight.data[word] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match=r"language 'fr', document 3 of its corpus: .* layer 0"):
        pml.detect(broken, TOKENIZER, {"fr": ["w3 w4 w5", "w6", "w7 w19", "w8 w9"]}, progress=False)
