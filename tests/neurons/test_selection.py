import numpy
import pytest
import torch

import pymultiling as pml
from pymultiling import NeuronStatistics, Threshold, TopK, TopMean
from pymultiling.neurons.ranking import TOP_FRACTIONS

IMPORTANCE = {  # (3 documents, 1 layer, 4 neurons)
    "ffn": torch.tensor([[[4.0, 3, 2, 1]], [[4.0, 3, 2, 5]], [[4.0, 0, 3, 5]]]),
    "q": torch.tensor([[[0.0, 0, 0, 1]], [[0.0, 0, 0, 1]], [[2.0, 0, 0, 1]]]),
}


def select(rule) -> dict[str, list[int]]:
    measured = rule if hasattr(rule, "votes") else TopK()
    statistics = NeuronStatistics.of_batch(IMPORTANCE, measured.votes(IMPORTANCE), 9, measured.rule())
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
        (TopMean(ffn=1), [0]),  # means 4, 2, 2 1/3, 3 2/3
        (TopMean(ffn=0.5), [0, 3]),
        (TopMean(ffn=3), [0, 2, 3]),
        (TopMean(ffn=0), []),
        (Threshold(2), [0, 2]),
        (Threshold(2.001), [0]),
        (Threshold(0), [0, 1, 2, 3]),
    ],
)
def test_rules_select_ffn_neurons(rule, ffn):
    assert select(rule)["ffn"] == ffn


@pytest.mark.parametrize("rule", [Threshold(0.0), Threshold(-1.0), TopK(1.0, 1.0), TopMean(1.0, 1.0)])
def test_nothing_is_selected_where_a_whole_layer_is_zero(rule):
    """Such as layers of linear attention at q. Their neurons are selected by no epsilon and no k."""
    importance = {"ffn": torch.rand(3, 2, 5) + 0.1, "q": torch.rand(3, 2, 4) + 0.1}
    importance["q"][:, 1] = 0
    measured = rule if hasattr(rule, "votes") else TopK()
    counts = measured.count(importance)
    statistics = NeuronStatistics.of_counts(importance, *counts, 9, measured.rule())
    assert rule.select(statistics).count("layer") == {"ffn": [5, 5], "q": [4, 0]}
    if rule is measured:
        assert statistics.votes["q"].tolist() == [[3] * 4, [0] * 4]


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


def random_statistics(rule) -> tuple[dict[str, torch.Tensor], NeuronStatistics]:
    generator = torch.Generator().manual_seed(1)
    values = {site: torch.rand(7, 2, width, generator=generator) for site, width in (("ffn", 300), ("v", 60))}
    votes, top = rule.count(values)
    return values, NeuronStatistics.of_counts(values, votes, top, 99, rule.rule())


@pytest.mark.parametrize("measured", [TopK(0.03, 3), Threshold(0.5)])
@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("fraction", TOP_FRACTIONS)
def test_every_counted_fraction_selects_as_if_it_had_been_measured(fraction, share, measured):
    values, statistics = random_statistics(measured)
    for rule in (TopK(fraction, fraction, share), TopK(0, fraction, share), TopK(round(300 * fraction), 0, share)):
        expected = NeuronStatistics.of_batch(values, rule.votes(values), 99, rule.rule())
        assert rule.select(statistics) == rule.select(expected)


@pytest.mark.parametrize("rule", [TopK(), TopK(0.03, 3), TopK(0, 0), TopK(1.0, 1000), Threshold(0.5)])
def test_count_agrees_with_the_sum_of_the_votes(rule):
    values, statistics = random_statistics(rule)
    for site, votes in rule.votes(values).items():
        assert torch.equal(statistics.votes[site], votes.sum(0))


def test_fractions_that_are_not_counted_are_refused_with_those_that_are():
    _, statistics = random_statistics(TopK())
    with pytest.raises(ValueError, match=r" 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, not of top-k, ffn 0.03,"):
        TopK(0.03, 0.05).select(statistics)
    statistics.top = {}
    with pytest.raises(ValueError, match=r"alone, as earlier .*, not of top-k, ffn 0.1, .* another share, by"):
        TopK(0.1, 0.05).select(statistics)
    assert len(TopK(share=0.2).select(statistics)) and len(TopMean(0.03, 0.03).select(statistics))


def test_no_neuron_is_selected_without_documents():
    for rule in (TopK(1.0, 1.0), TopK(0.01, 0.01), Threshold(0.0), TopMean()):
        assert len(rule.select(NeuronStatistics.of_nothing({"ffn": 3}, 2, TopK(1.0, 1.0).rule()))) == 0


@pytest.mark.parametrize("arguments", [{"ffn": 1.5}, {"ffn": -1}, {"attention": -0.1}, {"share": 0}, {"share": 1.1}])
def test_amounts_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        pml.TopK(**arguments)
    if "share" not in arguments:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            pml.TopMean(**arguments)


def test_rule_texts_differ_if_votes_differ():
    assert TopK(share=0.5).rule() == TopK().rule() != TopK(ffn=0.2).rule()
    assert Threshold(1.0).rule() != Threshold(2.0).rule()
