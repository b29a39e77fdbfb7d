"""The command `lens`: the languages that the hidden states of each layer decode to."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pymultiling.cli.shared.argument_types import language_codes, name_and_path, positive_integer
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_chat_template,
    add_documents,
    add_model,
    add_pass,
    most_tokens,
    pack_or_none,
    pass_options,
    refuse_duplicates,
)
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import start_pass_record
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.results.folders import result_folder

COMMAND = Command(
    name="lens",
    group=Group.MEASURE,
    summary="show which languages each layer's hidden states decode to (arXiv 2402.18815, figure 1)",
    title="The languages of each layer",
    about="In which languages each layer would answer.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling lens --model Qwen/Qwen3-0.6B --texts fr=fr.txt --languages en,fr --out decoded",
    draws=True,
)
MIN_SHOWN = 0.02  # a language is printed if some layer has at least this fraction of it
MAX_SHOWN = 11  # languages, so that a line has at most 80 columns


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--texts",
        metavar="NAME=FILE",
        type=name_and_path,
        action="append",
        required=True,
        help=f"texts, and a name for them in the results, such as fr=fr.txt; may be repeated. FILE is {TEXT_FILES}",
    )
    parser.add_argument(
        "--languages",
        metavar="A,B,C",
        type=language_codes,
        help="languages to tell apart, as ISO 639-1 codes such as en,fr; a token of any other language counts as "
        "the most similar one of these (default: all languages that lingua knows)",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=positive_integer,
        default=10,
        help="number of most likely tokens of each position that are counted (default: %(default)s)",
    )
    add_model(parser)
    add_documents(parser)
    add_chat_template(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Decodes every layer, and writes one table for all texts and one plot for each."""
    import pandas

    from pymultiling.methods.lens import count_top_tokens, lens_language_codes, lens_tables
    from pymultiling.passes.job import Options
    from pymultiling.results import plots
    from pymultiling.runtime.processes import is_first_process

    refuse_duplicates(arguments, "texts")
    texts = dict(arguments.texts)
    record = start_pass_record(arguments, texts)
    inputs = with_stdin(arguments, texts)
    codes = lens_language_codes(arguments.languages)
    model, tokenizer = load(arguments, record)
    with record.stage("lens"):
        counts = count_top_tokens(
            model,
            tokenizer,
            inputs,
            options=Options(
                batch_tokens=arguments.batch_tokens, tokens=most_tokens(arguments), **pass_options(arguments)
            ),
            top=arguments.top,
            max_length=arguments.max_length,
            pack=pack_or_none(arguments),
            chat_template=arguments.chat_template,
        )
        if not is_first_process():
            return
        tables = lens_tables(counts, tokenizer, codes, progress=not arguments.quiet)
    with result_folder(arguments.out) as folder:
        for name, table in tables.items():
            save_plot(plots.lens(table), folder, f"lens_{name}")
        all_tables = pandas.concat(tables, names=["texts"]).reset_index("texts")
        all_tables.to_csv(folder / "lens.csv", index=False, float_format="%.6f")
        record.note(texts={name: asdict(table.attrs["corpus"]) for name, table in tables.items()})
        record.write(folder)
    for name, table in tables.items():
        fractions = table.pivot(index="layer", columns="language", values="share")
        largest = fractions.max().sort_values(ascending=False, kind="stable")
        fractions = fractions[largest[largest >= MIN_SHOWN].index]
        left_out = len(fractions.columns) - MAX_SHOWN
        fractions = fractions.iloc[:, :MAX_SHOWN]
        by_last_layer = fractions.iloc[-1].sort_values(ascending=False, kind="stable").index
        print(f"{name}: {table.attrs['corpus']}")
        print(
            f"fraction of each layer's tokens that are in each language, for languages with at least {MIN_SHOWN:.0%} "
            "in some layer (other: tokens that belong to no language)"
        )
        print(fractions[by_last_layer].round(2).to_string())
        if left_out > 0:
            print(f"not shown, but in lens.csv: {left_out} more with smaller fractions")
        print()
    print(f"results are in {arguments.out}; the run took {record.elapsed:.1f} s")
