"""The command `classify`: from counts of activations to kinds of neuron."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from pymultiling.cli.command_run import read_counts, record_of
from pymultiling.methods.lape import lape
from pymultiling.methods.ternary import Ternary, ternary
from pymultiling.methods.ternary_change import TernaryChange, ternary_change
from pymultiling.methods.ternary_parts import NAMES as PARTS
from pymultiling.methods.ternary_parts import ternary_parts
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.sets import NeuronSet
from pymultiling.results import plots
from pymultiling.results.folders import result_folder


def run(arguments: Namespace) -> None:
    """Classifies neurons; writes the sets, tables by layer and by number of languages, and plots."""
    record = record_of("classify", arguments)
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


def _ternary(arguments: Namespace, counts: Mapping[str, ActivationStatistics], given: str) -> Ternary:
    options = {"top": arguments.top, "bar": arguments.bar, "lam": arguments.lam, "scale": arguments.scale}
    try:
        return ternary(counts, **options)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None


def _lape(arguments: Namespace, counts: Mapping[str, ActivationStatistics], folder: Path) -> None:
    found = lape(counts, top=arguments.top, bar=arguments.bar)
    _save_sets(found, folder / "neurons")
    NeuronSet.to_lape(list(found.values()), folder / "lape.pth")
    plots.save(plots.neurons_by_layer(found, "Neurons of a language by LAPE"), folder / "neurons.png")
    for language, one in found.items():
        print(f"{language}: {len(one):,} neurons")


def _write(found: Ternary, folder: Path) -> None:
    import pandas

    _save_sets(found.neurons, folder / "neurons")
    _save_sets({name: getattr(found, name) for name in ("specific", "related", "general")}, folder / "kinds")
    by_layer = found.by_layer()
    by_layer.to_csv(folder / "by_layer.csv", index=False)
    histogram = pandas.DataFrame({"languages": range(len(found.histogram)), "neurons": found.histogram})
    histogram.to_csv(folder / "histogram.csv", index=False)
    divided = ternary_parts(by_layer) if len(by_layer) >= len(PARTS) else None
    plots.save(plots.ternary(found, divided), folder / "ternary.png")
    print(
        f"lambda {found.lam:g}; a neuron is a language's where it is active in more than {found.threshold:.1%} of positions"
    )
    print(histogram.to_string(index=False), end="\n\n")
    print(by_layer.to_string(index=False))
    for name, layers in (divided or {}).items():
        print(f"{name}: layers {layers.start} to {layers.stop - 1}")


def _write_change(change: TernaryChange, folder: Path) -> None:
    for name in ("kinds", "layers", "histogram", "languages"):
        getattr(change, name).to_csv(folder / f"change_{name}.csv", index=name != "layers")
    plots.save(plots.ternary_change(change), folder / "change.png")
    print("\nbefore and after", change.kinds.round(3).to_string(), sep="\n")


def _save_sets(sets: Mapping[str, NeuronSet], folder: Path) -> None:
    folder.mkdir()
    for name, one in sets.items():
        one.save(folder / f"{name}.safetensors", name=name)
