import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.results import plots


def random_set(layers: int, seed: int) -> pml.NeuronSet:
    generator = torch.Generator().manual_seed(seed)
    return pml.NeuronSet({site: torch.rand(layers, 40, generator=generator) < 0.1 for site in pml.SITES})


@pytest.mark.parametrize("layers", [1, 6, 80])
def test_neurons_by_layer_shows_percentages_by_site(tmp_path, layers):
    sets = {f"l{seed}": random_set(layers, seed) for seed in range(8)}
    figure = plots.neurons_by_layer(sets, "Neurons")
    panels = figure.axes[:5]
    for axes, site in zip(panels, pml.SITES):
        shown = axes.images[0].get_array()
        assert shown.shape == (8, layers)
        assert shown[3].tolist() == pytest.approx([100 * count / 40 for count in sets["l3"].count("layer")[site]])
    assert panels[-1].get_xlabel() == "layer" and "%" in figure.axes[5].get_ylabel()
    plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_empty_sets_can_be_plotted(tmp_path):
    empty = pml.NeuronSet({"ffn": torch.zeros(2, 4, dtype=torch.bool)})
    plots.save(plots.neurons_by_layer({"fr": empty}, "Neurons"), tmp_path / "a.png")


@pytest.mark.parametrize("lowest, low", [(-0.001, 0), (-0.5, -1)])
def test_the_scale_of_ablation_is_symmetric_only_with_gains(tmp_path, lowest, low):
    """The scale starts at zero if all changes are positive, or if the negative ones (gains) are small."""
    change = pandas.DataFrame({"fr": [1.0, 0.0], "de": [lowest, 0.5]}, index=["fr", "de"])
    figure = plots.ablation(change)
    axes = figure.axes[0]
    assert axes.images[0].get_clim() == (low, 1)
    assert {text.get_text() for text in axes.texts} >= {"+1.00", "+0.50", "+0.00"}
    assert len(axes.patches) == 2  # the frames of the languages' own neurons
    plots.save(figure, tmp_path / "a.png")


def test_ablation_shows_the_mean_and_the_range_of_random_sets_in_one_row():
    change = pandas.DataFrame({"fr": [1.0, 0.1, 0.3]}, index=["fr", "random 1 as fr", "random 2 as fr"])
    axes = plots.ablation(change).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fr", "random as fr"]
    assert [text.get_text() for text in axes.texts] == ["+1.00", "+0.20\n+0.10 to +0.30"]
    assert len(axes.patches) == 2
    axes = plots.ablation(change.iloc[:2]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["+1.00", "+0.10"]  # one draw has no range


def test_overlap_shows_the_numbers_of_shared_neurons(tmp_path):
    sets = {f"l{seed}": random_set(3, seed) for seed in range(3)}
    figure = plots.overlap(*pml.overlap(sets))
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} >= {str(len(sets["l0"])), str(len(sets["l0"] & sets["l2"]))}
    plots.save(figure, tmp_path / "a.png")
    plots.save(plots.overlap(*pml.overlap({"one": sets["l0"]})), tmp_path / "b.png")


def test_mwork_has_a_panel_for_each_task_and_a_bar_for_each_setting(tmp_path):
    rows = [
        dict(
            understanding=True, attention=True, ffn=True, generation=True, neurons="none", d_english=0.0, d_others=0.0
        ),
        dict(
            understanding=False, attention=True, ffn=True, generation=True, neurons="own", d_english=-0.1, d_others=-1
        ),
        dict(understanding=True, attention=False, ffn=False, generation=False, neurons="own", d_english=0, d_others=-2),
    ]
    table = pandas.DataFrame([dict(row, task=task, metric="f1") for task in ("a", "b") for row in rows])
    figure = plots.mwork(table)
    assert [axes.get_title() for axes in figure.axes] == ["a, f1", "b, f1"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["understanding: own", "all but understanding: own"]
    assert sorted(bar.get_width() for bar in figure.axes[1].patches) == [-2, -1, -0.1, 0]
    plots.save(figure, tmp_path / "a.png")


def test_pyplot_is_not_imported():
    import sys

    plots.ablation(pandas.DataFrame({"fr": [1.0]}, index=["fr"]))
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("ending, begin", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_equal_figures_are_equal_files_in_the_format_of_their_ending(tmp_path, ending, begin):
    files = [tmp_path / folder / f"a.{ending}" for folder in ("1", "2")]
    for file in files:
        file.parent.mkdir()
        plots.save(plots.ablation(pandas.DataFrame({"fr": [1.0]}, index=["fr"])), file)
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(begin) and first == second


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.jpg: a plot is a file \.png, \.svg or \.pdf"):
        plots.save(plots.ablation(pandas.DataFrame({"fr": [1.0]}, index=["fr"])), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("languages, has_numbers", [(16, True), (17, False)])
def test_many_languages_fit_without_numbers(languages, has_numbers):
    names = [f"l{number}" for number in range(languages)]
    ablation = plots.ablation(pandas.DataFrame(torch.rand(languages, languages).numpy(), names, names))
    overlap = plots.overlap(*pml.overlap({name: random_set(3, seed) for seed, name in enumerate(names)}))
    for figure in (ablation, overlap):
        axes = figure.axes[0]
        assert bool(axes.texts) == has_numbers
        assert [label.get_text() for label in axes.get_xticklabels()] == names


def test_panels_of_many_languages_are_in_three_columns(tmp_path):
    figure = plots.neurons_by_layer({f"l{seed}": random_set(36, seed) for seed in range(34)}, "Neurons")
    panels = figure.axes[:5]
    assert len(figure.axes) == 6  # and the colour bar
    assert [axes.get_xlabel() for axes in panels] == ["", "", "layer", "layer", "layer"]
    plots.save(figure, tmp_path / "a.png")
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels] == [False, False, True, True, True]
    width, height = figure.get_size_inches()
    assert width < 16 and height < 16


def test_activations_of_many_languages_are_rows(tmp_path):
    generator = torch.Generator().manual_seed(0)
    statistics = {
        f"l{number}": ActivationStatistics(active=torch.randint(100, (4, 300), generator=generator), tokens=100)
        for number in range(9)
    }
    figure = plots.activations(statistics)
    left, right = figure.axes[:2]
    assert left.images[0].get_array().tolist() == [
        pytest.approx(counts.proportion.tolist()) for counts in statistics.values()
    ]
    assert right.images[0].get_array()[3].tolist() == [
        count / 100 for count in statistics["l3"].most_active().counts.tolist()
    ]
    assert not left.lines and not right.lines
    plots.save(figure, tmp_path / "a.png")
    assert plots.activations(dict(list(statistics.items())[:8])).axes[0].lines


def test_notebooks_show_every_plot():
    """IPython asks an object for the method `_repr_png_`."""
    sets = {"a": random_set(2, 0), "b": random_set(2, 1)}
    for figure in (plots.neurons_by_layer(sets, "Neurons"), plots.overlap(*pml.overlap(sets))):
        assert figure._repr_png_().startswith(b"\x89PNG")
