"""How near the estimate of q's and k's importance comes to the exact one, and what it saves.

    python -m benchmarks.whole_model.fast_mode [--documents N]

Documents of the embedded model's languages, random projections, and inputs made to be hostile, whose exact numbers are
those of float64. Neurons of one site, layer and document are ranked together. Times: one layer, both modes in turn.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator
from itertools import islice

import pandas
import torch
from torch import Tensor

from benchmarks.measuring.alternating import alternate, ratio
from benchmarks.operators.attention import attention, rotate
from benchmarks.operators.shapes import Shape
from pymultiling import demo_model
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.ops import qk_importance
from pymultiling.probes import qk
from pymultiling.probes.importance import ImportanceProbe

LENGTHS = (128, 256, 512)
TOP = 0.05  # of the neurons, for the sets that are compared
Layer = tuple[tuple, dict]  # positional and keyword arguments of qk_importance


def of_embedded_model(length: int, documents: int) -> Iterator[Layer]:
    """What the probe gives qk_importance, layer after layer, for `documents` of the languages in turn."""
    model, tokenizer = demo_model.load()
    corpora = demo_model.corpora()
    each = -(-documents // len(corpora))
    texts = (tokenise(lines, tokenizer, length, CorpusReport(), pack=length) for lines in corpora.values())
    tokens = torch.tensor([document for packed in texts for document in islice(packed, each)][:documents])
    seen: list[Layer] = []

    def listen(*arguments, mode, **settings):
        seen.append((arguments, settings))
        return qk_importance(*arguments, mode=mode, **settings)

    qk.qk_importance, own = listen, qk.qk_importance
    try:
        with ImportanceProbe(model, ("q", "k"), qk="fast") as measuring:
            for one in tokens.split(8):
                seen.clear()
                measuring.measure(one)
                yield from seen
    finally:
        qk.qk_importance = own


def rotated(q: Tensor, k: Tensor, base: float = 1e4) -> Layer:
    length, size = q.shape[2:]
    angles = torch.arange(length)[:, None] * base ** -(torch.arange(0, size, 2) / size)
    cos, sin = (table.repeat(1, 2)[None] for table in (angles.cos(), angles.sin()))
    return (rotate(q, cos, sin), rotate(k, cos, sin), q, k, cos, sin), {"scale": size**-0.5}


def random_heads(length: int, size: int, documents: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(documents, 4, length, size), torch.randn(documents, 2, length, size)


def hostile(documents: int) -> Iterator[tuple[str, Layer]]:
    for factor in (5, 30):
        q, k = random_heads(256, 64, documents)
        yield f"scores x {factor}", rotated(factor * q, k)
    q, k = random_heads(256, 64, documents)
    yield "key bias of 300, all dimensions", rotated(q, k + 300 * torch.randn(2, 1, 64).sign())
    bias = torch.zeros(64)
    bias[5], bias[40] = 300, -300
    yield "key bias of 300, two dimensions", rotated(q, k + bias)
    q[..., 3], k[..., 3] = 60, torch.linspace(-1, 1, 256).square()
    yield "one dominating neuron", rotated(q, k)
    q, k = random_heads(256, 128, documents)
    direction = torch.randn(128)
    k[:, :, 0] = 24 * direction / direction.norm()
    yield "a sink on key 0, d = 128", rotated(q + 1.5 * direction, k, base=5e5)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, over the last dimension."""
    a, b = (x.argsort(-1).argsort(-1).double() - (x.shape[-1] - 1) / 2 for x in (a, b))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Jaccard index of the top neurons."""
    count = max(1, round(TOP * a.shape[-1]))
    in_a, in_b = (torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.topk(count).indices, True) for x in (a, b))
    return (in_a & in_b).sum(-1) / (in_a | in_b).sum(-1)


def wide(arguments: tuple) -> tuple:
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)


def comparison(name: str, layers: Iterable[Layer], in_float64: bool = False) -> Iterator[dict]:
    """A row for q and one for k."""
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {"q": [], "k": []}
    for arguments, settings in layers:
        exact = qk_importance(*(wide(arguments) if in_float64 else arguments), **settings)
        fast = qk_importance(*arguments, **settings, mode="fast")
        found["q"].append((fast.q.double(), exact[0].double(), fast.q_error.double()))
        found["k"].append((fast.k.double(), exact[1].double(), fast.k_error.double()))
    for site, parts in found.items():
        value, truth, error = (torch.cat(kind) for kind in zip(*parts))
        correlation = rank_correlation(value, truth)
        upper = truth >= truth.median(-1, keepdim=True).values
        relative = ((value - truth).abs() / truth)[upper]
        yield {
            "input": name,
            "site": site,
            "rank corr. min": f"{correlation.min():.5f}",
            "1%": f"{correlation.quantile(0.01):.5f}",
            "median": f"{correlation.median():.5f}",
            "error median": f"{relative.median():.2%}",
            "error 99%": f"{relative.quantile(0.99):.1%}",
            "within 2 SE": f"{((value - truth).abs() <= 2 * error).double().mean():.3f}",
            "Jaccard": f"{overlap(value, truth).mean():.3f}",
        }


def times(length: int) -> dict:
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
    parser.add_argument("--documents", type=int, default=16, help="of the embedded model at each length (%(default)s)")
    documents = parser.parse_args().documents
    print(pandas.DataFrame([times(length) for length in (256, 512, 2048)]).to_string(index=False), flush=True)
    rows = []
    for length in LENGTHS:
        rows += comparison(f"embedded model, l = {length}", of_embedded_model(length, documents))
    for length, size in ((256, 64), (512, 64), (256, 128), (512, 128)):
        rows += comparison(f"random, l = {length}, d = {size}", [rotated(*random_heads(length, size, 8))])
    for name, layer in hostile(documents=2):
        rows += comparison(name, [layer], in_float64=True)
    print("\n" + pandas.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
