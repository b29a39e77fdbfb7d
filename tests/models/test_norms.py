"""Norms over the head: by how much the rest of a head grows without one neuron."""

import pytest
import torch
from torch import nn

from pymultiling.models.norms import normed

EPS = 1e-6
# Of float32. A sum of 128 squares, added up in partial sums, takes less than 32 roundings of 2^-24 each, which doubles
# where it is subtracted from; the other operations take less than 16.
RELATIVE_ERROR = 80 * 2**-24


def growth_by_definition(x):
    """Returns r / s - 1 in float64, without a difference: s^2 / r^2 = 1 - x^2 / (D r^2), and 1 - ... is log1p's."""
    x = x.double()
    r2 = x.square().mean(-1, keepdim=True) + EPS
    others = torch.stack([x[..., torch.arange(x.shape[-1]) != n].square().sum(-1) for n in range(x.shape[-1])], -1)
    dominates = (r2 / (others / x.shape[-1] + EPS)).sqrt() - 1
    small = torch.expm1(-0.5 * torch.log1p(-x.square() / x.shape[-1] / r2))
    return torch.where(dominates > 1e-2, dominates, small)


@pytest.mark.parametrize("ratio", [1e-6, 1e-4, 1e-2, 1.0, 10.0, 3e3, 1e6])
@pytest.mark.parametrize("size", [1, 2, 8, 128])
def test_growth_keeps_its_digits_in_float32(size, ratio):
    """Neuron 0 is `ratio` times as large as the others are on average; two more neurons are equal."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2 * size)
    x[..., ::size] *= ratio
    x[..., size // 2] = x[..., -1]
    norm = nn.RMSNorm(size, eps=EPS)
    plain, growth = normed(x, norm, norm.weight.detach(), size)
    heads = x.unflatten(-1, (2, size)).transpose(1, 2)
    expected = growth_by_definition(heads)
    assert growth.dtype == plain.dtype == torch.float32
    assert ((growth - expected).abs() <= RELATIVE_ERROR * expected).all()
    exact = heads.double() * (heads.double().square().mean(-1, keepdim=True) + EPS).rsqrt()
    assert ((plain - exact).abs() <= RELATIVE_ERROR * exact.abs()).all()


def test_float64_stays_float64():
    norm = nn.RMSNorm(8, eps=EPS)
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    plain, growth = normed(x, norm, norm.weight.detach(), 8)
    assert plain.dtype == growth.dtype == torch.float64
    torch.testing.assert_close(
        growth, growth_by_definition(x.unflatten(-1, (2, 8)).transpose(1, 2)), rtol=1e-13, atol=0
    )
