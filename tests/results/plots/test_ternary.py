import sys

import pytest
import torch

import pymultiling as pml
from pymultiling.results import plots


def random_ternary(layers: int, languages: int, seed: int = 0) -> pml.Ternary:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 1000, (languages, layers, 60), generator=generator)
    statistics = {f"l{k}": pml.ActivationStatistics(language_counts, 1000) for k, language_counts in enumerate(counts)}
    return pml.ternary(statistics, top=0.4, bar=0.6, lam=0.2)


def curves(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"}


def are_integers(ticks) -> bool:
    return all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("layers, languages", [(4, 2), (6, 8), (32, 10), (80, 3)])
def test_ternary_shows_kinds_by_layer_parts_and_the_histogram(tmp_path, layers, languages):
    result = random_ternary(layers, languages)
    table = result.by_layer()
    figure = plots.ternary(result, pml.ternary_parts(table))
    left, right = figure.axes
    assert curves(left) == {kind: table[kind].tolist() for kind in ("specific", "related", "general")}
    assert [bar.get_height() for bar in right.patches] == result.histogram
    assert left.get_ylim()[0] == 0 and left.get_ylim()[1] > table.iloc[:, 1:].to_numpy().max()
    assert [text.get_text() for text in left.texts] == ["1", "2", "3", "4"]
    assert "1 understanding, 2 shared space, 3 output transformation, 4 vocabulary" in left.get_xlabel()
    plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert are_integers(left.get_xticks()) and are_integers(left.get_yticks()) and are_integers(right.get_yticks())
    assert list(right.get_xticks()) == list(range(languages + 1))


def test_bands_cover_the_layers_of_the_parts():
    figure = plots.ternary(random_ternary(6, 3), {"a": range(1), "b": range(1, 4), "c": range(4, 5), "d": range(5, 6)})
    bands = [(band.get_x(), band.get_x() + band.get_width()) for band in figure.axes[0].patches]
    assert bands == [(-0.5, 0.5), (0.5, 3.5), (3.5, 4.5), (4.5, 5.5)]
    assert [text.get_position()[0] for text in figure.axes[0].texts] == [0, 2, 4, 5]
    assert not plots.ternary(random_ternary(3, 3)).axes[0].patches


def test_bars_have_the_colours_of_their_kinds():
    for languages, kinds in ((2, ["specific", "general"]), (4, ["specific", "related", "related", "general"])):
        left, right = plots.ternary(random_ternary(4, languages)).axes
        colours = {line.get_label(): line.get_color() for line in left.lines}
        shown = ["#" + bytes(round(255 * part) for part in bar.get_facecolor()[:3]).hex() for bar in right.patches]
        assert shown[1:] == [colours[kind] for kind in kinds]
        assert shown[0] not in colours.values()


def test_results_without_selected_neurons_can_be_plotted(tmp_path):
    counts = torch.ones(4, 30, dtype=torch.int64)
    empty = pml.ternary({name: pml.ActivationStatistics(counts, 2) for name in ("en", "fr")})
    plots.save(plots.ternary(empty, pml.ternary_parts(empty.by_layer())), tmp_path / "a.png")
    plots.save(plots.ternary_change(pml.ternary_change(empty, empty)), tmp_path / "b.png")


@pytest.mark.parametrize("layers, languages", [(1, 2), (4, 2), (6, 8), (80, 10)])
def test_ternary_change_shows_changes_by_layer_and_both_histograms(tmp_path, layers, languages):
    change = pml.ternary_change(random_ternary(layers, languages), random_ternary(layers, languages, seed=1))
    figure = plots.ternary_change(change)
    left, right = figure.axes
    for kind, values in curves(left).items():  # noqa: B007, PERF102 - the query uses kind
        assert values == change.layers.query("kind == @kind")["change"].tolist()
    assert set(curves(left)) == {"specific", "related", "general"}
    heights = [bar.get_height() for bar in right.patches]
    assert heights == [*change.histogram["before"], *change.histogram["after"]]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["before", "after"]
    plots.save(figure, tmp_path / "a.png")
    assert are_integers(left.get_xticks()) and are_integers(left.get_yticks())


def test_pyplot_is_not_imported():
    plots.ternary(random_ternary(4, 2))
    assert "matplotlib.pyplot" not in sys.modules
