"""The command `classify`: kinds of FFN neurons, from the counts that `count` wrote."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.activity_files import print_ternary, save_sets, write_ternary
from pymultiling.cli.shared.argument_types import fraction
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_counts
from pymultiling.cli.shared.options import add_out
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import start_record
from pymultiling.results.folders import result_folder

if TYPE_CHECKING:
    from pymultiling.methods.ternary import Ternary
    from pymultiling.methods.ternary_change import TernaryChange
    from pymultiling.neurons.activation_statistics import ActivationStatistics

COMMAND = Command(
    name="classify",
    group=Group.FIND,
    summary="find FFN neurons of one language, of several and of all languages, from counts",
    title="Neurons by language",
    about="FFN neurons by the languages in whose text they are active most often.",
    papers={"2402.16438": "counts of active neurons, LAPE", "2505.21505": "kinds of neuron"},
    example="pymultiling classify --counts counted/counts --out classified",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--counts",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        required=True,
        help="counts that the command count wrote: the file of one language, such as "
        "fr=counted/counts/fr.safetensors, or the folder of all, such as counted/counts, or of the whole "
        "run, such as counted; may be repeated",
    )
    parser.add_argument(
        "--before",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="counts of an earlier model to compare with, such as the one before training, in the same form as "
        "--counts; may be repeated",
    )
    parser.add_argument(
        "--method",
        choices=("ternary", "lape"),
        default="ternary",
        help="ternary: language-specific, language-related and general neurons (arXiv 2505.21505); lape: neurons that "
        "few languages activate, by the entropy of their activation probabilities (arXiv 2402.16438) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--top",
        metavar="P",
        type=fraction,
        default=0.01,
        help="fraction of all FFN neurons that is selected, above 0 and below 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--bar",
        metavar="P",
        type=fraction,
        default=0.95,
        help="threshold for the languages of a selected neuron, as a quantile of the activation probabilities of all "
        "neurons and languages: a neuron belongs to the languages in which its own is higher (default: %(default)s)",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        metavar="X",
        type=_lambda,
        default="auto",
        help="for ternary: weight of a neuron's largest activation probability, against the entropy, when neurons are "
        "ranked; auto: the largest weight with which no general neuron is selected (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        choices=("released", "paper"),
        default="released",
        help="for ternary: scale of --lambda, that of the published code (released) or of the paper's equation 5 "
        "(paper) (default: %(default)s)",
    )
    add_out(parser)


def run(arguments: argparse.Namespace) -> None:
    """Classifies neurons, and writes the sets, tables by layer and by number of languages, and plots."""
    from pymultiling.methods.ternary_change import ternary_change

    _check(arguments)
    record = start_record(arguments)
    with result_folder(arguments.out) as folder:
        counts = read_counts(arguments.counts)
        record.note(tokens={language: statistics.tokens for language, statistics in counts.items()})
        if arguments.method == "lape":
            with record.stage("classify"):
                _run_lape(arguments, counts, folder)
        else:
            with record.stage("classify"):
                after = _ternary(arguments, counts, "--counts")
                parts = write_ternary(after, folder)
                print_ternary(after, parts, is_auto=arguments.lam == "auto")
                record.note(lam=after.lam, threshold=after.threshold)
            if arguments.before is not None:
                counts_before = read_counts(arguments.before)
                record.note(
                    tokens_before={language: statistics.tokens for language, statistics in counts_before.items()}
                )
                with record.stage("compare"):
                    change = ternary_change(_ternary(arguments, counts_before, "--before"), after)
                    _write_change(change, folder)
        record.write(folder)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.method == "lape":
        if arguments.before is not None:
            arguments.parser.error("argument --before: not allowed with --method lape")
        if arguments.lam != "auto" or arguments.scale != "released":
            arguments.parser.error("arguments --lambda and --scale: not allowed with --method lape")


def _lambda(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def _ternary(arguments: argparse.Namespace, counts: Mapping[str, ActivationStatistics], option: str) -> Ternary:
    from pymultiling.methods.ternary import ternary

    try:
        return ternary(counts, top=arguments.top, bar=arguments.bar, lam=arguments.lam, scale=arguments.scale)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _run_lape(arguments: argparse.Namespace, counts: Mapping[str, ActivationStatistics], folder: Path) -> None:
    from pymultiling.methods.lape import lape
    from pymultiling.neurons.sets import NeuronSet
    from pymultiling.results import plots

    sets = lape(counts, top=arguments.top, bar=arguments.bar)
    save_sets(sets, folder / "neurons")
    NeuronSet.to_lape(list(sets.values()), folder / "lape.pth")
    save_plot(plots.neurons_by_layer(sets, "Neurons of a language by LAPE"), folder, "neurons")
    for language, neurons in sets.items():
        print(f"{language}: {len(neurons):,} neurons")


def _write_change(change: TernaryChange, folder: Path) -> None:
    from pymultiling.results import plots

    for name in ("kinds", "layers", "histogram", "languages"):
        getattr(change, name).to_csv(folder / f"change_{name}.csv", index=name != "layers")
    save_plot(plots.ternary_change(change), folder, "change")
    print("\nneurons of each kind before and after")
    print(change.kinds.round(3).to_string())
