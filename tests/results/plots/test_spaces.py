import numpy
import pandas
import pytest

from pymultiling.results.plots import save, spaces


def ilo_table(layers: int, languages: int) -> pandas.DataFrame:
    values = numpy.random.default_rng(0).random((layers, languages, 3))
    rows = [(layer, f"l{k}", *values[layer, k]) for layer in range(layers) for k in range(languages)]
    return pandas.DataFrame(rows, columns=["layer", "language", "bridge", "reach", "ilo"])


def lens_table(layers: int, languages: int) -> pandas.DataFrame:
    shares = numpy.random.default_rng(0).dirichlet(numpy.ones(languages + 1), layers)
    names = [*(f"l{k}" for k in range(languages)), "other"]
    rows = [(layer, name, share) for layer, row in enumerate(shares) for name, share in zip(names, row)]
    return pandas.DataFrame(rows, columns=["layer", "language", "share"])


@pytest.mark.parametrize("layers, languages", [(1, 2), (7, 4), (33, 31)])
def test_ilo_shows_the_table_and_its_means(tmp_path, layers, languages):
    table = ilo_table(layers, languages)
    figure = spaces.ilo(table)
    upper, lower = figure.axes[:2]
    means = table.groupby("layer")[["bridge", "reach", "ilo"]].mean()
    for line in upper.lines:
        assert list(line.get_ydata()) == means[line.get_label()].tolist()
    names = [label.get_text() for label in lower.get_yticklabels()]
    shown = pandas.DataFrame(lower.images[0].get_array(), index=names)
    assert sorted(names) == sorted(table["language"].unique())
    assert shown.mean(axis=1).is_monotonic_decreasing
    for row in table.itertuples():
        assert shown.loc[row.language, row.layer] == row.ilo
    save(figure, tmp_path / "a.png")
    width, height = figure.get_size_inches()
    assert width < 12 and height < 10


@pytest.mark.parametrize("layers, languages", [(1, 2), (7, 8), (33, 75)])
def test_lens_shows_ten_languages_and_the_sum_of_the_rest(tmp_path, layers, languages):
    table = lens_table(layers, languages)
    figure = spaces.lens(table)
    (axes,) = figure.axes
    heights_by_name = {}
    for bars in axes.containers:
        heights = [bar.get_height() for bar in bars]
        heights_by_name[bars.get_label()] = heights
    assert len(heights_by_name) == min(languages, 10) + (languages > 10) + 1  # ten languages, "N more" and "other"
    assert [sum(layer_shares) for layer_shares in zip(*heights_by_name.values())] == pytest.approx([1] * layers)
    for name, heights in heights_by_name.items():
        if not name.endswith("more"):
            assert heights == pytest.approx(table[table["language"] == name]["share"].tolist())
    assert (f"{languages - 10} more" in heights_by_name) == (languages > 10)
    save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
