"""The shapes that every benchmark takes its own from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder and a batch of one document."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    length: int

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


SHAPES = [
    Shape("1k-256", hidden=1024, layers=8, heads=16, kv_heads=4, ffn=2816, length=256),
    Shape("1k-512", hidden=1024, layers=8, heads=16, kv_heads=4, ffn=2816, length=512),
]
