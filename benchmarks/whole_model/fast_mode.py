"""Compares the fast estimate of the importance of q and k with the exact importance, in accuracy and time.

    python -m benchmarks.whole_model.fast_mode [--documents N]

The inputs are documents of the demo model's languages, random projections, and numerically difficult inputs. Only for
the difficult inputs the exact importance is computed in float64. The neurons of a site, layer and document are ranked
together. The times are those of one layer, with both modes measured alternately.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

import pandas
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from benchmarks.operators.attention import attention, rotate
from benchmarks.operators.shapes import Shape
from pymultiling import demo_model
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.ops import qk_importance
from pymultiling.probes import qk
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.runtime.alternating import alternate, ratio

LENGTHS = (128, 256, 512)
TOP = 0.05  # fraction of the neurons in the sets that are compared
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of qk_importance
# How the columns of `compare` are printed; the others are text.
FORMATS = {
    **dict.fromkeys(("rank corr. min", "1%", "median"), "{:.5f}".format),
    "error median": "{:.2%}".format,
    "error 99%": "{:.1%}".format,
    **dict.fromkeys(("within 2 spreads", "Jaccard"), "{:.3f}".format),
}


def recorded_arguments(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Mapping[str, Iterable[str]],
    length: int,
    documents: int,
) -> Iterator[Arguments]:
    """Yields the arguments that the probe passes to qk_importance for packed documents of several languages.

    Args:
        model: a model.
        tokenizer: its tokenizer.
        corpora: {language: texts}.
        length: tokens of a document.
        documents: number of documents of all languages together.

    Yields:
        The arguments of one layer for a batch of at most 8 documents.
    """
    per_language = -(-documents // len(corpora))
    texts = (tokenise(lines, tokenizer, length, CorpusReport(), pack=length) for lines in corpora.values())
    tokens = torch.tensor([document for packed in texts for document in islice(packed, per_language)][:documents])
    recorded: list[Arguments] = []  # one entry for each layer

    def record(*arguments: Any, mode: str, **settings: Any) -> object:
        recorded.append((arguments, settings))
        return qk_importance(*arguments, mode=mode, **settings)

    original = qk.qk_importance
    qk.qk_importance = record
    try:
        with ImportanceProbe(model, ("q", "k"), qk="fast") as probe:
            for batch in tokens.split(8):
                recorded.clear()
                probe.measure(batch)
                yield from recorded
    finally:
        qk.qk_importance = original


def rotated_arguments(q: Tensor, k: Tensor, base: float = 1e4) -> Arguments:
    """Returns the arguments for q (B, H, l, d) and k (B, K, l, d), which are not rotated yet. `base` is RoPE's."""
    length, size = q.shape[2:]
    angles = torch.arange(length)[:, None] * base ** -(torch.arange(0, size, 2) / size)
    cos, sin = (table.repeat(1, 2)[None] for table in (angles.cos(), angles.sin()))
    return (rotate(q, cos, sin), rotate(k, cos, sin), q, k, cos, sin), {"scale": size**-0.5}


def random_heads(length: int, size: int, documents: int) -> tuple[Tensor, Tensor]:
    """Returns random q (documents, 4, length, size) and k (documents, 2, length, size), the same in every call."""
    torch.manual_seed(0)
    return torch.randn(documents, 4, length, size), torch.randn(documents, 2, length, size)


def difficult_inputs(documents: int) -> Iterator[tuple[str, Arguments]]:
    """Yields (name, arguments of qk_importance) of numerically difficult inputs. `documents` is the batch size."""
    for factor in (5, 30):
        q, k = random_heads(256, 64, documents)
        yield f"attention scores x {factor}", rotated_arguments(factor * q, k)
    q, k = random_heads(256, 64, documents)
    yield "key bias of 300, all dimensions", rotated_arguments(q, k + 300 * torch.randn(2, 1, 64).sign())
    bias = torch.zeros(64)
    bias[5], bias[40] = 300, -300
    yield "key bias of 300, two dimensions", rotated_arguments(q, k + bias)
    q, k = random_heads(256, 64, documents)  # new tensors, because the inputs above contain the previous ones
    q[..., 3], k[..., 3] = 60, torch.linspace(-1, 1, 256).square()
    yield "one dominating neuron", rotated_arguments(q, k)
    q, k = random_heads(256, 128, documents)
    direction = torch.randn(128)
    k[:, :, 0] = 24 * direction / direction.norm()
    yield "attention sink on key 0, d = 128", rotated_arguments(q + 1.5 * direction, k, base=5e5)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Returns Spearman's rank correlation over the last dimension."""
    a, b = (x.argsort(-1).argsort(-1).double() - (x.shape[-1] - 1) / 2 for x in (a, b))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Returns the Jaccard index of the top neurons over the last dimension."""
    count = max(1, round(TOP * a.shape[-1]))
    in_a, in_b = (torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.topk(count).indices, True) for x in (a, b))
    return (in_a & in_b).sum(-1) / (in_a | in_b).sum(-1)


def to_float64(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the arguments with all floating point tensors in float64."""
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)


def compare(name: str, inputs: Iterable[Arguments], in_float64: bool = False) -> Iterator[dict[str, Any]]:
    """Compares the estimate with the exact importance, over all inputs together.

    Args:
        name: name of the inputs in the table.
        inputs: the arguments of each call of qk_importance.
        in_float64: whether the exact importance is computed in float64.

    Yields:
        A row for q and a row for k: the names, and numbers.
    """
    measured: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {"q": [], "k": []}
    for arguments, settings in inputs:
        q_and_k = qk_importance(*(to_float64(arguments) if in_float64 else arguments), **settings)
        fast = qk_importance(*arguments, **settings, mode="fast")
        measured["q"].append((fast.q.double(), q_and_k[0].double(), fast.q_error.double()))
        measured["k"].append((fast.k.double(), q_and_k[1].double(), fast.k_error.double()))
    for site, parts in measured.items():
        estimate, exact, spread = (torch.cat(tensors) for tensors in zip(*parts))
        correlation = rank_correlation(estimate, exact)
        upper_half = exact >= exact.median(-1, keepdim=True).values
        relative = ((estimate - exact).abs() / exact)[upper_half]
        yield {
            "input": name,
            "site": site,
            "rank corr. min": correlation.min().item(),
            "1%": correlation.quantile(0.01).item(),
            "median": correlation.median().item(),
            "error median": relative.median().item(),
            "error 99%": relative.quantile(0.99).item(),
            "within 2 spreads": ((estimate - exact).abs() <= 2 * spread).double().mean().item(),
            "Jaccard": overlap(estimate, exact).mean().item(),
        }


def measure_times(length: int) -> dict[str, object]:
    """Returns a row with the times of both modes for one layer."""
    problem = attention(Shape("", hidden=1024, layers=1, heads=16, kv_heads=4, ffn=1, length=length))
    runs = {mode: lambda mode=mode: qk_importance(**problem._asdict(), mode=mode) for mode in ("exact", "fast")}
    seconds = alternate(runs, 15 if length <= 512 else 5)
    return {
        "l": length,
        "threads": torch.get_num_threads(),
        **{f"{mode}, ms": round(1e3 * statistics.median(seconds[mode]), 1) for mode in runs},
        "fast / exact": round(ratio(seconds, "fast", "exact"), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--documents", type=int, default=16, help="documents for the demo model at each length (%(default)s)"
    )
    documents = parser.parse_args().documents
    print(pandas.DataFrame([measure_times(length) for length in (256, 512, 2048)]).to_string(index=False), flush=True)
    rows: list[dict[str, Any]] = []
    model, tokenizer = demo_model.load()
    for length in LENGTHS:
        inputs = recorded_arguments(model, tokenizer, demo_model.corpora(), length, documents)
        rows += compare(f"demo model, l = {length}", inputs)
    for length, size in ((256, 64), (512, 64), (256, 128), (512, 128)):
        rows += compare(f"random, l = {length}, d = {size}", [rotated_arguments(*random_heads(length, size, 8))])
    for name, arguments in difficult_inputs(documents=2):
        rows += compare(name, [arguments], in_float64=True)
    print("\n" + pandas.DataFrame(rows).to_string(index=False, formatters=FORMATS))


if __name__ == "__main__":
    main()
