"""The command `lens`: from texts to the languages that each layer decodes to."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pymultiling.cli.shared.argument_types import codes, count, named
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_documents, add_model, add_pass, pass_of, refuse_twice
from pymultiling.cli.shared.run_record import record_of_pass
from pymultiling.results.folders import result_folder

COMMAND = Command(
    name="lens",
    group=Group.MEASURE,
    summary="say which languages each layer decodes to (arXiv 2402.18815, figure 1)",
    title="The languages of each layer",
    about="In which languages each layer would answer.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling lens --model Qwen/Qwen3-0.6B --texts fr=fr.txt --languages en,fr --out decoded",
)
SHOWN = 0.02  # the least share, in any layer, of a language that is printed


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--texts", metavar="NAME=FILE", type=named, action="append", required=True, help="texts, as for detect; repeat"
    )
    parser.add_argument(
        "--languages",
        metavar="A,B,C",
        type=codes,
        help="ISO 639-1 codes to tell apart; a language left out counts as the most similar of these (all that lingua knows)",
    )
    parser.add_argument("--top", metavar="N", type=count, default=10, help="tokens of each position (%(default)s)")
    add_model(parser)
    add_documents(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Decodes every layer; writes a table of all texts, and a plot of each."""
    import pandas

    from pymultiling.methods.lens import count_top_tokens, lens_language_codes, lens_tables
    from pymultiling.passes.corpus_pass import Options
    from pymultiling.results import plots
    from pymultiling.runtime.processes import is_first

    refuse_twice(arguments, "texts")
    texts = dict(arguments.texts)
    record = record_of_pass(arguments, texts)
    codes = lens_language_codes(arguments.languages)
    model, tokenizer = load(arguments, record)
    with record.stage("lens"):
        of_documents = {"top": arguments.top, "max_length": arguments.max_length, "pack": arguments.pack}
        counts = count_top_tokens(model, tokenizer, texts, options=Options(**pass_of(arguments)), **of_documents)
        if not is_first():
            return
        tables = lens_tables(counts, tokenizer, codes, progress=True)
    with result_folder(arguments.out) as folder:
        for name, table in tables.items():
            plots.save(plots.lens(table), folder / f"lens_{name}.png")
        pandas.concat(tables, names=["texts"]).reset_index("texts").to_csv(
            folder / "lens.csv", index=False, float_format="%.6f"
        )
        record.note(texts={name: asdict(table.attrs["corpus"]) for name, table in tables.items()})
        record.write(folder)
    for name, table in tables.items():
        shares = table.pivot(index="layer", columns="language", values="share")
        shares = shares.loc[:, shares.max() >= SHOWN]
        print(f"{name}: {table.attrs['corpus']}")
        print(f"shares of the languages with {SHOWN:.0%} of any layer, and of tokens that tell none (other)")
        print(
            shares[shares.iloc[-1].sort_values(ascending=False, kind="stable").index].round(2).to_string(), end="\n\n"
        )
    print(f"results in {arguments.out}, {record.elapsed:.1f} s")
