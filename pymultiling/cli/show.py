"""The command `show`: the neurons of sets as text or as CSV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import positive_integer
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import find_sets, statistics_of_set

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.sets import NeuronSet

SHOWN = 10  # neurons of each site in the text

COMMAND = Command(
    name="show",
    group=Group.FIND,
    summary="print which neurons are in sets, as text or as CSV",
    title="Neurons of sets",
    about="Layer, site and index of the neurons in sets.",
    papers={},
    example="pymultiling show found --top 5",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "sets",
        metavar="SETS",
        nargs="+",
        help="a set of neurons that detect wrote, such as found/specific/fr.safetensors or fr=found/neurons/"
        "fr.safetensors, a folder of such sets, or the folder that detect wrote, such as found, whose folder specific "
        "is read",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=positive_integer,
        help="print N neurons of each site of each set: those with the highest score, which is the mean importance, or "
        "the first ones if the statistics of detect are not beside the sets "
        f"(default: {SHOWN} as text, all as CSV)",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="write the neurons of all sets to a CSV file, or print them as CSV if FILE is - (default: print text)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the neurons of each set."""
    from pymultiling.neurons.sets import NeuronSet

    is_text, top = arguments.csv is None, arguments.top
    shown = SHOWN if top is None and is_text else top
    tables: list[pandas.DataFrame] = []
    for name, file in find_sets(arguments.sets).items():
        neurons = NeuronSet.load(file)
        table = _member_table(neurons, file, shown)
        if is_text:
            _print_set(name, neurons, table)
        else:
            table.insert(0, "set", name)
            tables.append(table)
    if not is_text:
        _write_csv(tables, arguments.csv)


def _member_table(neurons: NeuronSet, file: Path, top: int | None) -> pandas.DataFrame:
    from pymultiling.results.set_tables import member_table

    try:
        return member_table(neurons, statistics_of_set(file), top)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _print_set(name: str, neurons: NeuronSet, table: pandas.DataFrame) -> None:
    from pymultiling.results.set_tables import layer_table

    print(f"{name}: {len(neurons):,} neurons\n")
    print(layer_table(neurons).to_string(), end="\n\n")
    if len(table):
        of_all = "" if len(table) == len(neurons) else f", {len(table):,} of {len(neurons):,}"
        order = "the highest score first" if "score" in table else "without statistics, in the order of layers"
        print(f"neurons of each site, {order}{of_all}\n")
        print(table.to_string(index=False, formatters={"score": "{:.4g}".format, "votes": "{:.0%}".format}), end="\n\n")


def _write_csv(tables: list[pandas.DataFrame], out: str) -> None:
    import pandas

    from pymultiling.runtime.storage import write_atomically

    text = pandas.concat(tables, ignore_index=True).to_csv(index=False)
    if out == "-":
        print(text, end="")
        return
    with write_atomically(Path(out)) as partial:
        partial.write_text(text, "utf-8")
    print(f"{text.count(chr(10)) - 1:,} neurons are in {out}")
