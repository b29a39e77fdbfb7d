import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling import CheckpointError, NeuronStatistics, TopK

LAYERS, WIDTHS = 2, {"ffn": 5, "q": 4}
RULE = TopK(ffn=2, attention=1)
NOTHING = NeuronStatistics.of_nothing(WIDTHS, LAYERS, RULE.rule())


def importance(documents: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.rand(documents, LAYERS, width, generator=generator) for site, width in WIDTHS.items()}


def statistics(found: dict[str, torch.Tensor]) -> NeuronStatistics:
    documents = next(iter(found.values())).shape[0]
    return NeuronStatistics.of_batch(found, RULE.votes(found), 7 * documents, RULE.rule())


some = st.builds(importance, st.integers(1, 4), st.integers(0, 99)).map(statistics)


def assert_same(a: NeuronStatistics, b: NeuronStatistics) -> None:
    assert (a.documents, a.tokens, a.rule) == (b.documents, b.tokens, b.rule)
    for site in WIDTHS:
        assert torch.equal(a.minimum[site], b.minimum[site])
        assert torch.equal(a.votes[site], b.votes[site])
        torch.testing.assert_close(a.sum[site], b.sum[site], rtol=1e-14, atol=0)


@given(some, some, some)
@settings(deadline=None)
def test_commutative_monoid(a, b, c):
    assert_same((a + b) + c, a + (b + c))
    assert_same(a + b, b + a)
    assert_same(a + NOTHING, a)
    assert_same(NOTHING + a, a)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_parts_add_to_the_whole(first, second, seed):
    found = importance(first + second, seed)
    parts = [{site: values[part] for site, values in found.items()} for part in (slice(first), slice(first, None))]
    assert_same(statistics(parts[0]) + statistics(parts[1]), statistics(found))


def test_of_batch():
    found = importance(3, 0)
    one = statistics(found)
    assert (one.documents, one.tokens) == (3, 21)
    assert torch.equal(one.minimum["q"], found["q"].amin(0))
    torch.testing.assert_close(one.mean("q"), found["q"].double().mean(0))
    assert one.votes["q"].sum(1).tolist() == [3, 3] and one.votes["ffn"].sum(1).tolist() == [6, 6]


def test_what_does_not_add():
    a = statistics(importance(2, 0))
    with pytest.raises(ValueError, match="different rules"):
        a + NeuronStatistics.of_nothing(WIDTHS, LAYERS, "other")
    with pytest.raises(ValueError, match="different sites"):
        a + NeuronStatistics.of_nothing({"ffn": 5}, LAYERS, a.rule)
    with pytest.raises(ValueError, match="different models"):
        a + NeuronStatistics.of_nothing({"ffn": 6, "q": 4}, LAYERS, a.rule)


@given(some)
def test_save_and_load(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("statistics") / "a.safetensors"
    a.save(path)
    loaded = NeuronStatistics.load(path)
    assert_same(loaded, a)
    assert all(torch.equal(loaded.sum[site], a.sum[site]) for site in WIDTHS)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.safetensors"
    statistics(importance(2, 0)).save(path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            NeuronStatistics.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        NeuronStatistics.load(tmp_path / "absent.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
