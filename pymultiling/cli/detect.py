"""The command `detect`: from corpora to every language's neurons."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import amount, named, sites
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_documents, add_model, add_pass, documents_pass_of, refuse_twice
from pymultiling.cli.shared.result_files import write_detection
from pymultiling.cli.shared.run_record import record_of_pass
from pymultiling.neurons.sites import SITES
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import counts_by_site

if TYPE_CHECKING:
    from pymultiling.methods.plnd import Detection
    from pymultiling.neurons.selection import Threshold, TopK

COMMAND = Command(
    name="detect",
    group=Group.FIND,
    summary="find the neurons of every language",
    title="Language neurons",
    about="The neurons that matter for each language's text, and those that matter for it alone.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    whole_facts=("rule",),
    example="pymultiling detect --model Qwen/Qwen3-0.6B --corpus en=en.txt --corpus fr=fr.txt --share 0.7 --out found",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        required=True,
        help="a language's texts: .txt (one a line), .jsonl (field text), both also .gz or .zst, or .parquet (column text); a path, "
        "a URL such as hf://..., or a pattern with *; repeat",
    )
    add_model(parser)
    add_documents(parser)
    add_pass(parser)
    rule = parser.add_argument_group(
        "which neurons are selected: --threshold, or the most important of a layer and site"
    )
    rule.add_argument("--threshold", metavar="E", type=float, help="importance of at least E in every document")
    many = "how many {}, a fraction, or a count such as 100 (0.1)"
    rule.add_argument("--ffn", metavar="K", type=amount, default=argparse.SUPPRESS, help=many.format("FFN neurons"))
    rule.add_argument(
        "--attention", metavar="K", type=amount, default=argparse.SUPPRESS, help=many.format("of each of q, k, v, o")
    )
    share = "share of the documents in which they must be among them (1.0)"
    rule.add_argument("--share", metavar="S", type=float, default=argparse.SUPPRESS, help=share)
    parser.add_argument("--sites", metavar="SITES", type=sites, default=SITES, help="some of ffn,q,k,v,o (all)")
    parser.add_argument(
        "--rope", choices=("pre", "post"), default="pre", help="zero q and k before or after the rotation (%(default)s)"
    )
    parser.add_argument(
        "--score",
        choices=("importance", "released"),
        default="importance",
        help="the paper's, or its published code's (%(default)s)",
    )
    parser.add_argument(
        "--qk",
        choices=("exact", "fast"),
        default="exact",
        help="q and k: every key of every row, or at most 16, an estimate (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Finds every language's neurons; writes sets, statistics, counts and plots."""
    from pymultiling.methods.plnd import detect
    from pymultiling.runtime.processes import is_first

    refuse_twice(arguments, "corpus")
    rule = _rule(arguments)
    corpora = dict(arguments.corpus)
    record = record_of_pass(arguments, corpora)
    record.note(rule=rule.rule())
    model, tokenizer = load(arguments, record)
    with record.stage("detect"):
        options = {name: getattr(arguments, name) for name in ("sites", "rope", "score", "qk")}
        detection = detect(model, tokenizer, corpora, select=rule, **options, **documents_pass_of(arguments))
    if not is_first():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_detection(detection, folder, arguments.model)
        record.note(texts={name: asdict(report) for name, report in detection.corpora.items()})
        record.write(folder)
    _print(detection, rule)
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _rule(arguments: argparse.Namespace) -> TopK | Threshold:
    from pymultiling.neurons.selection import Threshold, TopK

    top = {name: getattr(arguments, name) for name in ("ffn", "attention", "share") if hasattr(arguments, name)}
    if arguments.threshold is None:
        try:
            return TopK(**top)
        except ValueError as error:
            arguments.parser.error(str(error))
    if top:
        arguments.parser.error(f"argument --threshold: not allowed with --{next(iter(top))}")
    return Threshold(arguments.threshold)


def _print(detection: Detection, rule: TopK | Threshold) -> None:
    from pymultiling.neurons.selection import TopK

    print(counts_by_site(detection.report()), end="\n\n")
    for language, statistics in detection.statistics.items():
        became = f"{statistics.documents:,} documents, {statistics.tokens:,} tokens"
        print(f"{language}: {became}; {detection.corpora[language]}")
    if isinstance(rule, TopK) and rule.share == 1:
        for language, neurons in detection.specific().items():
            if not len(neurons):
                print(f"{language}: no neurons of its own; a --share below 1 asks for them in fewer documents")
