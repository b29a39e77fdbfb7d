"""The command `report`: results of one or more runs as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.shared.command import Command, Commands, Group, add_command

COMMAND = Command(
    name="report",
    group=Group.SHARE,
    summary="write the results of one or more runs as one HTML page, side by side if they are of the same kind",
    title="Report",
    about="Figures and tables of results.",
    papers={},
    example="pymultiling report found --out report.html",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="results of a command; runs of the same kind are shown side by side, and the later ones are compared with "
        "the first",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help="the page; an earlier one is replaced (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Reads the folders and writes the page."""
    from pymultiling.results.report import read_results, write_report

    out: Path = arguments.out
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        arguments.parser.error(f"argument --out: {out} is not a file that ends in .html")
    results = [read_results(folder) for folder in arguments.folders]
    names = [run.name for run in results]
    if len(set(names)) < len(names):  # folders of the same name in different places
        results = [read_results(folder, str(folder)) for folder in arguments.folders]
    write_report(results, out)
    print(f"open {out} in a browser")
