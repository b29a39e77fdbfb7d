"""The change of an RMS norm's output, from products of vectors, against norms of both vectors."""

import torch

from pymultiling.mathematics.normed_change import normed_change

EPS = 1e-3


def test_is_the_squared_change_of_the_norm():
    torch.manual_seed(0)
    f, v, g = (torch.randn(n, 7, dtype=torch.float64) for n in (5, 5, 1))

    def normed(x):
        return g * x / (x.square().mean(1, keepdim=True) + EPS).sqrt()

    v *= torch.tensor([1.0, 1e-3, 10.0, 1.0, 1.0])[:, None]
    v[3] = f[3]  # nothing is left
    v[4] = 0
    products = (f * v).sum(1), (g**2 * f * v).sum(1), v.square().sum(1), (g * v).square().sum(1)
    actual = normed_change(*products, f.square().mean(1) + EPS, (g * f).square().sum(1), 7, EPS)
    torch.testing.assert_close(actual, (normed(f) - normed(f - v)).square().sum(1), rtol=1e-9, atol=0)
    assert actual[4] == 0
