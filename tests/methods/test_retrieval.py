"""Retrieval and CKA compared with their definitions, a sentence and a pair at a time."""

import pytest
import torch

from pymultiling.methods import retrieval as module
from pymultiling.methods.retrieval import cka, retrieval


def drawn(sentences: int = 9, hidden: int = 5, noise: float = 0.7, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    meaning = torch.randn(sentences, 2, hidden, generator=generator)
    return {
        name: meaning + noise * torch.randn(sentences, 2, hidden, generator=generator) + number
        for number, name in enumerate(("a", "b", "c"))
    }


def with_holes(embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name: one.clone() for name, one in embeddings.items()}
    found["a"][2], found["b"][5], found["b"][2] = torch.nan, torch.nan, torch.nan
    return found


def common(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = ~(a.isnan().any(1) | b.isnan().any(1))
    return a[both].double(), b[both].double()


def plain_accuracy(a: torch.Tensor, b: torch.Tensor, metric: str) -> float:
    a, b = common(a, b)
    right = 0
    for number, one in enumerate(a):
        if metric == "cosine":
            distances = [1 - float(one @ other / (one.norm() * other.norm())) for other in b]
        else:
            distances = [float((one - other).norm()) for other in b]
        right += distances.index(min(distances)) == number
    return right / len(a)


def plain_cka(a: torch.Tensor, b: torch.Tensor) -> float:
    """From the centred kernels, as eq. 3 and 4 of the paper have it."""
    a, b = common(a, b)
    centre = torch.eye(len(a)).double() - 1 / len(a)
    k, l = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre  # noqa: E741
    return float((k @ l).trace() / ((k @ k).trace() * (l @ l).trace()).sqrt())


@pytest.mark.parametrize("rows", [4096, 4])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("holes", [False, True])
def test_accuracy_is_that_of_the_definition(monkeypatch, holes, metric, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    embeddings = with_holes(drawn()) if holes else drawn()
    table = retrieval(embeddings, metric=metric)
    assert list(table.columns) == ["layer", "source", "target", "accuracy"] and len(table) == 2 * 6
    for row in table.itertuples():
        a, b = embeddings[row.source][:, row.layer], embeddings[row.target][:, row.layer]
        assert row.accuracy == plain_accuracy(a, b, metric)
    assert table["accuracy"].nunique() > 2  # both directions differ, and layers do


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("sentences, hidden", [(9, 5), (9, 9), (9, 30), (40, 3)])
def test_cka_is_that_of_the_definition(sentences, hidden, holes):
    embeddings = drawn(sentences, hidden)
    embeddings = with_holes(embeddings) if holes else embeddings
    table = cka(embeddings)
    assert list(table.columns) == ["layer", "source", "target", "cka"] and len(table) == 2 * 6
    for row in table.itertuples():
        truth = plain_cka(embeddings[row.source][:, row.layer], embeddings[row.target][:, row.layer])
        assert row.cka == pytest.approx(truth, abs=1e-12)


def test_rotation_and_scale_do_not_matter_to_cka():
    a = drawn(30, 6)["a"]
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double())[0]
    assert cka({"a": a.double(), "b": 3 * a.double() @ turn + 5})["cka"].tolist() == pytest.approx([1] * 4)


def test_a_large_mean_does_not_matter():
    """What the mean of a layer adds is taken away before squares are."""
    near = drawn(noise=0.05)
    far = {name: one.double() + 1e5 for name, one in near.items()}
    assert cka(far)["cka"].tolist() == pytest.approx(cka({n: one.double() for n, one in near.items()})["cka"].tolist())
    truth = retrieval({n: one.double() for n, one in near.items()}, metric="euclidean")["accuracy"].tolist()
    assert retrieval(far, metric="euclidean")["accuracy"].tolist() == truth


def test_sentences_that_are_all_the_same():
    same = {"a": torch.ones(4, 1, 3), "b": torch.ones(4, 1, 3)}
    assert retrieval(same)["accuracy"].tolist() == [0.25, 0.25]
    assert cka(same)["cka"].isna().all()
    thirds = torch.randn(1, 1, 5, dtype=torch.float64).repeat(17, 1, 1) / 3  # whose mean is rounded
    assert cka({"a": thirds, "b": thirds})["cka"].isna().all()


def test_languages_without_a_common_sentence():
    a, b = torch.randn(4, 1, 3), torch.randn(4, 1, 3)
    a[:2], b[2:] = torch.nan, torch.nan
    assert retrieval({"a": a, "b": b})["accuracy"].isna().all() and cka({"a": a, "b": b})["cka"].isna().all()


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="metric must be one of cosine, euclidean, got 'dot'"):
        retrieval(drawn(), metric="dot")
    for compare in (retrieval, cka):
        with pytest.raises(ValueError, match="at least two languages"):
            compare({"a": torch.ones(4, 1, 3)})
        with pytest.raises(ValueError, match="same number of sentences in every language, got \\[4, 5\\]"):
            compare({"a": torch.ones(4, 1, 3), "b": torch.ones(5, 1, 3)})
