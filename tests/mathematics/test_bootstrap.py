import math

import pytest
import torch

from pymultiling.mathematics.bootstrap import percentile_interval, resampling_weights


def test_weights_are_counts_of_draws_with_replacement():
    weights = resampling_weights(7, resamples=50, seed=3)
    counts = weights * 7
    torch.testing.assert_close(counts, counts.round())
    torch.testing.assert_close(weights.sum(1), torch.ones(50, dtype=torch.float64))
    assert (counts == 0).any() and (counts > 1).any()
    assert torch.equal(weights, resampling_weights(7, resamples=50, seed=3))
    assert not torch.equal(weights, resampling_weights(7, resamples=50, seed=4))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """For 400 items the mean is nearly normal: its 95% interval is 1.96 standard errors to either side."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = percentile_interval(resampling_weights(400, resamples=20_000) @ values)
    error = 1.96 * values.std(correction=0).item() / math.sqrt(400)
    assert low.item() == pytest.approx(values.mean().item() - error, abs=error / 20)
    assert high.item() == pytest.approx(values.mean().item() + error, abs=error / 20)


def test_the_interval_of_several_columns_is_that_of_each():
    samples = torch.rand(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = percentile_interval(samples, level=0.9)
    for column in range(3):
        expected = torch.quantile(samples[:, column], torch.tensor([0.05, 0.95], dtype=torch.float64))
        assert [low[column].item(), high[column].item()] == pytest.approx(expected.tolist())
