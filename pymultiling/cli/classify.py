"""The command `classify`: from counts of activations to kinds of neuron."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import fraction
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.earlier_results import read_counts
from pymultiling.cli.shared.run_record import record_of
from pymultiling.results.folders import result_folder

if TYPE_CHECKING:
    from pymultiling.methods.ternary import Ternary
    from pymultiling.methods.ternary_change import TernaryChange
    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.sets import NeuronSet

COMMAND = Command(
    name="classify",
    group=Group.FIND,
    summary="find neurons specific to a language, related to some, and general ones",
    title="Neurons by language",
    about="FFN neurons by the languages in whose text they are active most often.",
    papers={"2402.16438": "counts of active neurons, LAPE", "2505.21505": "kinds of neuron"},
    example="pymultiling classify --counts counted/counts --out classified",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--counts",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        required=True,
        help="counts that count wrote, or their folder; repeat",
    )
    parser.add_argument(
        "--before",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="counts of another model, such as the one before alignment, to compare with; repeat",
    )
    parser.add_argument(
        "--method",
        choices=("ternary", "lape"),
        default="ternary",
        help="three kinds of neuron (arXiv 2505.21505), or LAPE (arXiv 2402.16438) (%(default)s)",
    )
    parser.add_argument(
        "--top", metavar="P", type=fraction, default=0.01, help="part of all neurons that is selected (%(default)s)"
    )
    parser.add_argument(
        "--bar",
        metavar="P",
        type=fraction,
        default=0.95,
        help="a neuron is a language's where it is active more often than this part of all are (%(default)s)",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        metavar="X",
        type=_lambda,
        default="auto",
        help="weight of the largest probability; auto: the largest with no general neuron (%(default)s)",
    )
    parser.add_argument(
        "--scale",
        choices=("released", "paper"),
        default="released",
        help="of lambda: the published code's, or the paper's (%(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")


def run(arguments: argparse.Namespace) -> None:
    """Classifies neurons; writes the sets, tables by layer and by number of languages, and plots."""
    from pymultiling.methods.ternary_change import ternary_change

    _check(arguments)
    record = record_of(arguments)
    with result_folder(arguments.out) as folder:
        counts = read_counts(arguments.counts)
        record.note(tokens={language: one.tokens for language, one in counts.items()})
        with record.stage("classify"):
            if arguments.method == "lape":
                _lape(arguments, counts, folder)
            else:
                found = _ternary(arguments, counts, "--counts")
                _write(found, folder)
                record.note(lam=found.lam, threshold=found.threshold)
        if arguments.before is not None:
            before = read_counts(arguments.before)
            record.note(tokens_before={language: one.tokens for language, one in before.items()})
            with record.stage("compare"):
                change = ternary_change(_ternary(arguments, before, "--before"), found)
                _write_change(change, folder)
        record.write(folder)
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


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


def _ternary(arguments: argparse.Namespace, counts: Mapping[str, ActivationStatistics], given: str) -> Ternary:
    from pymultiling.methods.ternary import ternary

    options = {"top": arguments.top, "bar": arguments.bar, "lam": arguments.lam, "scale": arguments.scale}
    try:
        return ternary(counts, **options)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None


def _lape(arguments: argparse.Namespace, counts: Mapping[str, ActivationStatistics], folder: Path) -> None:
    from pymultiling.methods.lape import lape
    from pymultiling.neurons.sets import NeuronSet
    from pymultiling.results import plots

    found = lape(counts, top=arguments.top, bar=arguments.bar)
    _save_sets(found, folder / "neurons")
    NeuronSet.to_lape(list(found.values()), folder / "lape.pth")
    plots.save(plots.neurons_by_layer(found, "Neurons of a language by LAPE"), folder / "neurons.png")
    for language, one in found.items():
        print(f"{language}: {len(one):,} neurons")


def _write(found: Ternary, folder: Path) -> None:
    import pandas

    from pymultiling.methods.ternary_parts import PART_NAMES, ternary_parts
    from pymultiling.results import plots

    _save_sets(found.neurons, folder / "neurons")
    _save_sets({name: getattr(found, name) for name in ("specific", "related", "general")}, folder / "kinds")
    by_layer = found.by_layer()
    by_layer.to_csv(folder / "by_layer.csv", index=False)
    histogram = pandas.DataFrame({"languages": range(len(found.histogram)), "neurons": found.histogram})
    histogram.to_csv(folder / "histogram.csv", index=False)
    divided = ternary_parts(by_layer) if len(by_layer) >= len(PART_NAMES) else None
    plots.save(plots.ternary(found, divided), folder / "ternary.png")
    print(
        f"lambda {found.lam:g}; a neuron is a language's where it is active in more than {found.threshold:.1%} of positions"
    )
    print(histogram.to_string(index=False), end="\n\n")
    print(by_layer.to_string(index=False))
    for name, layers in (divided or {}).items():
        print(f"{name}: layers {layers.start} to {layers.stop - 1}")


def _write_change(change: TernaryChange, folder: Path) -> None:
    from pymultiling.results import plots

    for name in ("kinds", "layers", "histogram", "languages"):
        getattr(change, name).to_csv(folder / f"change_{name}.csv", index=name != "layers")
    plots.save(plots.ternary_change(change), folder / "change.png")
    print("\nbefore and after", change.kinds.round(3).to_string(), sep="\n")


def _save_sets(sets: Mapping[str, NeuronSet], folder: Path) -> None:
    folder.mkdir()
    for name, one in sets.items():
        one.save(folder / f"{name}.safetensors", name=name)
