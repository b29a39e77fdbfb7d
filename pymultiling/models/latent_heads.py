"""Heads of multi-head latent attention (MLA): which of their dimensions are rotated, and which keys all heads share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentHeads:
    """The dimensions of a query or key of multi-head latent attention.

    A head has `own` dimensions that are not rotated, and behind them `shared` ones that are. Every head has its own
    projection of the first, and of queries also of the second. The second dimensions of the key have one projection,
    and all heads share its outputs.

    Operators rotate the first dimensions of a head. For them the shared dimensions come first ("operators' order"). The
    attention scores are the same in any order.

    Attributes:
        own: o.
        shared: s.
        regrouped: as in `Family`.
    """

    own: int
    shared: int
    regrouped: bool

    @property
    def size(self) -> int:
        """Number of dimensions of a head."""
        return self.own + self.shared

    def queries(self, q: Tensor) -> Tensor:
        """Reorders the outputs of the query projection, (B, l, H (o + s)), for operators."""
        heads = torch.unflatten(q, -1, (-1, self.size))
        shared = heads[..., self.own :][..., self._rotated(q.device)]
        return torch.cat([shared, heads[..., : self.own]], -1).flatten(-2)

    def keys(self, own: Tensor, shared: Tensor) -> Tensor:
        """Puts the keys of all heads together for operators.

        Args:
            own: (B, l, H o), each head's own outputs.
            shared: (B, l, s), the outputs that all heads share.

        Returns:
            (B, l, H (o + s)).
        """
        by_head = torch.unflatten(own, -1, (-1, self.own))
        rotated = shared[..., self._rotated(own.device)][:, :, None].expand(*by_head.shape[:-1], -1)
        return torch.cat([rotated, by_head], -1).flatten(-2)

    def passed(self, heads: Tensor) -> Tensor:
        """Reorders queries or keys as the model passes them to its attention, (B, H, l, o + s), for operators."""
        return heads.roll(self.shared, -1)

    def query_neurons(self, values: Tensor) -> Tensor:
        """Returns values of the query neurons, (B, H (o + s)) in operators' order, in the order of the projection."""
        heads = torch.unflatten(values, 1, (-1, self.size))
        shared = heads[..., : self.shared][..., self._rotated(values.device).argsort()]
        return torch.cat([heads[..., self.shared :], shared], -1).flatten(1)

    def key_neurons(self, values: Tensor) -> Tensor:
        """Returns values of the key neurons: of each head's own ones, and then the sums over heads of the shared ones.

        Args:
            values: (B, H (o + s)), in operators' order, for keys of which no two heads share a dimension.

        Returns:
            (B, H o + s).
        """
        heads = torch.unflatten(values, 1, (-1, self.size))
        shared = heads[..., : self.shared].sum(1)[:, self._rotated(values.device).argsort()]
        return torch.cat([heads[..., self.shared :].flatten(1), shared], 1)

    def _rotated(self, device: torch.device) -> Tensor:
        """Returns (s,) int64, the shared outputs of a projection in the order in which they are rotated."""
        outputs = torch.arange(self.shared, device=device)
        return torch.cat([outputs[::2], outputs[1::2]]) if self.regrouped else outputs
