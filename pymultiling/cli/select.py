"""The command `select`: sets of neurons by another rule, from the statistics that `detect` wrote."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_earlier_record, read_statistics, run_folder
from pymultiling.cli.shared.options import add_out
from pymultiling.cli.shared.result_files import write_detection
from pymultiling.cli.shared.run_record import start_record
from pymultiling.cli.shared.selection import (
    add_selection,
    print_detection,
    refuse_together,
    selection_rule,
    top_rule,
)
from pymultiling.results.folders import result_folder

if TYPE_CHECKING:
    from pymultiling.neurons.selection import Threshold, TopK, TopMean

COMMAND = Command(
    name="select",
    group=Group.FIND,
    summary="select neurons by another rule from the statistics that detect wrote",
    title="Language neurons",
    about="The neurons that matter for each language's text, and those that matter for it alone.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole_facts=("rule",),
    example="pymultiling select found --fraction 0.01 --share 0.5 --out smaller",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "results",
        metavar="RUN",
        help="the folder that detect wrote, such as found, or its folder of statistics, such as found/statistics",
    )
    add_selection(parser).add_argument(
        "--mean",
        action="store_true",
        help="select the neurons with the largest mean importance over the documents; --fraction, --ffn and "
        "--attention may be any fraction then (default: select by --share, the fraction of the documents in which a "
        "neuron is among the most important)",
    )
    add_out(parser)


def _rule(arguments: argparse.Namespace) -> TopK | TopMean | Threshold:
    from pymultiling.neurons.selection import TopMean

    if not arguments.mean:
        return selection_rule(arguments)
    refuse_together(arguments, "mean", "threshold", "share")
    return top_rule(arguments, TopMean)


def run(arguments: argparse.Namespace) -> None:
    """Selects each language's neurons, and writes the same files as `detect`. No model is loaded."""
    from pymultiling.methods.detection import Detection
    from pymultiling.methods.detection_files import read_reports

    rule = _rule(arguments)
    record = start_record(arguments)
    earlier = read_earlier_record(arguments.results)
    record.note(rule=rule.rule(), **{name: earlier[name] for name in ("model", "corpora", "texts") if name in earlier})
    with result_folder(arguments.out) as folder:
        with record.stage("select"):
            statistics = read_statistics(arguments.results)
            reports = read_reports(run_folder(arguments.results))
            languages = [name for name in reports or earlier.get("corpora") or {} if name in statistics]  # in order
            statistics = {name: statistics[name] for name in dict.fromkeys([*languages, *statistics])}
            corpora = {name: report for name, report in reports.items() if name in statistics and report is not None}
            detection = Detection({}, statistics, corpora).select(rule)
        with record.stage("write"):
            write_detection(detection, folder, (earlier.get("model") or {}).get("name"))
        record.write(folder)
    print_detection(detection, rule)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")
