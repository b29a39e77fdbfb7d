"""Inputs of every operator at the sizes of a layer. Each operator has a function here with the operator's name.

The inputs are used to time operators on the CPU (bench_operators.py) and on a GPU (gpu/operators.py), and to compare
operators with float64 (gpu/errors.py). A test checks that every operator of the registry has a function here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.operators.attention import CPU, attention
from benchmarks.operators.shapes import Shape
from pymultiling import ops
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.sums import upcast


def make_inputs(operator: str, layer: "Layer") -> Iterator["Input"]:
    """Yields the inputs of an operator for a layer, from the function of this module that has the operator's name."""
    yield from globals()[operator](layer)


@dataclass(frozen=True)
class Input:
    """One input of an operator.

    Attributes:
        arguments: the arguments of the operator's reference, in its order.
        size: text that shows the input's size in tables of running times, such as "4096 x 11008".
        variant: how it differs from the operator's first input, as text; "" for the first.
        timed: whether the operator is timed with this input. On the CPU it is timed with the first such input only.
        compared: whether the operator is compared with float64 for this input.
        loops: whether the reference loops in Python. It then takes seconds, and torch.compile would unroll it.
    """

    arguments: tuple
    size: str
    variant: str = ""
    timed: bool = True
    compared: bool = True
    loops: bool = False


@dataclass(frozen=True)
class Layer:
    """The sizes and options that inputs are made from.

    Attributes:
        shape: the sizes of the layer.
        documents: number of documents of the batch.
        ids: (tokens,), the document of every token.
        sets: number of sets of masked neurons.
        set_ids: (tokens,), the set of every token.
        dtype: dtype of the floating point tensors.
        device: device of all tensors.
        masked: fraction of the neurons that a set masks.
        change: returns a changed matrix, to make inputs that are numerically difficult.
        change_heads: changes q and k before the rotation, in place.
        padded: whether the first third of the first document is padding.
    """

    shape: Shape
    documents: int
    ids: Tensor
    sets: int
    set_ids: Tensor
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    masked: float = 0.01
    change: Callable[[Tensor], Tensor] = lambda x: x
    change_heads: Callable[[Tensor, Tensor], None] = lambda q, k: None
    padded: bool = False

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def grouped(self) -> tuple[Tensor, int, Tensor, Tensor | None]:
        """The documents, as operators that sum over each document take them."""
        documents = ops.group_tokens(self.ids, self.documents)
        return documents.ids, documents.count, documents.offsets, documents.order

    def matrix(self, width: int, rows: int | None = None) -> Tensor:
        """Returns a random matrix, by default with a row for every token."""
        return self.change(torch.randn(rows or self.tokens, width, device=self.device, dtype=self.dtype))

    def masks(self, width: int) -> Tensor:
        """Returns (sets, width) random masks."""
        return torch.rand(self.sets, width, device=self.device) < self.masked

    def attention(self) -> QKProblem:
        """Returns random inputs of attention."""
        problem = attention(self.shape, self.documents, self.dtype, self.device, self.change_heads)
        if self.padded:
            problem.valid[0, : self.shape.length // 3] = False
        return problem

    @property
    def attention_size(self) -> str:
        """The size of attention, as text for tables of running times."""
        return f"{self.documents} x {self.shape.heads} heads, {self.shape.length} x {self.shape.length}"


def active_count(layer: Layer) -> Iterator[Input]:
    gate = layer.matrix(layer.shape.ffn)
    yield Input((gate, *layer.grouped), _size(gate))


def centred_importance(layer: Layer) -> Iterator[Input]:
    problem, size = layer.attention(), layer.shape.head_size
    raw = (x.transpose(1, 2).flatten(2) for x in (problem.q_plain, problem.k_plain))
    weights = (torch.ones(size, device=layer.device, dtype=layer.dtype) for _ in range(2))
    arguments = (problem.q, problem.k, *raw, *weights, 1e-5, 1e-5, problem.cos, problem.sin, problem.valid)
    yield Input((*arguments, problem.scale, None, None, False), layer.attention_size, loops=True)


def column_energy(layer: Layer) -> Iterator[Input]:
    for width in (layer.shape.ffn, layer.shape.hidden):
        x = layer.matrix(width)
        # The widths differ in the number of columns, which are computed alike, so that one is enough to compare.
        yield Input((x, *layer.grouped), _size(x), compared=width == layer.shape.ffn)


def gated_ffn(layer: Layer) -> Iterator[Input]:
    gate, up = layer.matrix(layer.shape.ffn), layer.matrix(layer.shape.ffn)
    ids, count, *grouped = layer.grouped
    yield Input((gate, up, "silu", ids, count, None, None, *grouped), _size(gate))
    masks = layer.masks(layer.shape.ffn)
    yield Input(
        (gate, up, "silu", ids, count, masks, layer.set_ids, *grouped), f"{_size(gate)}, {layer.sets} masks", "masks"
    )


def mask_neurons(layer: Layer) -> Iterator[Input]:
    x = layer.matrix(layer.shape.ffn)
    yield Input((x, layer.masks(layer.shape.ffn), layer.set_ids), f"{_size(x)}, {layer.sets} masks")


mask_neurons_ = mask_neurons


def nearest_neighbors(layer: Layer) -> Iterator[Input]:
    # As ILO compares sentences: the 5 nearest neighbours among 1,012 sentences in each of 31 languages, by hidden
    # states of the demo model, which have 224 numbers. If the batch has 4,096 tokens there are about as many points.
    # They are only timed; with float64 the fewer points below are compared.
    points = layer.matrix(224, 8 * layer.tokens)
    yield Input((points, 5, "cosine"), f"{_size(points)}, 5 neighbours", compared=False, loops=True)
    hidden = layer.matrix(layer.shape.hidden)
    for metric in ("cosine", "euclidean"):
        yield Input((hidden, 5, metric), _size(hidden), metric, timed=False)


def normed_energy(layer: Layer) -> Iterator[Input]:
    """Value neurons of an attention block whose output is normalised, and the neurons of such an FFN."""
    shape = layer.shape
    multiplier = torch.rand(shape.hidden, device=layer.device, dtype=layer.dtype)
    ids, count, *grouped = layer.grouped

    def make(inputs: int, heads: int, size: int, columns: bool, variant: str) -> Input:
        x, weight = layer.matrix(inputs), layer.matrix(inputs, shape.hidden)
        scaled = upcast(weight) * upcast(multiplier)[:, None]
        grams = (ops.value_gram(w, heads, size) for w in (weight, scaled))
        arguments = (x, x @ weight.T, weight, multiplier, *grams, 1e-6, ids, count, columns, *grouped)
        return Input(arguments, ", ".join(filter(None, (f"{_size(x)} to {shape.hidden}", variant))), variant)

    yield make(shape.mixed, shape.kv_heads, shape.head_size, False, "")
    yield make(shape.mixed, shape.kv_heads, shape.head_size, True, "with columns")
    yield make(shape.ffn, shape.ffn, 1, False, "ffn")


def normed_value_energy(layer: Layer) -> Iterator[Input]:
    """Value neurons whose values pass a norm, with a norm behind the attention and without."""
    problem, shape, size = layer.attention(), layer.shape, layer.shape.head_size
    x = torch.randn(layer.documents, shape.kv_heads, shape.length, size, device=layer.device)
    r2 = x.square().mean(-1, keepdim=True)
    v, growth = (x / r2.sqrt()).to(layer.dtype), (r2 / (r2 - x.square() / size)).sqrt() - 1
    tensors = problem.q, problem.k, v, growth, layer.matrix(shape.mixed, shape.hidden), problem.valid, None, None
    output = layer.matrix(shape.hidden, layer.documents * shape.length).view(layer.documents, shape.length, -1)
    norm = output, torch.ones(shape.hidden, device=layer.device)
    for behind, variant in ((norm, ""), ((None, None), "no norm behind")):
        arguments = (*tensors, *behind, 1e-6, problem.scale, None, None, True)
        yield Input(arguments, layer.attention_size, variant, loops=True)


def qk_estimate(layer: Layer) -> Iterator[Input]:
    yield Input((layer.attention(),), layer.attention_size, loops=True)


qk_importance = qk_estimate


def value_energy(layer: Layer) -> Iterator[Input]:
    shape, x = layer.shape, layer.matrix(layer.shape.mixed)
    group = shape.heads // shape.kv_heads
    columns = torch.randn(shape.kv_heads, shape.head_size, group, 2 * group, device=layer.device)
    yield Input((x, columns @ columns.mT, *layer.grouped), _size(x))


def value_gram(layer: Layer) -> Iterator[Input]:
    shape = layer.shape
    weight = layer.matrix(shape.mixed, shape.hidden)
    # Not compared: its error is relative to the lengths of the columns (registry), not to each value.
    yield Input((weight, shape.kv_heads, shape.head_size), _size(weight), compared=False)


def whole_norm_importance(layer: Layer) -> Iterator[Input]:
    """Query and key neurons with a norm over all heads.

    r^2 = sum_i x_i^2 / D is the mean square of the D neurons of all heads. Zeroing neuron n multiplies the other
    normalised neurons by 1 + t_n, t_n = sqrt(r^2 / (r^2 - x_n^2 / D)) - 1. This is about x_n^2 / (2 D r^2), so about
    1 / (2 D) for random x.
    """
    problem = layer.attention()
    squares = (x.transpose(1, 2).flatten(2).square() for x in (problem.q_plain, problem.k_plain))
    q_rescale, k_rescale = (s / s.sum(-1, keepdim=True) / 2 for s in squares)  # t, by the approximation above
    own = ops.qk_importance(**problem._asdict())
    arguments = (problem.q, problem.k, q_rescale, k_rescale, problem.valid, problem.scale, None, None, *own)
    yield Input(arguments, layer.attention_size, loops=True)


def _size(x: Tensor) -> str:
    """Returns the size of a matrix as text."""
    return f"{len(x)} x {x.shape[1]}"
