import numpy
import pytest
import torch

import pymultiling as pml
from pymultiling import NeuronStatistics, Threshold, TopK

IMPORTANCE = {  # (3 documents, 1 layer, 4 neurons)
    "ffn": torch.tensor([[[4.0, 3, 2, 1]], [[4.0, 3, 2, 5]], [[4.0, 0, 3, 5]]]),
    "q": torch.tensor([[[0.0, 0, 0, 1]], [[0.0, 0, 0, 1]], [[2.0, 0, 0, 1]]]),
}


def select(rule) -> dict[str, list[int]]:
    statistics = NeuronStatistics.of_batch(IMPORTANCE, rule.votes(IMPORTANCE), 9, rule.rule())
    return {site: mask[0].nonzero().flatten().tolist() for site, mask in rule.select(statistics).sites.items()}


@pytest.mark.parametrize(
    "rule, ffn",
    [
        (TopK(ffn=2), [0]),
        (TopK(ffn=0.5), [0]),
        (TopK(ffn=2, share=0.6), [0, 3]),
        (TopK(ffn=2, share=0.01), [0, 1, 3]),  # at least one document is needed
        (TopK(ffn=1.0), [0, 2, 3]),  # neuron 1 has importance 0 in the last document
        (TopK(ffn=100), [0, 2, 3]),
        (TopK(ffn=numpy.int64(2)), [0]),
        (TopK(ffn=0.0001), []),  # one neuron a document, and none is in all of them
        (TopK(ffn=0.0001, share=0.6), [3]),
        (TopK(ffn=0), []),
        (TopK(ffn=0.0), []),
        (Threshold(2), [0, 2]),
        (Threshold(2.001), [0]),
        (Threshold(0), [0, 1, 2, 3]),
    ],
)
def test_rules_select_ffn_neurons(rule, ffn):
    assert select(rule)["ffn"] == ffn


def test_attention_has_its_own_k():
    assert select(TopK(ffn=0, attention=2)) == {"ffn": [], "q": [3]}
    assert select(TopK(ffn=0, attention=2, share=1 / 3)) == {"ffn": [], "q": [0, 3]}


def test_share_allows_for_rounding():
    """0.07 * 100 is 7.000000000000001 in floating point, and 7 votes of 100 are enough."""
    votes = {"ffn": torch.tensor([[6, 7, 8]])}
    rule = TopK(share=0.07)
    statistics = NeuronStatistics(100, 100, {}, {}, votes, rule.rule() + "; importance, rope pre")
    assert rule.select(statistics).sites["ffn"].tolist() == [[False, True, True]]


def test_votes_of_another_rule_are_refused():
    rule = TopK(ffn=2)
    statistics = NeuronStatistics.of_batch(IMPORTANCE, rule.votes(IMPORTANCE), 9, rule.rule())
    for other_rule in (TopK(ffn=3), TopK(ffn=2.0 / 4), TopK(ffn=2, attention=1)):
        with pytest.raises(ValueError, match="hold the votes of top-k, ffn 2"):
            other_rule.select(statistics)
    assert TopK(ffn=2, share=0.1).select(statistics) == TopK(ffn=numpy.int32(2), share=0.1).select(statistics)
    assert len(Threshold(2).select(statistics))


def test_no_neuron_is_selected_without_documents():
    for rule in (TopK(1.0, 1.0), Threshold(0.0)):
        assert len(rule.select(NeuronStatistics.of_nothing({"ffn": 3}, 2, rule.rule()))) == 0


@pytest.mark.parametrize("arguments", [{"ffn": 1.5}, {"ffn": -1}, {"attention": -0.1}, {"share": 0}, {"share": 1.1}])
def test_amounts_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        pml.TopK(**arguments)


def test_rule_texts_differ_if_votes_differ():
    assert TopK(share=0.5).rule() == TopK().rule() != TopK(ffn=0.2).rule()
    assert Threshold(1.0).rule() != Threshold(2.0).rule()
