"""pml.retrieval and pml.cka against their definitions, written as loops over sentences and pairs."""

import pytest
import torch

from pymultiling.methods import retrieval as module
from pymultiling.methods.retrieval import cka, retrieval


def random_embeddings(
    sentences: int = 9, hidden: int = 5, noise: float = 0.7, seed: int = 0
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    meaning = torch.randn(sentences, 2, hidden, generator=generator)
    return {
        name: meaning + noise * torch.randn(sentences, 2, hidden, generator=generator) + number
        for number, name in enumerate(("a", "b", "c"))
    }


def with_missing(embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    copies = {name: values.clone() for name, values in embeddings.items()}
    copies["a"][2], copies["b"][5], copies["b"][2] = torch.nan, torch.nan, torch.nan
    return copies


def common_sentences(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = ~(a.isnan().any(1) | b.isnan().any(1))
    return a[both].double(), b[both].double()


def plain_accuracy(a: torch.Tensor, b: torch.Tensor, metric: str) -> float:
    a, b = common_sentences(a, b)
    correct = 0
    for number, source in enumerate(a):
        if metric == "cosine":
            distances = [1 - float(source @ target / (source.norm() * target.norm())) for target in b]
        else:
            distances = [float((source - target).norm()) for target in b]
        correct += distances.index(min(distances)) == number
    return correct / len(a)


def plain_cka(a: torch.Tensor, b: torch.Tensor) -> float:
    """Computes CKA from the centred kernels, as in eq. 3 and 4 of the paper."""
    a, b = common_sentences(a, b)
    centre = torch.eye(len(a)).double() - 1 / len(a)
    k, l = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre  # noqa: E741
    return float((k @ l).trace() / ((k @ k).trace() * (l @ l).trace()).sqrt())


@pytest.mark.parametrize("rows", [4096, 4])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("missing", [False, True])
def test_accuracies_are_those_of_the_definition(monkeypatch, missing, metric, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    embeddings = with_missing(random_embeddings()) if missing else random_embeddings()
    table = retrieval(embeddings, metric=metric)
    assert list(table.columns) == ["layer", "source", "target", "accuracy"] and len(table) == 2 * 6
    for row in table.itertuples():
        a, b = embeddings[row.source][:, row.layer], embeddings[row.target][:, row.layer]
        assert row.accuracy == plain_accuracy(a, b, metric)
    assert table["accuracy"].nunique() > 2  # both directions differ, and layers do


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("sentences, hidden", [(9, 5), (9, 9), (9, 30), (40, 3)])
def test_cka_is_that_of_the_definition(sentences, hidden, missing):
    embeddings = random_embeddings(sentences, hidden)
    embeddings = with_missing(embeddings) if missing else embeddings
    table = cka(embeddings)
    assert list(table.columns) == ["layer", "source", "target", "cka"] and len(table) == 2 * 6
    for row in table.itertuples():
        expected = plain_cka(embeddings[row.source][:, row.layer], embeddings[row.target][:, row.layer])
        assert row.cka == pytest.approx(expected, abs=1e-12)


def test_cka_of_a_rotated_scaled_copy_is_1():
    a = random_embeddings(30, 6)["a"]
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double())[0]
    assert cka({"a": a.double(), "b": 3 * a.double() @ turn + 5})["cka"].tolist() == pytest.approx([1] * 4)


def test_a_large_mean_changes_nothing():
    """The mean is subtracted before values are squared."""
    near = {name: values.double() for name, values in random_embeddings(noise=0.05).items()}
    far = {name: values + 1e5 for name, values in near.items()}
    assert cka(far)["cka"].tolist() == pytest.approx(cka(near)["cka"].tolist())
    expected = retrieval(near, metric="euclidean")["accuracy"].tolist()
    assert retrieval(far, metric="euclidean")["accuracy"].tolist() == expected


def test_equal_sentences_have_chance_accuracy_and_no_cka():
    same = {"a": torch.ones(4, 1, 3), "b": torch.ones(4, 1, 3)}
    assert retrieval(same)["accuracy"].tolist() == [0.25, 0.25]
    assert cka(same)["cka"].isna().all()
    thirds = torch.randn(1, 1, 5, dtype=torch.float64).repeat(17, 1, 1) / 3  # whose mean is rounded
    assert cka({"a": thirds, "b": thirds})["cka"].isna().all()


def test_languages_without_a_common_sentence_have_nan():
    a, b = torch.randn(4, 1, 3), torch.randn(4, 1, 3)
    a[:2], b[2:] = torch.nan, torch.nan
    assert retrieval({"a": a, "b": b})["accuracy"].isna().all() and cka({"a": a, "b": b})["cka"].isna().all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="metric must be one of cosine, euclidean, got 'dot'"):
        retrieval(random_embeddings(), metric="dot")
    for compare in (retrieval, cka):
        with pytest.raises(ValueError, match="at least two languages"):
            compare({"a": torch.ones(4, 1, 3)})
        with pytest.raises(ValueError, match="same number of sentences in every language, got \\[4, 5\\]"):
            compare({"a": torch.ones(4, 1, 3), "b": torch.ones(5, 1, 3)})
