"""What a figure of the report consists of, and Vega-Lite specifications of the charts that sections share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import pandas

Cell: TypeAlias = "str | int | float | bool | None"
Specification: TypeAlias = dict[str, Any]  # Vega-Lite, as JSON

# What the value axis of bars and curves spans, in all charts of a figure.
FROM_ZERO = {"domainMin": {"expr": "min(1.04 * low, 0)"}, "domainMax": {"expr": "max(1.04 * high, 0)"}}
FROM_LOWEST = {"domainMin": {"expr": "low - 0.04 * (high - low)"}, "domainMax": {"expr": "high + 0.04 * (high - low)"}}

PERCENT, DECIMALS, SIGNED, WHOLE = ".1%", ".3f", "+.3f", ",d"  # formats of d3-format
SERIES_HEIGHT, ROW_HEIGHT, CURVE_HEIGHT = 11, 22, 240  # pixels
COLOURS = 9  # that `theme` in report.js has for categories
MOST_CURVES = 8  # of one figure: Vega has as many shapes of points

# Names under narrow columns stand upright.
UPRIGHT_NAMES: Specification = {
    name: {"expr": f"bandwidth('x') < 34 ? {narrow} : {wide}"}
    for name, narrow, wide in (
        ("labelAngle", "-90", "0"),
        ("labelAlign", "'right'", "'center'"),
        ("labelBaseline", "'middle'", "'top'"),
    )
} | {"labelSeparation": 3}
ZERO_LINE: Specification = {"gridWidth": {"condition": {"test": "datum.value === 0", "value": 2.5}, "value": 1}}


@dataclass(frozen=True)
class Column:
    """A column of a figure's table.

    Attributes:
        name: the field's name in the chart; letters, digits and underscores.
        title: what readers see.
        form: how a number is written (d3-format), such as ".1%". A column with a format holds measured values; the
            other columns say what was measured.
        control: the control of the page that selects rows by this column; None: no control does.
        is_shown: whether the table shows the column.
    """

    name: str
    title: str
    form: str | None = None
    control: Literal["language", "layer", "site"] | None = None
    is_shown: bool = True


@dataclass(frozen=True)
class Figure:
    """A figure: a table, its chart, and the sentences around it.

    Attributes:
        name: the same in all runs of a kind, whose figures are then shown side by side.
        title: the heading.
        reading: one sentence that says how to read it.
        source: paper and equation.
        alternative: text that stands for the chart where it is not seen.
        columns: the columns of the table.
        rows: their values.
        chart: Vega-Lite specification without data; None: the table is the figure.
        value: the column that the chart draws. Its smallest and largest value are the parameters `low` and `high` of
            the specification.
        panel: the column that has a chart for each of its values; None: one chart.
    """

    name: str
    title: str
    reading: str
    source: str
    alternative: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    chart: Specification | None = None
    value: str | None = None
    panel: str | None = None


def rows_of(table: pandas.DataFrame) -> list[list[Cell]]:
    """Returns the rows of a table as JSON values. NaN and infinities become None."""
    return json.loads(table.to_json(orient="values", double_precision=10))  # type: ignore[no-any-return]


def highest(rows: Iterable[Sequence[Cell]], value: int) -> Sequence[Cell] | None:
    """Returns the row with the highest number in column `value`; None if there is no number."""
    numbers = [row for row in rows if isinstance(row[value], (int, float))]
    return max(numbers, key=lambda row: float(row[value] or 0), default=None)


def tooltip(columns: Iterable[Column]) -> list[Specification]:
    """Returns the fields that are shown when the pointer is on a mark."""
    return [
        {"field": column.name, "title": column.title}
        | ({} if column.form is None else {"format": column.form, "type": "quantitative"})
        for column in columns
        if column.is_shown
    ]


def heat_map(
    columns: Sequence[Column], x: str, y: str, value: str, *, write: str | None = None, is_signed: bool = False
) -> Specification:
    """Returns a heat map with a number in each cell that is wide enough for it.

    Args:
        columns: the columns of the figure.
        x: the column along the page.
        y: the column down the page.
        value: the column that the colour shows.
        write: the column that is written into the cells; None: `value`.
        is_signed: whether the colours part at zero.
    """
    by_name = {column.name: column for column in columns}
    write = write or value
    scale: Specification = {"domainMin": {"expr": "min(low, 0)"}, "domainMax": {"expr": "max(high, 1e-9)"}}
    if is_signed:
        scale = {
            "domainMin": {"expr": "-max(-low, high, 1e-9)"},
            "domainMax": {"expr": "max(-low, high, 1e-9)"},
            "range": "diverging",
        }
    scale["interpolate"] = "rgb"  # others pass through hues that are neither of the two ends
    short = {SIGNED: "+.2f", DECIMALS: ".2f"}.get(by_name[write].form or "", by_name[write].form)
    room = 36 if short == "+.2f" else 28  # pixels that a number needs
    is_name = by_name[x].control == "language"
    return {
        "encoding": {
            "x": {
                "field": x,
                "type": "ordinal",
                "sort": None,
                "title": by_name[x].title,
                "axis": UPRIGHT_NAMES if is_name else {"labelAngle": 0},
            },
            "y": {"field": y, "type": "ordinal", "sort": None, "title": by_name[y].title},
            "tooltip": tooltip(columns),
        },
        "height": {"step": ROW_HEIGHT},
        "layer": [
            {
                "mark": {"type": "rect", "tooltip": True},
                "encoding": {
                    "color": {
                        "field": value,
                        "type": "quantitative",
                        "title": by_name[value].title,
                        "scale": scale,
                        "legend": {
                            "format": short if is_signed else by_name[value].form,
                            "orient": "top",
                            "gradientLength": 160,
                            "gradientThickness": 8,
                        },
                    },
                },
            },
            {
                "mark": {
                    "type": "text",
                    "fontSize": {"expr": f"bandwidth('x') < {room} ? 0 : 11"},
                    # Black and white have equal contrast with a colour of luminance 0.18.
                    "fill": {"expr": f"luminance(scale('color', datum.{value})) > 0.18 ? '#000' : '#fff'"},
                },
                # A small negative number is written as zero, without its sign.
                "transform": [{"calculate": f"abs(datum.{write}) < 0.005 ? 0 : datum.{write}", "as": "written_"}]
                if is_signed
                else [],
                "encoding": {
                    "text": {"field": "written_" if is_signed else write, "type": "quantitative", "format": short}
                },
            },
        ],
    }


def curves(
    columns: Sequence[Column],
    x: str,
    y: str,
    series: str | None,
    *,
    is_percent: bool = False,
    has_points: bool = True,
    has_zero: bool = True,
) -> Specification:
    """Returns a curve for each value of `series`. A click on the legend shows one of them.

    Args:
        columns: the columns of the figure.
        x: the column along the page, numbers.
        y: the measured column.
        series: the column that has a curve for each of its values; None: one curve.
        is_percent: whether the axis is in percent.
        has_points: whether the points have marks, whose shapes tell the curves apart without colours.
        has_zero: whether the axis begins at zero.
    """
    by_name = {column.name: column for column in columns}
    mark: Specification = {"type": "line", "tooltip": True}
    encoding: Specification = {
        "x": {
            "field": x,
            "type": "quantitative",
            "title": by_name[x].title,
            "scale": {"nice": False, "zero": False},
            "axis": {"tickMinStep": 1, "grid": False, "format": "d"},
        },
        "y": {
            "field": y,
            "type": "quantitative",
            "title": by_name[y].title,
            "scale": FROM_ZERO if has_zero else FROM_LOWEST,
            "axis": _value_axis(is_percent),
        },
        "tooltip": tooltip(columns),
    }
    if has_points:
        mark["point"] = {"size": 45}
    specification: Specification = {"height": CURVE_HEIGHT, "mark": mark, "encoding": encoding}
    if series is not None:
        _add_series(specification, series, by_name[series].title)
        if has_points:
            encoding["shape"] = encoding["color"]
    return specification


def bars(
    columns: Sequence[Column],
    x: str,
    y: str,
    series: str | None = None,
    *,
    is_percent: bool = False,
    is_stacked: bool = False,
) -> Specification:
    """Returns upright bars, for each value of `series` one beside the other or on top of it.

    Args:
        columns: the columns of the figure.
        x: the column along the page.
        y: the measured column.
        series: the column that has a colour for each of its values; None: one colour.
        is_percent: whether the axis is in percent.
        is_stacked: whether the bars of the series are stacked.
    """
    by_name = {column.name: column for column in columns}
    encoding: Specification = {
        "x": {"field": x, "type": "ordinal", "sort": None, "title": by_name[x].title, "axis": {"labelAngle": 0}},
        "y": {
            "field": y,
            "type": "quantitative",
            "title": by_name[y].title,
            "axis": _value_axis(is_percent),
            "stack": "zero" if is_stacked else None,
        },
        "tooltip": tooltip(columns),
    }
    specification: Specification = {
        "height": CURVE_HEIGHT,
        "mark": {"type": "bar", "tooltip": True},
        "encoding": encoding,
    }
    if series is not None:
        _add_series(specification, series, by_name[series].title)
        if not is_stacked:
            encoding["xOffset"] = {"field": series, "sort": None}
    return specification


def lying_bars(columns: Sequence[Column], y: str, x: str, series: str) -> Specification:
    """Returns a pair of lying bars for each value of `y`, for names that are too long to stand side by side.

    Args:
        columns: the columns of the figure.
        y: the column down the page.
        x: the measured column.
        series: the column that has a bar for each of its values.
    """
    by_name = {column.name: column for column in columns}
    specification: Specification = {
        "height": {"step": SERIES_HEIGHT},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {"field": y, "type": "ordinal", "sort": None, "title": None, "axis": {"labelLimit": 212}},
            "yOffset": {"field": series, "sort": None},
            "x": {
                "field": x,
                "type": "quantitative",
                "title": by_name[x].title,
                "scale": FROM_ZERO,
                "axis": _value_axis(is_percent=False),
                "stack": None,
            },
            "tooltip": tooltip(columns),
        },
    }
    _add_series(specification, series, by_name[series].title)
    return specification


def interval_points(
    columns: Sequence[Column],
    y: str,
    x: str,
    series: str | None = None,
    *,
    has_zero: bool = True,
    is_percent: bool = False,
) -> Specification:
    """Returns a point for each row, on a line from its column "low" to its column "high".

    Args:
        columns: the columns of the figure, with "low" and "high".
        y: the column down the page.
        x: the measured column.
        series: the column that has a colour for each of its values, one below the other; None: one colour.
        has_zero: whether the axis contains zero.
        is_percent: whether the axis is in percent.
    """
    by_name = {column.name: column for column in columns}
    axis = {
        "type": "quantitative",
        "title": by_name[x].title,
        "scale": {"zero": has_zero},
        "axis": _value_axis(is_percent),
    }
    line: Specification = {"type": "rule", "tooltip": True, "strokeWidth": 2}
    if series is None:
        line["color"] = "#888888"  # by default it is black, which a dark page hides
    encoding: Specification = {
        "y": {"field": y, "type": "ordinal", "sort": None, "title": None, "axis": {"labelLimit": 212}},
        "tooltip": tooltip(columns),
    }
    if series is not None:
        encoding["yOffset"] = {"field": series, "sort": None}
        encoding["color"] = {
            "field": series,
            "type": "nominal",
            "sort": None,
            "title": by_name[series].title,
            "legend": {"orient": "top", "columns": {"expr": "columns"}},
        }
    return {
        "height": {"step": SERIES_HEIGHT if series is not None else ROW_HEIGHT},
        "encoding": encoding,
        "layer": [
            {
                "mark": line,
                "encoding": {"x": {"field": "low", **axis}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1, "tooltip": True},
                "encoding": {"x": {"field": x, **axis}},
            },
        ],
    }


def _value_axis(is_percent: bool) -> Specification:
    return ({"format": "%"} if is_percent else {}) | ZERO_LINE


def _add_series(specification: Specification, series: str, title: str) -> None:
    """Gives each value of a column a colour, and makes the legend a control: a click leaves one of them in full colour.

    The page sets the parameter `columns` to what fits into a line of the legend.
    """
    specification["params"] = [{"name": "picked", "select": {"type": "point", "fields": [series]}, "bind": "legend"}]
    specification["encoding"]["color"] = {
        "field": series,
        "type": "nominal",
        "sort": None,
        "title": title,
        "legend": {"orient": "top", "columns": {"expr": "columns"}, "symbolLimit": 60},
    }
    specification["encoding"]["opacity"] = {"condition": {"param": "picked", "value": 1}, "value": 0.15}
