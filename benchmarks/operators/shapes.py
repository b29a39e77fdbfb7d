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
        size: dimensions of a head; None: hidden / heads.
        normed: whether a norm follows the attention and the FFN, and one each head of the queries and keys, as in
            Gemma 3.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    length: int
    size: int | None = None
    normed: bool = False

    @property
    def head_size(self) -> int:
        return self.size or self.hidden // self.heads

    @property
    def mixed(self) -> int:
        """The width of the input of o_proj: that of all heads."""
        return self.heads * self.head_size


SHAPES = [
    Shape("1k-256", hidden=1024, layers=8, heads=16, kv_heads=4, ffn=2816, length=256),
    Shape("1k-512", hidden=1024, layers=8, heads=16, kv_heads=4, ffn=2816, length=512),
]

LLAMA_31_8B = Shape("Llama-3.1-8B", hidden=4096, layers=32, heads=32, kv_heads=8, ffn=14336, length=512)
_GEMMA = {"length": 512, "size": 256, "normed": True}
GEMMA_270M = Shape("Gemma-3-270M", hidden=640, layers=18, heads=4, kv_heads=1, ffn=2048, **_GEMMA)
GEMMA_4B = Shape("Gemma-3-4B", hidden=2560, layers=34, heads=8, kv_heads=4, ffn=10240, **_GEMMA)
GEMMA_12B = Shape("Gemma-3-12B", hidden=3840, layers=48, heads=16, kv_heads=8, ffn=15360, **_GEMMA)
