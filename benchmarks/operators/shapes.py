"""The shapes of layers that the benchmarks use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, and the length of a document.

    Attributes:
        name: label in tables and test ids.
        hidden: width of the hidden states.
        layers: number of layers.
        heads: number of query heads.
        kv_heads: number of key/value heads.
        ffn: number of neurons of an FFN.
        length: tokens of a document.
    """

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
