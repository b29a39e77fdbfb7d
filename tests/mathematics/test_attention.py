"""The change of attention probabilities against its definition in float64."""

import torch

from pymultiling.mathematics.attention import probability_change


def test_a_query_with_a_large_change_costs_the_others_no_digits():
    """One query has changes of scores of 300, where the exponential overflows. Those of the others are near 1e-4."""
    generator = torch.Generator().manual_seed(0)
    log_a = torch.randn(5, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    y = 1e-4 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    y[2] *= 3e6
    y = y.float().double()
    exact = (log_a + y).softmax(-1) - log_a.exp()
    change = probability_change(log_a.float(), y.float()).double()
    assert ((change - exact).abs().amax(-1) < 1e-5 * exact.abs().amax(-1)).all()


def test_equal_changes_beyond_all_digits_change_nothing():
    """All scores of a query change by 1e30. Without their mean they are rounding errors of 1e14, all of one sign."""
    generator = torch.Generator().manual_seed(0)
    log_a = torch.randn(100, 16, generator=generator, dtype=torch.float64).log_softmax(-1)
    change = probability_change(log_a, torch.full_like(log_a, 1e30))
    assert change.abs().max() < 1e-12
