"""What fine-tuning in one language does to that language and the others, on the embedded model, as tables and a plot.

    python -m benchmarks.experiments.tuning [--corpora FOLDER] [--language tr] [--documents 400] [--parallel FILE] [--out FOLDER]

Figure 4 of arXiv 2402.18815 in small: only the language's own neurons are trained, or as many random ones, or all
parameters; and single-language training with the early layers, embeddings and head frozen, and what it does to ILO in
every layer (arXiv 2503.11280). Every way sees the same documents in the same order, at every rate and with every seed;
seeds also draw the random neurons. ILO is that of the first seed.

FOLDER holds LANGUAGE.txt.gz and LANGUAGE.heldout.txt.gz of each language; by default the embedded texts are taken,
which the model has seen in training. --parallel is a .tsv.gz whose columns have FLORES-200's codes.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy
import pandas
from matplotlib.figure import Figure
from torch import nn

import pymultiling as pml
from benchmarks.measuring.environment import describe
from pymultiling import demo_model
from pymultiling.cli.shared import demo_detection as demo
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.parallel_texts import read_columns
from pymultiling.results import plots

EARLY = 2  # layers of the embedded model's six
COLUMNS = {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn", "es": "spa_Latn", "ru": "rus_Cyrl", "zh": "zho_Hans",
           "tr": "tur_Latn", "hi": "hin_Deva", "it": "ita_Latn"}  # fmt: skip
OWN, RANDOM, ALL, FROZEN = (
    "its own neurons",
    "random neurons",
    "all parameters",
    "all but early layers, embeddings, head",
)
STYLES = {OWN: ("#0072b2", "o"), RANDOM: ("#888888", "s"), ALL: ("#d55e00", "^"), FROZEN: ("#009e73", "v")}


def texts(folder: Path | None, languages: tuple[str, ...], heldout: bool) -> dict[str, list[str]]:
    if folder is None:
        return demo_model.heldout() if heldout else demo_model.corpora()
    end = ".heldout.txt.gz" if heldout else ".txt.gz"
    return {language: list(read_texts(folder / (language + end), CorpusReport())) for language in languages}


@contextmanager
def trainee(model: nn.Module, way: str, neurons: pml.NeuronSet, seed: int) -> Iterator[nn.Module]:
    """The model, or a copy, with only that left to train."""
    if way in (OWN, RANDOM):
        with pml.train_only(model, neurons if way == OWN else neurons.random_like(seed)):
            yield model
        return
    model = copy.deepcopy(model)
    if way == FROZEN:
        pml.freeze(model, range(EARLY))
    yield model


def main() -> None:
    args = _arguments()
    model, tokenizer = demo_model.load()
    languages = tuple(dict.fromkeys((*demo_model.LANGUAGES, args.language)))
    corpora, apart = (texts(args.corpora, languages, heldout) for heldout in (False, True))
    few = {
        language: demo.first_texts_filling(lines, tokenizer, demo.DETECTION_DOCUMENTS)
        for language, lines in corpora.items()
    }
    select = pml.TopK(demo.TOP_FFN, demo.TOP_ATTENTION, demo.SHARE)
    detection = pml.detect(model, tokenizer, few, select=select, pack=demo.DOCUMENT_TOKENS, progress=False)
    neurons = detection.specific()[args.language]
    apart = {language: demo.first_texts_filling(lines, tokenizer, args.heldout) for language, lines in apart.items()}
    measures = {"texts": apart, "sentences": _sentences(args), "pack": demo.DOCUMENT_TOKENS, "progress": False}
    table, before, overlap = experiment(args, model, tokenizer, neurons, corpora[args.language], measures)
    spread = table.groupby(["trained", "rate"], sort=False)["others"].std()
    means = table.groupby(["trained", "rate"], sort=False).mean().drop(columns="seed").assign(spread=spread)
    print(f"\n{args.documents} documents of {args.language}, {len(neurons)} neurons of its own, {args.seeds} seeds")
    print("before:", before.round(2).to_dict())
    print(means.round(3).to_string())
    if overlap is not None:
        print("\nILO, mean over languages", by_layer(overlap).round(3).to_string(), sep="\n")
    if args.out:
        _write(args, table, before, overlap)


def experiment(args, model, tokenizer, neurons: pml.NeuronSet, corpus: list[str], measures: dict):
    """A row for every way, rate and seed; the perplexities before; and ILO before and after, of the first seed."""
    before, rows, overlaps = pml.measure_model(model, tokenizer, **measures), [], []
    for way, rate, seed in product((OWN, RANDOM, ALL, FROZEN), args.rates, range(args.seeds)):
        setting = {"trained": way, "rate": rate, "seed": seed}
        with trainee(model, way, neurons, seed) as one:
            options = {"documents": args.documents, "pack": demo.DOCUMENT_TOKENS, "seed": seed, "progress": False}
            cost = pml.fine_tune(one, tokenizer, corpus, rate=rate, **options)
            found = pml.compare_models(
                before, one, tokenizer, **measures if seed == 0 else measures | {"sentences": None}
            )
        change = found.perplexity["change"]
        rows.append(
            {
                **setting,
                "parameters": cost.parameters,
                "optimizer bytes": cost.optimizer_bytes,
                "itself": float(change[args.language]),
                "others": float(change.drop(args.language).mean()),
                **found.perplexity["after"],
            }
        )
        if found.ilo is not None:
            overlaps.append(found.ilo.assign(**setting))
        print({name: rows[-1][name] for name in (*setting, "itself", "others")}, flush=True)
    return pandas.DataFrame(rows), found.perplexity["before"], pandas.concat(overlaps) if overlaps else None


def _sentences(args: argparse.Namespace) -> dict[str, list[str]] | None:
    if args.parallel is None:
        return None
    columns = read_columns(args.parallel)
    chosen = dict.fromkeys((*list(columns)[: args.columns], COLUMNS[args.language]))
    return {column: columns[column][: args.sentences] for column in chosen}


def by_layer(overlap: pandas.DataFrame) -> pandas.DataFrame:
    """Mean ILO over languages: a row before, and one for each way and rate; layers across."""
    table = overlap.pivot_table(index=["trained", "rate"], columns="layer", values="ilo_after", sort=False)
    table.loc[("nothing", 0.0), :] = overlap.groupby("layer")["ilo_before"].mean()
    return table


def draw(overlap: pandas.DataFrame, rates: list[float]) -> Figure:
    """Mean ILO by layer before and after, a panel for each rate."""
    table = by_layer(overlap)
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


def _write(args: argparse.Namespace, table: pandas.DataFrame, before: pandas.Series, overlap) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"tuning_{args.language}"
    settings = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(args).items()}
    found = {"settings": settings, "machine": describe(), "before": before.to_dict()}
    found["rows"] = json.loads(table.to_json(orient="records", double_precision=5))
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    if overlap is not None:
        by_layer(overlap).to_csv(path.with_name(path.name + "_ilo.csv"), float_format="%.4f")
        plots.save(draw(overlap, args.rates), path.with_name(path.name + "_ilo.png"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, metavar="FOLDER")
    parser.add_argument("--parallel", type=Path, metavar="FILE", help="for ILO; left out if not given")
    parser.add_argument("--columns", type=int, default=31, help="the first of --parallel, beside the language's own")
    parser.add_argument("--sentences", type=int, default=200, help="of each column")
    parser.add_argument("--language", default="tr", choices=sorted(COLUMNS))
    parser.add_argument("--documents", type=int, default=400, help="of 128 tokens")
    parser.add_argument("--heldout", type=int, default=40, help="documents of each language")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-3])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.corpora is None and args.language not in demo_model.LANGUAGES:
        parser.error(f"--corpora is needed for {args.language}")
    return args


if __name__ == "__main__":
    main()
