"""The command `pmi`: from parallel texts to what more languages in the prompt do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import codes, count, named, whole
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_model, require
from pymultiling.cli.shared.run_record import hashes, record_of
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import POSITION_LABELS, pmi_table

if TYPE_CHECKING:
    from pymultiling.methods.pmi import Comparison, ParallelTask

COMMAND = Command(
    name="pmi",
    group=Group.MEASURE,
    summary="compare input in one language with the same in several at once (PMI)",
    title="Input in several languages",
    about="Active neurons and answers, with the same text in more and more languages.",
    papers={"2403.09073": "counts of active neurons, parallel input in several languages"},
    whole=("instruction", "name", "revision"),
    whole_facts=("scores",),
    example="pymultiling pmi --model Qwen/Qwen3-0.6B --inputs sentences.tsv --source de --others es,ru,fr --target en --out parallel",
)
TASKS = ("translation", "math", "nli", "free")
PARAPHRASE = "paraphrase"
MADE = ("translation", PARAPHRASE, "back-translation")
PARAPHRASES = 3


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        required=True,
        help="parallel texts: a .tsv or .tsv.gz with a column a language; for math and nli .jsonl or .jsonl.gz with fields "
        "lang, id, and question and answer, or premise, hypothesis and label",
    )
    parser.add_argument("--task", choices=TASKS, default="translation", help="what is asked for (%(default)s)")
    parser.add_argument("--source", metavar="CODE", required=True, help="the input that is the original")
    parser.add_argument(
        "--others", metavar="CODES", type=codes, help="inputs to add, such as es,ru,fr, in this order (all there are)"
    )
    parser.add_argument("--target", metavar="CODE", help="language of the answers; for translation and free a column")
    parser.add_argument("--pivot", metavar="CODE", help="an input to compare with that is given alone")
    parser.add_argument(
        "--positions",
        choices=("last", "all", "response"),
        default="last",
        help="where neurons are counted: at a prompt's last token, at all of it, or in the answer (%(default)s)",
    )
    parser.add_argument("--count-only", action="store_true", help="count active neurons; generate and score no answers")
    parser.add_argument("--limit", metavar="N", type=count, help="items to compare, examples not among them")
    parser.add_argument(
        "--shots", metavar="N", type=whole, default=0, help="the first N items are shown as examples (%(default)s)"
    )
    parser.add_argument("--template", metavar="NAME|FILE", help="another template of prompts than the task's own")
    parser.add_argument("--instruction", metavar="TEXT", default="", help="what to do, for the task free")
    parser.add_argument("--chat", action="store_true", help="give prompts as messages, in the model's chat template")
    parser.add_argument(
        "--name",
        metavar="CODE=ENGLISH",
        type=named,
        action="append",
        help="what a language is called in prompts; repeat",
    )
    parser.add_argument("--comet", metavar="NAME|FILE", help="score translations with this COMET model too")
    made = parser.add_argument_group("inputs made by a model, of the source's")
    made.add_argument(
        "--make", choices=MADE, help="how: for paraphrase --number, else --others are made or gone through"
    )
    made.add_argument("--by", metavar="NAME|DIR", help="the model: on the server, or a Hugging Face one")
    made.add_argument(
        "--base-url", metavar="URL", help="an OpenAI-compatible server, up to /v1; its key in OPENAI_API_KEY"
    )
    made.add_argument("--number", metavar="N", type=count, help="how many, for paraphrase (3)")
    made.add_argument("--cache", metavar="FILE", help="keeps what was made, so that another run goes on from there")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compares the source alone with the source and 1, 2, ... others; writes table, answers, counts and plot."""
    _check(arguments)
    record = record_of(arguments)
    with result_folder(arguments.out) as folder:
        record.note(corpora=hashes({"inputs": arguments.inputs}))
        task = _task(arguments)
        others = arguments.others
        if arguments.make is not None:
            with record.stage("make"):
                task = _made(arguments, task)
            others = _names(arguments)
        elif others is None:
            others = [name for name in task.items[0].texts if name not in (arguments.source, arguments.target)]
        examples = [(item, item.references[0]) for item in task.items[: arguments.shots]]
        task = dataclasses.replace(task, items=task.items[arguments.shots :])
        model, tokenizer = load(arguments, record)
        with record.stage("compare"):
            found = _compare(arguments, model, tokenizer, task, others, examples)
        with record.stage("write"):
            _write(found, task, arguments.source, folder, arguments.positions)
        record.note(items=found.items, left_out=found.left_out, others=others, scores=found.signatures)
        record.write(folder)
    print(pmi_table(found.table))
    print(f"\n{found.items:,} items; active: share of the FFN neurons at {POSITION_LABELS[arguments.positions]}")
    if found.left_out:
        print(f"{found.left_out:,} items were left out: their longest prompt does not fit the model's positions")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.task in ("translation", "free"):
        require(arguments, ("target",), f"for --task {arguments.task} ")
    if arguments.task == "free" and not arguments.instruction:
        arguments.parser.error("for --task free --instruction is required")
    if arguments.positions == "response" and arguments.count_only:
        arguments.parser.error("argument --count-only: not allowed with --positions response")
    _check_made(arguments)
    for name in (arguments.source, arguments.target):
        if name in (arguments.others or ()):
            arguments.parser.error(f"argument --others: {name!r} is the source or the target")


def _check_made(arguments: argparse.Namespace) -> None:
    """Of inputs that a model makes."""
    if arguments.make is None:
        for option in ("by", "base_url", "cache"):
            if getattr(arguments, option) is not None:
                arguments.parser.error(f"argument --{option.replace('_', '-')}: not allowed without --make")
    else:
        require(arguments, ("by",), "with --make ")
        if arguments.make != PARAPHRASE:
            require(arguments, ("others",), f"with --make {arguments.make} ")
        elif arguments.others is not None:
            arguments.parser.error("argument --others: not allowed with --make paraphrase")
    if arguments.number is not None and arguments.make != PARAPHRASE:
        arguments.parser.error("argument --number: not allowed without --make paraphrase")


def _task(arguments: argparse.Namespace) -> ParallelTask:
    """The task as its file has it."""
    from pymultiling.methods import pmi

    if arguments.task == "math":
        return pmi.math(arguments.inputs)
    if arguments.task == "nli":
        return pmi.nli(arguments.inputs)
    wanted = None
    if arguments.others is not None or arguments.make is not None:
        made = set() if arguments.make is None else set(_names(arguments))
        asked = (arguments.source, *(arguments.others or ()), arguments.pivot)
        wanted = [name for name in dict.fromkeys(asked) if name is not None and name not in made]
        if arguments.make == "back-translation":  # goes through the others, whatever the file has of them
            wanted = [name for name in wanted if name in (arguments.source, arguments.pivot)]
    task = pmi.translation(arguments.inputs, target=arguments.target, languages=wanted)
    return dataclasses.replace(task, name="free", template="free") if arguments.task == "free" else task


def _names(arguments: argparse.Namespace) -> list[str]:
    """The inputs that a model makes."""
    from pymultiling.methods.pmi.translate import input_names

    return input_names(_into(arguments), arguments.source.partition("~")[0], arguments.make)


def _into(arguments: argparse.Namespace) -> list[str] | int:
    return (arguments.number or PARAPHRASES) if arguments.make == PARAPHRASE else arguments.others


def _made(arguments: argparse.Namespace, task: ParallelTask) -> ParallelTask:
    """The task with inputs that a model makes, in the place of people's."""
    from pymultiling.methods import pmi
    from pymultiling.models.loading import load_translator, pick_device

    if arguments.base_url is not None:
        by = pmi.Server(arguments.by, arguments.base_url)
    else:
        by = pmi.Generator(*load_translator(arguments.by, pick_device(arguments.device)))
    wanted = arguments.shots + arguments.limit if arguments.limit is not None else None
    names = set(_names(arguments))
    items = [
        dataclasses.replace(item, texts={name: text for name, text in item.texts.items() if name not in names})
        for item in task.items[:wanted]
    ]
    options = {"how": arguments.make, "cache": arguments.cache, "names": dict(arguments.name or ()), "progress": True}
    return dataclasses.replace(
        task, items=pmi.translate_items(items, _into(arguments), source=arguments.source, by=by, **options)
    )


def _compare(
    arguments: argparse.Namespace, model, tokenizer, task: ParallelTask, others: list[str], examples: list
) -> Comparison:
    from pymultiling.methods import pmi

    return pmi.compare(
        model,
        tokenizer,
        task.only(limit=arguments.limit),
        source=arguments.source,
        others=others,
        target=arguments.target,
        pivot=arguments.pivot,
        positions=arguments.positions,
        answers=not arguments.count_only,
        comet=arguments.comet,
        template=arguments.template,
        examples=examples,
        instruction=arguments.instruction,
        chat=arguments.chat,
        names=dict(arguments.name or ()),
        batch_tokens=arguments.batch_tokens,
        progress=True,
    )


def _write(found: Comparison, task: ParallelTask, source: str, folder: Path, positions: str) -> None:
    """Writes table.csv, by_layer.csv, answers.jsonl, counts/ with a file a prompt, pmi.png."""
    from pymultiling.results import plots

    found.table.to_csv(folder / "table.csv", index=False)
    found.by_layer.to_csv(folder / "by_layer.csv", index=False)
    (folder / "counts").mkdir()
    for name, one in found.statistics.items():
        one.save(folder / "counts" / f"{name}.safetensors", prompt=name, positions=positions)
    if found.answers:
        with open(folder / "answers.jsonl", "w", encoding="utf-8") as file:
            for place, of_item in enumerate(zip(*found.answers.values())):
                item = task.items[found.places[place]]
                row = {"item": found.places[place], "source": item.texts[source], "references": item.references}
                row["answers"] = dict(zip(found.answers, of_item))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    plots.save(plots.pmi(found.table, found.statistics, positions), folder / "pmi.png")
