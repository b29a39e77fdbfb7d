"""The numbers of a verification's report."""

import pytest
import torch

from pymultiling.probes.verification.report import Comparisons


def test_differences_are_relative_to_the_largest_column_and_departures_to_their_own():
    """A column of which rounding leaves nothing says little about a module, unless it is beyond its tolerance."""
    size, error = torch.tensor([2.0, 1e-8, 0.0]), torch.tensor([2e-7, 5e-9, 1e-9])
    comparisons = Comparisons()
    comparisons.compare("product", "the FFN differs", "do this", error, torch.full((3,), 1e-6), size)
    result = comparisons.result()
    assert result.differences == {"product": pytest.approx(1e-7)} and not result.departures
    comparisons.compare("product", "the FFN differs", "do this", error, torch.tensor([1e-6, 1e-9, 1e-8]), size)
    result = comparisons.result()
    assert result.differences == {"product": pytest.approx(0.5)} and len(result.departures) == 1
    assert result.departures[0].sentence == "the FFN differs (off by 0.5 of its size): do this"
