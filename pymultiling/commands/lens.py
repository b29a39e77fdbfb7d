"""The command `lens`: from texts to the languages that each layer decodes to."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

import pandas

from pymultiling.cli.command_run import documents_of, hashes, load, record_of
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.methods.lens import language_codes, lens
from pymultiling.results import plots
from pymultiling.results.folders import result_folder

SHOWN = 0.02  # the least share, in any layer, of a language that is printed


def run(arguments: Namespace) -> None:
    """Decodes every layer; writes a table of all texts, and a plot of each."""
    record = record_of("lens", arguments)
    with result_folder(arguments.out) as folder:
        texts = dict(arguments.texts)
        record.note(corpora=hashes(texts))
        language_codes(arguments.languages)  # raises what would be wrong later
        model, tokenizer = load(arguments, record)
        options = {"languages": arguments.languages, "top": arguments.top, "progress": True, **documents_of(arguments)}
        tables = {}
        with record.stage("lens"):
            for name, path in texts.items():
                try:
                    tables[name] = lens(model, tokenizer, path, **options)
                except (CorpusError, NonFiniteActivations) as error:
                    raise type(error)(f"texts {name!r}: {error}") from None
                plots.save(plots.lens(tables[name]), folder / f"lens_{name}.png")
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
