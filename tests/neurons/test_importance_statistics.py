from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling import CheckpointError, NeuronStatistics, TopK
from pymultiling.runtime.storage import read_metadata

LAYERS, WIDTHS = 2, {"ffn": 5, "q": 4}
RULE = TopK(ffn=2, attention=1)
EMPTY = NeuronStatistics.of_nothing(WIDTHS, LAYERS, RULE.rule())


def importance(documents: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.rand(documents, LAYERS, width, generator=generator) for site, width in WIDTHS.items()}


def make_statistics(values: dict[str, torch.Tensor]) -> NeuronStatistics:
    documents = next(iter(values.values())).shape[0]
    return NeuronStatistics.of_batch(values, RULE.votes(values), 7 * documents, RULE.rule())


any_statistics = st.builds(importance, st.integers(1, 4), st.integers(0, 99)).map(make_statistics)


def assert_same(a: NeuronStatistics, b: NeuronStatistics) -> None:
    assert (a.documents, a.tokens, a.rule) == (b.documents, b.tokens, b.rule)
    for site in WIDTHS:
        assert torch.equal(a.minimum[site], b.minimum[site])
        assert torch.equal(a.votes[site], b.votes[site])
        assert torch.equal(a.top[site], b.top[site])
        torch.testing.assert_close(a.sum[site], b.sum[site], rtol=1e-14, atol=0)


@given(any_statistics, any_statistics, any_statistics)
@settings(deadline=None)
def test_addition_is_commutative_and_associative_with_a_neutral_element(a, b, c):
    assert_same((a + b) + c, a + (b + c))
    assert_same(a + b, b + a)
    assert_same(a + EMPTY, a)
    assert_same(EMPTY + a, a)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_statistics_of_two_batches_add_up_to_those_of_all_documents(first, second, seed):
    whole = importance(first + second, seed)
    parts = [{site: values[part] for site, values in whole.items()} for part in (slice(first), slice(first, None))]
    assert_same(make_statistics(parts[0]) + make_statistics(parts[1]), make_statistics(whole))


def test_of_batch_has_the_counts_minima_means_and_votes_of_its_documents():
    values = importance(3, 0)
    statistics = make_statistics(values)
    assert (statistics.documents, statistics.tokens) == (3, 21)
    assert torch.equal(statistics.minimum["q"], values["q"].amin(0))
    torch.testing.assert_close(statistics.mean("q"), values["q"].double().mean(0))
    assert statistics.votes["q"].sum(1).tolist() == [3, 3] and statistics.votes["ffn"].sum(1).tolist() == [6, 6]


def test_the_sum_with_statistics_of_an_earlier_version_has_no_ranks():
    a = make_statistics(importance(2, 0))
    earlier = replace(a, top={})
    assert (a + earlier).top == (earlier + a).top == (earlier + EMPTY).top == {}
    assert torch.equal((a + earlier).votes["ffn"], 2 * a.votes["ffn"])


def test_files_of_an_earlier_version_load_without_ranks(tmp_path):
    """They have a tensor for each of sum, minimum and votes, and the number of their tensors in the metadata."""
    path, a = tmp_path / "a.safetensors", make_statistics(importance(2, 0))
    replace(a, top={}).save(path)
    assert read_metadata(path)["tensor_count"] == "6"
    loaded = NeuronStatistics.load(path)
    assert loaded.top == {} and torch.equal(loaded.votes["q"], a.votes["q"])


def test_statistics_of_different_rules_sites_or_models_cannot_be_added():
    a = make_statistics(importance(2, 0))
    with pytest.raises(ValueError, match="different rules"):
        a + NeuronStatistics.of_nothing(WIDTHS, LAYERS, "other")
    with pytest.raises(ValueError, match="different sites"):
        a + NeuronStatistics.of_nothing({"ffn": 5}, LAYERS, a.rule)
    with pytest.raises(ValueError, match="different models"):
        a + NeuronStatistics.of_nothing({"ffn": 6, "q": 4}, LAYERS, a.rule)


@given(any_statistics)
def test_save_and_load_give_the_same_statistics(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("statistics") / "a.safetensors"
    a.save(path)
    loaded = NeuronStatistics.load(path)
    assert_same(loaded, a)
    assert all(torch.equal(loaded.sum[site], a.sum[site]) for site in WIDTHS)


def test_damaged_and_absent_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    make_statistics(importance(2, 0)).save(path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            NeuronStatistics.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        NeuronStatistics.load(tmp_path / "absent.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
