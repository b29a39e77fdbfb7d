"""The command `detect`: each language's neurons by their importance in its texts."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pymultiling.cli.shared.argument_types import name_and_path, site_names
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_chat_template,
    add_documents,
    add_model,
    add_pass,
    default_pack,
    document_pass_options,
    refuse_duplicates,
    tokens_or_none,
)
from pymultiling.cli.shared.result_files import write_detection
from pymultiling.cli.shared.run_record import start_pass_record
from pymultiling.cli.shared.selection import add_selection, print_detection, selection_rule
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.neurons.sites import SITES
from pymultiling.results.folders import result_folder

# docs/papers/plnd.md has the measurements that these defaults and those of TopK come from.
PACK = 128  # tokens of a document
TOKENS = 50_000  # of each language

COMMAND = Command(
    name="detect",
    group=Group.FIND,
    summary="find the neurons of each language by their importance in its texts",
    title="Language neurons",
    about="The neurons that matter for each language's text, and those that matter for it alone.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    whole_facts=("rule",),
    example="pymultiling detect --model Qwen/Qwen3-0.6B --corpus en=en.txt --corpus fr=fr.txt --out found",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        required=True,
        help=f"texts of one language, such as fr=fr.txt; repeat the option for each language. FILE is {TEXT_FILES}",
    )
    add_model(parser, by_memory=True)
    add_documents(parser, pack=PACK, tokens=TOKENS)
    add_chat_template(parser)
    add_pass(parser)
    add_selection(parser)
    parser.add_argument(
        "--sites",
        metavar="SITES",
        type=site_names,
        default=SITES,
        help="kinds of neurons to measure, separated by commas: ffn (feed-forward network) and q, k, v, o (attention "
        "projections), such as ffn,q (default: all five)",
    )
    parser.add_argument(
        "--rope",
        choices=("pre", "post"),
        default="pre",
        help="where a neuron of q or k is set to zero: before the rotary position embedding, as the paper defines it "
        "(pre), or after it, as the published code does (post) (default: %(default)s)",
    )
    parser.add_argument(
        "--score",
        choices=("importance", "released"),
        default="importance",
        help="definition of importance: the paper's (importance), or the published code's (released) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--qk",
        choices=("exact", "fast"),
        default="exact",
        help="computation of q and k: exact over all keys, or a fast estimate from at most 16 keys per query "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="on a GPU, replay CUDA graphs for batches of a shape that came before, for small models and --pack; the "
        "result is the same (default: no graphs)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Finds each language's neurons, and writes sets, statistics, counts and plots."""
    from pymultiling.methods.plnd import detect
    from pymultiling.runtime.processes import is_first_process

    refuse_duplicates(arguments, "corpus")
    rule = selection_rule(arguments)
    corpora = dict(arguments.corpus)
    arguments.pack = default_pack(arguments, PACK)
    record = start_pass_record(arguments, corpora)
    inputs = with_stdin(arguments, corpora)
    record.note(rule=rule.rule())
    model, tokenizer = load(arguments, record)
    with record.stage("detect"):
        detection = detect(
            model,
            tokenizer,
            inputs,
            select=rule,
            sites=arguments.sites,
            rope=arguments.rope,
            score=arguments.score,
            qk=arguments.qk,
            graphs=arguments.graphs,
            batch_tokens=tokens_or_none(arguments),
            **document_pass_options(arguments),
        )
    if not is_first_process():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_detection(detection, folder, arguments.model)
        record.note(texts={language: asdict(report) for language, report in detection.corpora.items()})
        record.write(folder)
    print_detection(detection, rule)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")
