import pytest
import torch

import pymultiling as pml
from pymultiling.neurons.activation_statistics import FORMAT, stack_probabilities
from pymultiling.runtime.storage import save_tensors


def random_statistics(seed: int, shape=(3, 7), tokens: int = 20) -> pml.ActivationStatistics:
    generator = torch.Generator().manual_seed(seed)
    return pml.ActivationStatistics(torch.randint(0, tokens + 1, shape, generator=generator), tokens)


def are_equal(a: pml.ActivationStatistics, b: pml.ActivationStatistics) -> bool:
    return torch.equal(a.active, b.active) and a.tokens == b.tokens


def test_addition_is_commutative_and_associative_and_subtraction_undoes_it():
    a, b, c = (random_statistics(seed, tokens=10 + seed) for seed in range(3))
    assert are_equal(a + b, b + a) and are_equal((a + b) + c, a + (b + c))
    assert are_equal(a + b - b, a) and (a + b).tokens == 21
    assert torch.equal((a + b).active, a.active + b.active)


def test_probability_is_by_neuron_and_proportion_by_layer():
    statistics = pml.ActivationStatistics(torch.tensor([[0, 1, 4], [2, 2, 2]]), 4)
    assert (
        statistics.probability.tolist() == [[0, 0.25, 1], [0.5, 0.5, 0.5]]
        and statistics.probability.dtype == torch.float64
    )
    assert statistics.proportion.tolist() == pytest.approx([1.25 / 3, 0.5])


def test_probabilities_of_a_difference_are_between_0_and_1():
    statistics = pml.ActivationStatistics(torch.tensor([[5, 3]]), 5) - pml.ActivationStatistics(
        torch.tensor([[1, 4]]), 2
    )
    assert statistics.active.tolist() == [[4, -1]] and statistics.probability.tolist() == [[1, 0]]


def test_most_active_are_the_neurons_with_the_highest_counts():
    statistics = pml.ActivationStatistics(torch.tensor([[5, 1, 9, 0, 5], [9, 2, 5, 0, 0]]), 9)
    most_active = statistics.most_active(0.4)
    assert (
        most_active.counts.tolist() == [9, 9, 5, 5]
        and most_active.share == 28 / 36
        and most_active.by_layer.tolist() == [3, 1]
    )
    assert statistics.most_active(0.01).counts.tolist() == [9] and statistics.most_active(0.01).by_layer.tolist() == [
        1,
        0,
    ]
    assert statistics.most_active(1).share == 1
    assert pml.ActivationStatistics(torch.zeros(1, 4, dtype=torch.int64), 3).most_active().share == 0
    for wrong in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
            statistics.most_active(wrong)


def test_save_and_load_give_the_same_counts(tmp_path):
    statistics, path = random_statistics(0), tmp_path / "a.safetensors"
    statistics.save(path, language="fr")
    assert are_equal(pml.ActivationStatistics.load(path), statistics)
    pml.NeuronSet({"ffn": torch.ones(1, 2, dtype=torch.bool)}).save(path)
    with pytest.raises(pml.CheckpointError, match="counts of activations"):
        pml.ActivationStatistics.load(path)


def test_damaged_files_are_refused(tmp_path):
    path, active = tmp_path / "a.safetensors", torch.zeros(1, 2, dtype=torch.int64)
    for tensors, metadata in (
        ({"active": active}, {}),
        ({"other": active}, {"tokens": "3"}),
        ({"active": active}, {"tokens": "3.5"}),
    ):
        save_tensors(path, tensors, FORMAT, metadata)
        with pytest.raises(pml.CheckpointError, match=r"a.safetensors is damaged"):
            pml.ActivationStatistics.load(path)


def test_invalid_counts_are_refused():
    with pytest.raises(ValueError, match=r"tokens must be an int, got 2.0"):
        pml.ActivationStatistics(torch.zeros(2, 3, dtype=torch.int64), 2.0)
    with pytest.raises(ValueError, match="int64"):
        pml.ActivationStatistics(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="more positions were subtracted"):
        random_statistics(0, tokens=3) - random_statistics(0, tokens=4)
    with pytest.raises(ValueError, match="no positions were counted"):
        pml.ActivationStatistics(torch.zeros(2, 3, dtype=torch.int64), 0).proportion
    with pytest.raises(ValueError, match="3 layers x 7 neurons, the second 2 x 7"):
        random_statistics(0) + random_statistics(0, (2, 7))


def test_stacks_the_probabilities_of_languages():
    counts = {"fr": random_statistics(0), "de": random_statistics(1, tokens=8)}
    assert torch.equal(
        stack_probabilities(counts), torch.stack([statistics.probability for statistics in counts.values()], -1)
    )
    with pytest.raises(ValueError, match="no positions of 'en' were counted"):
        stack_probabilities({**counts, "en": pml.ActivationStatistics(torch.zeros(3, 7, dtype=torch.int64), 0)})
    with pytest.raises(ValueError, match="fr has 3 layers x 7 neurons, en 3 x 8"):
        stack_probabilities({**counts, "en": random_statistics(0, (3, 8))})
    with pytest.raises(ValueError, match="no counts of activations were given"):
        stack_probabilities({})
