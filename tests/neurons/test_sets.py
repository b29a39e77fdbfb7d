import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling import SITES, CheckpointError, NeuronSet, NeuronStatistics
from pymultiling.neurons.sets import FORMAT
from pymultiling.runtime.storage import read_metadata

LAYERS, WIDTHS = 3, {"ffn": 7, "q": 4, "k": 2, "v": 2, "o": 4}


def random_set(seed: int, *sites: str) -> NeuronSet:
    generator = torch.Generator().manual_seed(seed)
    return NeuronSet({site: torch.rand(LAYERS, WIDTHS[site], generator=generator) < 0.4 for site in sites or SITES})


def members(neurons: NeuronSet) -> set[tuple[str, int, int]]:
    return {(site, *index) for site, mask in neurons.sites.items() for index in mask.nonzero().tolist()}


any_set = st.builds(
    lambda seed, sites: random_set(seed, *sites), st.integers(0, 99), st.sets(st.sampled_from(SITES), min_size=1)
)


@given(any_set, any_set)
def test_operators_are_those_of_sets(a, b):
    assert members(a | b) == members(a) | members(b)
    assert members(a & b) == members(a) & members(b)
    assert members(a - b) == members(a) - members(b)
    assert members(a ^ b) == members(a) ^ members(b)
    assert (a == b) == (members(a) == members(b))
    assert len(a) == len(members(a))


def test_sets_of_different_models_cannot_be_combined():
    with pytest.raises(ValueError, match="different models"):
        random_set(0) | NeuronSet({"q": torch.zeros(LAYERS, 5, dtype=torch.bool)})


def test_counts_agree_with_the_masks_and_subsets_with_the_members():
    a = random_set(1)
    assert sum(a.count("site").values()) == sum(map(sum, a.count("layer").values())) == len(a)
    assert a.count() == {site: int(a.sites[site].sum()) for site in SITES}
    assert members(a.only("q", "ffn")) == {neuron for neuron in members(a) if neuron[0] in ("q", "ffn")}
    assert members(a.layers(1, 3)) == {neuron for neuron in members(a) if 1 <= neuron[1] < 3}
    assert len(a.layers(1, 1)) == 0


def test_the_repr_begins_with_the_number_of_neurons():
    a = random_set(1)
    assert repr(a).startswith(f"NeuronSet({len(a)} neurons: ffn ")


def test_unknown_sites_and_kinds_of_count_are_refused():
    a = random_set(1)
    with pytest.raises(ValueError, match="site"):
        a.count("neuron")
    with pytest.raises(ValueError, match="unknown site"):
        a.only("z")


def test_by_expert_has_the_members_by_layer_expert_and_index():
    a = NeuronSet({"ffn": random_set(2, "ffn").sites["ffn"][:, :6]})
    by_expert = a.by_expert(3)
    assert by_expert.shape == (LAYERS, 3, 2)
    by_index = {("ffn", layer, 2 * expert + index) for layer, expert, index in by_expert.nonzero().tolist()}
    assert by_index == members(a) and NeuronSet({"ffn": by_expert.flatten(1)}) == a
    for neurons, experts, width in ((a, 4, "6 ffn neurons a layer"), (a, 0, "6 ffn"), (a.only("q"), 7, "6 ffn")):
        with pytest.raises(ValueError, match=f"has {width}.* cannot be split among {experts} experts"):
            neurons.by_expert(experts)
    with pytest.raises(ValueError, match="no ffn neurons"):
        random_set(2, "q").by_expert(1)


@given(any_set, st.integers(0, 99))
def test_random_like_keeps_the_counts_and_depends_on_the_seed_alone(a, seed):
    drawn = a.random_like(seed)
    assert drawn.count("layer") == a.count("layer")
    assert drawn == a.random_like(seed)


def test_random_attention_neurons_are_drawn_from_the_layers_that_have_attention():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, :3] = True
    neurons = NeuronSet({"ffn": mask, "q": mask})
    widths = {"ffn": [5] * 4, "q": [0, 5, 0, 5]}
    sets = [neurons.random_like(seed, anywhere=True, widths=widths) for seed in range(40)]
    assert all(drawn.widths == {"q": (0, 5, 0, 5)} for drawn in sets)
    counts = torch.tensor([[drawn.count("layer")[site] for site in ("ffn", "q")] for drawn in sets])
    assert (counts.sum(-1) == 3).all()
    assert (counts.sum(0) > 0).tolist() == [[True] * 4, [False, True, False, True]]


def test_random_like_can_draw_every_neuron():
    a = NeuronSet({"ffn": torch.tensor([[True, False, False, False]])})
    assert len({tuple(a.random_like(seed).sites["ffn"][0].tolist()) for seed in range(50)}) == 4


@pytest.mark.parametrize(
    "sites, words",
    [
        ({}, "no site"),
        ({"z": torch.zeros(1, 2, dtype=torch.bool)}, "unknown site"),
        ({"q": torch.zeros(1, 2)}, "must be bool"),
        ({"q": torch.zeros(2, dtype=torch.bool)}, "must be bool"),
        ({"q": torch.zeros(1, 2, dtype=torch.bool), "k": torch.zeros(2, 2, dtype=torch.bool)}, "numbers of layers"),
    ],
)
def test_invalid_masks_are_refused(sites, words):
    with pytest.raises(ValueError, match=words):
        NeuronSet(sites)


def test_check_fits_refuses_sets_of_other_models():
    a = random_set(0)
    a.check_fits(WIDTHS, LAYERS)
    for widths, layers in (({**WIDTHS, "k": 3}, LAYERS), (WIDTHS, 4)):
        with pytest.raises(ValueError, match="another model"):
            a.check_fits(widths, layers)


@given(any_set)
def test_save_and_load_give_the_same_set(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("neurons") / "a.safetensors"
    a.save(path, language="fr")
    loaded = NeuronSet.load(path)
    assert loaded == a and list(loaded.sites) == list(a.sites)


def test_equal_sets_give_equal_files(tmp_path):
    metadata = {f"name {number}": str(number) for number in range(9)}
    files = []
    for number in range(5):
        path = tmp_path / f"{number}.safetensors"
        random_set(0).save(path, **metadata)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    assert read_metadata(path) == {"format": FORMAT, **metadata, "tensor_count": str(len(WIDTHS))}


def test_damaged_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    random_set(0).save(path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            NeuronSet.load(path)
    NeuronStatistics.of_nothing(WIDTHS, LAYERS, "any").save(path)
    with pytest.raises(CheckpointError, match="statistics"):
        NeuronSet.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        NeuronSet.load(tmp_path / "absent.safetensors")


def test_a_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    random_set(0).save(path)

    def full_disk(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pymultiling.runtime.storage.save_file", full_disk)
    with pytest.raises(OSError, match="disk full"):
        random_set(1).save(path)
    assert NeuronSet.load(path) == random_set(0)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_lape_files_have_the_indices_by_language_and_layer(tmp_path):
    """The layout is list[language][layer] of LongTensors, which weights_only=True can read."""
    sets = [random_set(0, "ffn"), random_set(1, "ffn")]
    NeuronSet.to_lape(sets, tmp_path / "a.pth")
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    assert [len(language) for language in stored] == [LAYERS, LAYERS]
    assert stored[1][2].tolist() == sets[1].sites["ffn"][2].nonzero().flatten().tolist()
    assert NeuronSet.from_lape(tmp_path / "a.pth", WIDTHS["ffn"]) == sets
