"""Measures what fine-tuning in one language changes for that language and for the others, with the demo model.

    python -m benchmarks.experiments.tuning [--corpora FOLDER] [--language tr] [--parallel FILE] [--out FOLDER]

This is a small version of figure 4 of arXiv 2402.18815. There are four ways of training: only the language's neurons,
as many random neurons, all parameters, or all parameters but the early layers, embeddings and head. With --parallel the
change of ILO (arXiv 2503.11280) is measured in every layer too, for the first seed. For every learning rate and seed,
all ways use the same documents in the same order. The seed also selects the random neurons.

FOLDER contains LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz for each language. By default the texts in the package are
used, which the demo model was trained on. --parallel is a .tsv.gz whose columns are named with FLORES-200's codes.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pandas
from matplotlib.figure import Figure
from torch import nn
from transformers import PreTrainedTokenizerBase

import pymultiling as pml
from benchmarks.measuring.environment import describe
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.parallel_texts import read_columns
from pymultiling.results import plots

EARLY_LAYERS = 2  # of the demo model's six
COLUMNS = {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn", "es": "spa_Latn", "ru": "rus_Cyrl", "zh": "zho_Hans",
           "tr": "tur_Latn", "hi": "hin_Deva", "it": "ita_Latn"}  # fmt: skip
OWN, RANDOM, ALL, FROZEN = (
    "its own neurons",
    "random neurons",
    "all parameters",
    "all but early layers, embeddings, head",
)
STYLES = {OWN: ("#0072b2", "o"), RANDOM: ("#888888", "s"), ALL: ("#d55e00", "^"), FROZEN: ("#009e73", "v")}


def load_texts(folder: Path | None, languages: tuple[str, ...], heldout: bool) -> dict[str, list[str]]:
    """Returns {language: texts}.

    Args:
        folder: folder with the texts of `languages`, or None for the texts of the package in all languages of the demo
            model. `languages` is not used then.
        languages: the languages to read from the folder.
        heldout: whether to return the held-out texts instead of the training texts.
    """
    if folder is None:
        return demo_model.heldout() if heldout else demo_model.corpora()
    suffix = ".heldout.txt.gz" if heldout else ".txt.gz"
    return {language: list(read_texts(folder / (language + suffix), CorpusReport())) for language in languages}


@contextmanager
def prepared_model(model: nn.Module, way: str, neurons: pml.NeuronSet, seed: int) -> Iterator[nn.Module]:
    """Yields the model, or a copy, prepared so that only the parameters of `way` are trained."""
    if way in (OWN, RANDOM):
        with pml.train_only(model, neurons if way == OWN else neurons.random_like(seed)):
            yield model
        return
    model = copy.deepcopy(model)
    if way == FROZEN:
        pml.freeze(model, range(EARLY_LAYERS))
    yield model


def main() -> None:
    args = _arguments()
    model, tokenizer = demo_model.load()
    languages = tuple(dict.fromkeys((*demo_model.LANGUAGES, args.language)))
    corpora, heldout_texts = (load_texts(args.corpora, languages, heldout) for heldout in (False, True))
    detection_texts = {
        language: demo_detection.first_texts_filling(lines, tokenizer, demo_detection.DETECTION_DOCUMENTS)
        for language, lines in corpora.items()
    }
    select = pml.TopK(demo_detection.TOP_FFN, demo_detection.TOP_ATTENTION, demo_detection.SHARE)
    detection = pml.detect(
        model, tokenizer, detection_texts, select=select, pack=demo_detection.DOCUMENT_TOKENS, progress=False
    )
    neurons = detection.specific()[args.language]
    heldout_texts = {
        language: demo_detection.first_texts_filling(lines, tokenizer, args.heldout)
        for language, lines in heldout_texts.items()
    }
    measure_options = {
        "texts": heldout_texts,
        "sentences": _read_sentences(args),
        "pack": demo_detection.DOCUMENT_TOKENS,
        "progress": False,
    }
    table, before, ilo_table = run_experiment(args, model, tokenizer, neurons, corpora[args.language], measure_options)
    spread = table.groupby(["trained", "rate"], sort=False)["others"].std()
    means = table.groupby(["trained", "rate"], sort=False).mean().drop(columns="seed").assign(spread=spread)
    print(
        f"\n{args.documents} documents of {args.language}, {len(neurons)} neurons of the language, {args.seeds} seeds"
    )
    print("perplexity before training:", before.round(2).to_dict())
    print(
        "itself, others: change of the log-perplexity (others: mean over languages), spread: standard deviation of "
        "others over seeds, languages: perplexity after training"
    )
    print(means.round(3).to_string())
    if ilo_table is not None:
        print("\nILO, mean over languages", mean_by_layer(ilo_table).round(3).to_string(), sep="\n")
    if args.out:
        _write(args, table, before, ilo_table)


def run_experiment(
    args: argparse.Namespace,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    neurons: pml.NeuronSet,
    corpus: list[str],
    measure_options: dict[str, Any],
) -> tuple[pandas.DataFrame, pandas.Series, pandas.DataFrame | None]:
    """Trains in every way and measures the perplexities.

    Args:
        args: the options of the command.
        model: the demo model.
        tokenizer: its tokenizer.
        neurons: the neurons of the language to train.
        corpus: the training texts of the language.
        measure_options: keyword arguments of `measure_model` and `compare_models`.

    Returns:
        A table with a row for every way, rate and seed, the perplexities by language before training, and ILO before
        and after training with the first seed (None without parallel sentences). The columns of the table are
        "trained" (the way), "rate", "seed", "parameters", "optimizer bytes", "itself" and "others" (changes of the
        log-perplexity of the trained language, and their mean over the others), and for every language its perplexity
        after training.
    """
    measurement_before = pml.measure_model(model, tokenizer, **measure_options)
    rows: list[dict[str, Any]] = []
    ilo_tables: list[pandas.DataFrame] = []
    for way, rate, seed in product((OWN, RANDOM, ALL, FROZEN), args.rates, range(args.seeds)):
        setting = {"trained": way, "rate": rate, "seed": seed}
        with prepared_model(model, way, neurons, seed) as trained:
            options = {
                "documents": args.documents,
                "pack": demo_detection.DOCUMENT_TOKENS,
                "seed": seed,
                "progress": False,
            }
            cost = pml.fine_tune(trained, tokenizer, corpus, rate=rate, **options)
            options_of_seed = measure_options if seed == 0 else {**measure_options, "sentences": None}
            comparison = pml.compare_models(measurement_before, trained, tokenizer, **options_of_seed)
        change = comparison.perplexity["change"]
        rows.append(
            {
                **setting,
                "parameters": cost.parameters,
                "optimizer bytes": cost.optimizer_bytes,
                "itself": float(change[args.language]),
                "others": float(change.drop(args.language).mean()),
                **comparison.perplexity["after"],
            }
        )
        if comparison.ilo is not None:
            ilo_tables.append(comparison.ilo.assign(**setting))
        print({name: rows[-1][name] for name in (*setting, "itself", "others")}, flush=True)
    perplexity_before = comparison.perplexity["before"]  # the same in every comparison
    return pandas.DataFrame(rows), perplexity_before, pandas.concat(ilo_tables) if ilo_tables else None


def _read_sentences(args: argparse.Namespace) -> dict[str, list[str]] | None:
    """Returns the parallel sentences by column; None without --parallel."""
    if args.parallel is None:
        return None
    columns = read_columns(args.parallel)
    selected = dict.fromkeys((*list(columns)[: args.columns], COLUMNS[args.language]))
    return {column: columns[column][: args.sentences] for column in selected}


def mean_by_layer(ilo_table: pandas.DataFrame) -> pandas.DataFrame:
    """Returns the mean ILO over languages by layer, with a row for every way and rate and one before training."""
    table = ilo_table.pivot_table(index=["trained", "rate"], columns="layer", values="ilo_after", sort=False)
    table.loc[("nothing", 0.0), :] = ilo_table.groupby("layer")["ilo_before"].mean()
    return table


def draw(ilo_table: pandas.DataFrame, rates: list[float]) -> Figure:
    """Plots the mean ILO by layer before and after training, with a panel for each rate."""
    table = mean_by_layer(ilo_table)
    figure = Figure(figsize=(3.4 * len(rates) + 1.2, 3.9), layout="constrained")
    for axes, rate in zip(numpy.atleast_1d(figure.subplots(1, len(rates), sharey=True)), rates):
        axes.plot(table.columns, table.loc[("nothing", 0.0)], "k--", linewidth=1.2, label="before training")
        for way, (colour, marker) in STYLES.items():
            axes.plot(
                table.columns,
                table.loc[(way, rate)],
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.3,
                label=way,
            )
        axes.set_title(f"rate {rate:g}", fontsize=10)
        axes.set_xlabel("layer (0: embeddings)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ILO, mean over languages", fontsize=9)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    return figure


def _write(
    args: argparse.Namespace, table: pandas.DataFrame, before: pandas.Series, ilo_table: pandas.DataFrame | None
) -> None:
    """Writes tuning_LANGUAGE.json, and if ILO was measured tuning_LANGUAGE_ilo.csv and .png."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"tuning_{args.language}"
    # Of a path only the name: where the file lies on this machine is not part of the result.
    settings = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(args).items()}
    results: dict[str, Any] = {"settings": settings, "machine": describe(), "before": before.to_dict()}
    results["rows"] = json.loads(table.to_json(orient="records", double_precision=5))
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    if ilo_table is not None:
        mean_by_layer(ilo_table).to_csv(path.with_name(path.name + "_ilo.csv"), float_format="%.4f")
        plots.save(draw(ilo_table, args.rates), path.with_name(path.name + "_ilo.png"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora", type=Path, metavar="FOLDER", help="folder with the texts (default: the texts in the package)"
    )
    parser.add_argument(
        "--parallel", type=Path, metavar="FILE", help="parallel sentences for ILO (default: ILO is not measured)"
    )
    parser.add_argument(
        "--columns",
        type=int,
        default=31,
        help="columns of --parallel, from the first on, in addition to the language's (%(default)s)",
    )
    parser.add_argument("--sentences", type=int, default=200, help="sentences per column (%(default)s)")
    parser.add_argument("--language", default="tr", choices=sorted(COLUMNS), help="language to train (%(default)s)")
    parser.add_argument("--documents", type=int, default=400, help="documents of 128 tokens to train on (%(default)s)")
    parser.add_argument("--heldout", type=int, default=40, help="held-out documents per language (%(default)s)")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-4, 1e-3], help="learning rates (default: 1e-4 1e-3)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results files (default: only print)")
    args = parser.parse_args()
    if args.corpora is None and args.language not in demo_model.LANGUAGES:
        parser.error(f"the package has no texts of the language {args.language!r}: give a folder with --corpora")
    return args


if __name__ == "__main__":
    main()
