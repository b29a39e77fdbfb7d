"""The command `ilo`: from sentences in several languages to how far these share one space."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from tempfile import TemporaryDirectory

from pymultiling.cli.shared.argument_types import codes, count, named
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_max_length, add_model, add_pass, pass_of, refuse_twice
from pymultiling.cli.shared.run_record import hashes, record_of
from pymultiling.errors import CorpusError
from pymultiling.results.folders import check_output_folder, result_folder
from pymultiling.results.run import Run

COMMAND = Command(
    name="ilo",
    group=Group.MEASURE,
    summary="measure how far languages share one space, layer by layer (arXiv 2503.11280)",
    title="One space for all languages",
    about="In each layer, how many neighbours of a sentence are in other languages.",
    papers={"2503.11280": "one space of languages, training all but the early layers"},
    whole=("revision",),
    example="pymultiling ilo --model Qwen/Qwen3-0.6B --parallel sentences.tsv --languages en,fr,de,es,ru --out space",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--parallel",
        metavar="FILE",
        help="translations, .tsv or .tsv.gz: a line of codes (id is none), then a line for each sentence; an empty cell is missing",
    )
    given.add_argument(
        "--sentences",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        help="a language's sentences, one a line, an empty one is missing; files of as many lines count as translations; repeat",
    )
    parser.add_argument("--languages", metavar="A,B,C", type=codes, help="of --parallel; all if not given")
    parser.add_argument("--limit", metavar="N", type=count, help="the first N sentences of each language")
    parser.add_argument("--k", metavar="K", type=count, default=5, help="neighbours of a sentence (%(default)s)")
    parser.add_argument(
        "--tau", metavar="N", type=count, default=3, help="other languages among them that make a bridge (%(default)s)"
    )
    parser.add_argument(
        "--metric", choices=("cosine", "euclidean"), default="cosine", help="what makes sentences near (%(default)s)"
    )
    add_model(parser)
    add_max_length(parser, "sentences")
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures ILO, and retrieval and CKA of translations; writes a table of each, and a plot."""
    from pymultiling.methods.embeddings import sentence_embeddings
    from pymultiling.methods.ilo import check_k_and_tau, ilo
    from pymultiling.methods.retrieval import cka, retrieval
    from pymultiling.results import plots
    from pymultiling.runtime.processes import is_first, join_processes

    refuse_twice(arguments, "sentences")
    if arguments.sentences and arguments.languages:
        arguments.parser.error("argument --languages: not allowed with --sentences")
    record = record_of(arguments)
    join_processes()
    out = check_output_folder(arguments.out)
    sentences, parallel = _sentences(arguments, record)
    check_k_and_tau(arguments.k, arguments.tau, len(sentences))
    model, tokenizer = load(arguments, record)
    on = {"device": model.device}
    with TemporaryDirectory(
        prefix=f".{out.name}.", dir=out.parent
    ) as kept:  # embeddings of large models would fill the memory
        with record.stage("embeddings"):
            options = {"max_length": arguments.max_length, **pass_of(arguments)}
            points = sentence_embeddings(model, tokenizer, sentences, folder=kept, **options)
        if not is_first():
            return
        with record.stage("ilo"):
            table = ilo(points, k=arguments.k, tau=arguments.tau, metric=arguments.metric, **on)
        if parallel:
            with record.stage("retrieval and cka"):
                found, alike = retrieval(points, metric=arguments.metric, **on), cka(points, **on)
    with result_folder(out) as folder:
        table.to_csv(folder / "ilo.csv", index=False)
        plots.save(plots.ilo(table), folder / "ilo.png")
        means = table.groupby("layer")[["bridge", "reach", "ilo"]].mean()
        if parallel:
            found.to_csv(folder / "retrieval.csv", index=False)
            alike.to_csv(folder / "cka.csv", index=False)
            means["retrieval"] = found.groupby("layer")["accuracy"].mean()
            means["cka"] = alike.groupby("layer")["cka"].mean()
        record.note(texts={name: asdict(report) for name, report in points.corpora.items()})
        record.write(folder)
    for language, report in points.corpora.items():
        print(f"{language}: {report}")
    print("\nILO by language and layer (0: embeddings)")
    print(table.pivot(index="language", columns="layer", values="ilo").loc[list(sentences)].round(3).to_string())
    print("\nmeans over languages, and over pairs of them")
    print(means.round(3).to_string())
    if not parallel:
        print(
            "no retrieval and no CKA: the languages' files have different numbers of lines, so these are no translations"
        )
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _sentences(arguments: argparse.Namespace, record: Run) -> tuple[dict[str, list[str]], bool]:
    """The sentences, and whether those of one place are translations of each other, as far as their number tells."""
    from pymultiling.data.parallel_texts import read_columns, read_lines

    if arguments.sentences:
        files = dict(arguments.sentences)
        record.note(corpora=hashes(files))
        found = {language: read_lines(path) for language, path in files.items()}
    else:
        record.note(corpora=hashes({"parallel": arguments.parallel}))
        found = read_columns(arguments.parallel)
        chosen = arguments.languages or list(found)
        if missing := [language for language in chosen if language not in found]:
            raise CorpusError(f"{arguments.parallel} has no language {missing[0]!r}, only {', '.join(found)}")
        found = {language: found[language] for language in chosen}
    parallel = len(set(map(len, found.values()))) == 1
    return {language: some[: arguments.limit] for language, some in found.items()}, parallel
