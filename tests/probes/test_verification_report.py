"""The numbers of a verification's report."""

import math

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


def test_a_departure_where_zero_is_expected_has_no_relative_size():
    """A number relative to zero says nothing, so the sentence has the difference itself, unless others have a size."""
    error, tolerance = torch.tensor([0.25, 3e-3]), torch.full((2,), 1e-6)
    comparisons = Comparisons()
    comparisons.compare("o", "the output differs", "do this", error, tolerance, torch.zeros(2))
    result = comparisons.result()
    assert result.departures[0].sentence == "the output differs (off by 0.25 from zero): do this"
    assert result.departures[0].size == math.inf and result.differences == {"o": math.inf}
    comparisons = Comparisons()
    comparisons.compare("o", "the output differs", "do this", error, tolerance, torch.tensor([0.0, 1.0]))
    result = comparisons.result()
    assert result.departures[0].sentence == "the output differs (off by 0.003 of its size): do this"
    assert result.differences == {"o": pytest.approx(0.25)}  # relative to the largest column
