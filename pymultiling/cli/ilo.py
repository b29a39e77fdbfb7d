"""The command `ilo`: how far languages share one representation space, from sentences in each of them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from tempfile import TemporaryDirectory

from pymultiling.cli.shared.argument_types import language_codes, name_and_path, positive_integer
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.default_checkpoint import keep_checkpoint_in_results
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FORMATS,
    add_encoding,
    add_field,
    add_max_length,
    add_model,
    add_pass,
    pass_options,
    refuse_duplicates,
    text_file,
    texts_of,
)
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.results.folders import check_output_folder, result_folder
from pymultiling.results.run import Run

COMMAND = Command(
    name="ilo",
    group=Group.MEASURE,
    summary="measure in each layer how far languages share one space of sentences (ILO, arXiv 2503.11280)",
    title="One space for all languages",
    about="In each layer, how many neighbours of a sentence are in other languages.",
    papers={"2503.11280": "one space of languages, training all but the early layers"},
    whole=("revision",),
    example="pymultiling ilo --model Qwen/Qwen3-0.6B --parallel sentences.tsv --languages en,fr,de,es,ru --out space",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--parallel",
        metavar="FILE",
        help="a .tsv, .tsv.gz or .tsv.zst file of translations with one column per language: the first line has the "
        "language codes (a column id is ignored), each further line a sentence in all languages; an empty cell is a "
        "missing sentence. It is given as a path or a URL",
    )
    source.add_argument(
        "--sentences",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        help="the sentences of one language, such as fr=fr.txt; an empty line or text is a missing sentence; repeat "
        "the option for each language. Files with equally many sentences are taken for translations. FILE is "
        f"{TEXT_FORMATS}",
    )
    parser.add_argument(
        "--languages",
        metavar="A,B,C",
        type=language_codes,
        help="columns of --parallel to use, such as en,fr,de (default: all)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive_integer,
        help="use the first N sentences of each language only (default: all)",
    )
    parser.add_argument(
        "--k",
        metavar="K",
        type=positive_integer,
        default=5,
        help="number of nearest neighbours of each sentence that are looked at (default: %(default)s)",
    )
    parser.add_argument(
        "--tau",
        metavar="N",
        type=positive_integer,
        default=3,
        help="number of other languages among the neighbours that make a sentence a bridge (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        choices=("cosine", "euclidean"),
        default="cosine",
        help="how the nearness of two sentences is measured (default: %(default)s)",
    )
    add_model(parser)
    add_max_length(parser, "sentence")
    add_encoding(parser)
    add_field(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures ILO, and retrieval and CKA of translations, and writes a table of each and a plot."""
    from pymultiling.methods.embeddings import sentence_embeddings
    from pymultiling.methods.ilo import check_k_and_tau, ilo
    from pymultiling.methods.retrieval import cka, retrieval
    from pymultiling.results import plots
    from pymultiling.runtime.processes import is_first_process, join_processes

    refuse_duplicates(arguments, "sentences")
    if arguments.sentences and arguments.languages:
        arguments.parser.error("argument --languages: not allowed with --sentences")
    record = start_record(arguments)
    keep_checkpoint_in_results(arguments)
    join_processes()
    out = check_output_folder(arguments.out)
    sentences, are_parallel = _read_sentences(arguments, record)
    check_k_and_tau(arguments.k, arguments.tau, len(sentences))
    model, tokenizer = load(arguments, record)
    # The embeddings of a large model do not fit in memory, so they are kept in files.
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as embedding_folder:
        with record.stage("embeddings"):
            embeddings = sentence_embeddings(
                model,
                tokenizer,
                sentences,
                folder=embedding_folder,
                max_length=arguments.max_length,
                batch_tokens=arguments.batch_tokens,
                **pass_options(arguments),
            )
        if not is_first_process():
            return
        with record.stage("ilo"):
            table = ilo(embeddings, k=arguments.k, tau=arguments.tau, metric=arguments.metric, device=model.device)
        if are_parallel:
            with record.stage("retrieval and cka"):
                retrieval_table = retrieval(embeddings, metric=arguments.metric, device=model.device)
                cka_table = cka(embeddings, device=model.device)
    with result_folder(out) as folder:
        table.to_csv(folder / "ilo.csv", index=False)
        save_plot(plots.ilo(table), folder, "ilo")
        means = table.groupby("layer")[["bridge", "reach", "ilo"]].mean()
        if are_parallel:
            retrieval_table.to_csv(folder / "retrieval.csv", index=False)
            cka_table.to_csv(folder / "cka.csv", index=False)
            means["retrieval"] = retrieval_table.groupby("layer")["accuracy"].mean()
            means["cka"] = cka_table.groupby("layer")["cka"].mean()
        record.note(texts={language: asdict(report) for language, report in embeddings.corpora.items()})
        record.write(folder)
    for language, report in embeddings.corpora.items():
        print(f"{language}: {report}")
    print("\nILO by language and layer (layer 0: the embeddings)")
    print(table.pivot(index="language", columns="layer", values="ilo").loc[list(sentences)].round(3).to_string())
    print("\nmeans over languages, and over pairs of languages")
    print(means.round(3).to_string())
    if not are_parallel:
        print(
            "no retrieval and no CKA: the languages' files have different numbers of lines, so they are not "
            "translations"
        )
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _read_sentences(arguments: argparse.Namespace, record: Run) -> tuple[dict[str, list[str]], bool]:
    """Returns {language: sentences}, and whether all languages have as many sentences, as translations do."""
    from pymultiling.data.languages import find_language
    from pymultiling.data.parallel_texts import read_columns, read_lines

    if arguments.sentences:
        files = dict(arguments.sentences)
        sentences = {language: read_lines(file) for language, file in texts_of(arguments, files).items()}
    else:
        files = {"parallel": arguments.parallel}
        columns = read_columns(text_file(arguments, arguments.parallel))
        languages = [find_language(name, columns, arguments.parallel) for name in arguments.languages or columns]
        sentences = {language: columns[language] for language in languages}
    record.note(corpora=hash_corpora(files))
    are_parallel = len({len(column) for column in sentences.values()}) == 1
    return {language: column[: arguments.limit] for language, column in sentences.items()}, are_parallel
