"""Layers of different widths: padding is no neuron, and a narrower layer is selected from as it would be alone."""

import pytest
import torch

import pymultiling as pml
from pymultiling import ActivationStatistics, CheckpointError, NeuronSet, NeuronStatistics, Threshold, TopK, TopMean
from pymultiling.neurons.widths import are_neurons, differing, width_range
from pymultiling.runtime.storage import save_tensors

WIDTHS = {"ffn": (40, 10, 25, 40), "q": (8, 8, 8, 8), "v": (0, 4, 0, 8)}
DOCUMENTS = 9
RULES = [
    TopK(0.1, 0.2, share=0.4),
    TopK(7, 3, share=0.3),
    TopK(0.0, 1.0),
    TopMean(0.1, 0.2),
    TopMean(12, 2),
    Threshold(0.0),
    Threshold(0.3),
]


def importance(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {site: torch.rand(DOCUMENTS, 4, max(widths), generator=generator) for site, widths in WIDTHS.items()}
    return {site: x * are_neurons(WIDTHS[site], x.shape[-1]) for site, x in values.items()}


def statistics_of(rule, values, widths=None) -> NeuronStatistics:
    counting = TopK() if isinstance(rule, TopMean) else rule
    return NeuronStatistics.of_counts(values, *counting.count(values, widths), 100, counting.rule(), widths)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_layer_is_selected_from_as_if_it_were_alone(rule):
    values = importance()
    selected = rule.select(statistics_of(rule, values, WIDTHS))
    assert selected.widths == {site: WIDTHS[site] for site in ("ffn", "v")}
    for site, widths in WIDTHS.items():
        for layer, width in enumerate(widths):
            alone = torch.zeros(0, dtype=torch.bool)
            if width:
                x = {site: values[site][:, layer : layer + 1, :width]}
                alone = rule.select(statistics_of(rule, x)).sites[site][0]
            assert torch.equal(selected.sites[site][layer, :width], alone)
            assert not selected.sites[site][layer, width:].any()


@pytest.mark.parametrize("rule", [TopK(0.1, 0.2), Threshold(0.0), Threshold(0.3)], ids=repr)
def test_counts_are_the_sums_of_the_votes(rule):
    values = importance()
    votes, (counts, top) = rule.votes(values, WIDTHS), rule.count(values, WIDTHS)
    statistics = NeuronStatistics.of_batch(values, votes, 100, rule.rule(), WIDTHS)
    for site in WIDTHS:
        assert torch.equal(counts[site].long(), votes[site].sum(0)) and torch.equal(statistics.top[site], top[site])
        beyond = ~are_neurons(WIDTHS[site], values[site].shape[-1])
        assert not counts[site][beyond].any() and not top[site][:, beyond].any()


def test_counted_fractions_select_as_if_they_had_been_measured():
    measured = statistics_of(TopK(0.05, 0.05), importance(), WIDTHS)
    for fraction in (0.01, 0.1, 0.2):
        rule = TopK(fraction, fraction, share=0.3)
        assert rule.select(measured) == rule.select(statistics_of(rule, importance(), WIDTHS))
    with pytest.raises(ValueError, match="these statistics hold the votes of"):
        TopK(0.15, 0.15).select(measured)


def test_statistics_add_up_and_are_read_again(tmp_path):
    rule = TopK(0.1, 0.2)
    a, b = (statistics_of(rule, importance(seed), WIDTHS) for seed in (0, 1))
    empty = NeuronStatistics.of_nothing(
        {site: max(widths) for site, widths in WIDTHS.items()}, 4, rule.rule(), layer_widths=WIDTHS
    )
    total = empty + a + b
    total.save(tmp_path / "a.safetensors")
    loaded = NeuronStatistics.load(tmp_path / "a.safetensors")
    assert loaded.widths == total.widths == {site: WIDTHS[site] for site in ("ffn", "v")}
    assert all(torch.equal(loaded.sum[site], total.sum[site]) for site in WIDTHS)
    with pytest.raises(ValueError, match="where layers differ in width"):
        _ = a + statistics_of(rule, importance(), {**WIDTHS, "v": (0, 4, 0, 7)})


def members(seed: int = 0, widths=WIDTHS) -> NeuronSet:
    generator = torch.Generator().manual_seed(seed)
    masks = {
        site: (torch.rand(4, max(own), generator=generator) < 0.4) & are_neurons(own, max(own))
        for site, own in widths.items()
    }
    return NeuronSet(masks, widths)


def test_random_sets_have_no_neurons_beyond_a_layer():
    neurons = members()
    drawn = [neurons.random_like(seed, anywhere=anywhere) for seed in range(60) for anywhere in (False, True)]
    assert all(each.count() == neurons.count() and each.widths == neurons.widths for each in drawn)
    assert all(each.count("layer") == neurons.count("layer") for each in drawn[::2])
    for anywhere in (0, 1):
        reached = torch.stack([each.sites["ffn"] for each in drawn[anywhere::2]]).any(0)
        assert torch.equal(reached, are_neurons(WIDTHS["ffn"], 40))


def test_sets_keep_their_widths_in_algebra_and_in_files(tmp_path):
    a, b = members(0), members(1)
    for made in (a | b, a & b, a - b, a ^ b, a.only("q"), a.layers(1, 3), a | NeuronSet({"q": b.sites["q"]})):
        assert made.widths == a.widths
    assert a.layer_widths("ffn") == WIDTHS["ffn"] and a.layer_widths("q") == WIDTHS["q"]
    a.save(tmp_path / "a.safetensors")
    loaded = NeuronSet.load(tmp_path / "a.safetensors")
    assert loaded == a and loaded.widths == a.widths
    with pytest.raises(ValueError, match="neurons of ffn; give sets that were detected in the same model"):
        _ = a | NeuronSet({"ffn": torch.zeros(4, 40, dtype=torch.bool)}, {"ffn": (40, 10, 25, 39)})


def test_files_of_models_of_one_width_are_as_before(tmp_path):
    NeuronSet({"q": torch.ones(2, 3, dtype=torch.bool)}, {"q": (3, 3)}).save(tmp_path / "a.safetensors")
    from safetensors.torch import load_file

    assert list(load_file(tmp_path / "a.safetensors")) == ["q"]


def test_wrong_widths_are_refused(tmp_path):
    mask = torch.ones(2, 3, dtype=torch.bool)
    for widths in ((3,), (3, 4), (3, -1)):
        with pytest.raises(ValueError, match="widths of q must be the numbers of neurons of 2 layers, 0 to 3"):
            NeuronSet({"q": mask}, {"q": widths})
    with pytest.raises(ValueError, match="neuron 2 of q in layer 1 does not exist: the layer has 2 neurons"):
        NeuronSet({"q": mask}, {"q": (3, 2)})
    for widths, fault in (([3, 2], "beyond the neurons of a layer"), ([3, 4], "widths of q must be")):
        tensors = {"q": mask.to(torch.uint8), "widths.q": torch.tensor(widths)}
        save_tensors(tmp_path / "a.safetensors", tensors, "pymultiling.neurons/1", {})
        with pytest.raises(CheckpointError, match=f"is damaged: .*{fault}"):
            NeuronSet.load(tmp_path / "a.safetensors")


def counts(seed: int, tokens: int = 50) -> ActivationStatistics:
    active = torch.randint(tokens + 1, (4, 40), generator=torch.Generator().manual_seed(seed))
    return ActivationStatistics(active * are_neurons(WIDTHS["ffn"], 40), tokens, WIDTHS)


def test_shares_of_activations_are_of_the_neurons_that_exist(tmp_path):
    a = counts(0)
    for layer, width in enumerate(WIDTHS["ffn"]):
        torch.testing.assert_close(a.proportion[layer], a.probability[layer, :width].mean())
    assert a.neurons == 115 and len(a.most_active(0.2).counts) == 23
    assert a.most_active(1.0).by_layer.tolist() == list(WIDTHS["ffn"])
    (a + counts(1)).save(tmp_path / "a.safetensors")
    assert ActivationStatistics.load(tmp_path / "a.safetensors").widths == {"ffn": WIDTHS["ffn"]}
    with pytest.raises(ValueError, match="counts of different models cannot be combined: the layers of the first"):
        _ = a + ActivationStatistics(a.active, a.tokens)


@pytest.mark.parametrize("select", ["lape", "ternary"])
def test_entropies_rank_the_neurons_that_exist(select):
    """The same numbers in one layer of 115 neurons select the same neurons."""
    by_layer = {language: counts(seed) for seed, language in enumerate(("fr", "de", "zh"))}
    flat = {
        language: ActivationStatistics(each.active[each.is_neuron][None], each.tokens)
        for language, each in by_layer.items()
    }
    results = []
    for given in (by_layer, flat):
        sets = (
            pml.lape(given, top=0.2, bar=0.5)
            if select == "lape"
            else pml.ternary(given, top=0.2, bar=0.5, lam=0.05).neurons
        )
        results.append(sets)
    is_neuron = by_layer["fr"].is_neuron
    for language, neurons in results[0].items():
        assert neurons.widths == {"ffn": WIDTHS["ffn"]} and len(neurons)
        assert torch.equal(neurons.sites["ffn"][is_neuron], results[1][language].sites["ffn"][0])


def test_widths_are_described_in_words():
    assert [width_range(widths) for widths in ((4096, 4096), (0, 512), (2048, 512, 1024))] == [
        "4,096",
        "0 or 512",
        "512, 1,024 or 2,048",
    ]
    assert differing({"q": [3, 3]}, {"q": torch.zeros(2, 3)}) == {} == differing(None, {"q": torch.zeros(2, 3)})
