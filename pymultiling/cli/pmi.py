"""The command `pmi`: prompts with their input in one language, compared with the same in several (PMI)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import code_and_name, language_codes, positive_integer, whole_number
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_encoding, add_model, require, text_file
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import POSITION_LABELS, TOP_SHARE, pmi_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pymultiling.methods.pmi import Comparison, Generator, ParallelItem, ParallelTask, Server

COMMAND = Command(
    name="pmi",
    group=Group.MEASURE,
    summary="compare prompts with their input in one language and in several languages at once (PMI)",
    title="Input in several languages",
    about="Active neurons and answers, with the same text in more and more languages.",
    papers={"2403.09073": "counts of active neurons, parallel input in several languages"},
    whole=("instruction", "name", "revision"),
    whole_facts=("scores",),
    example="pymultiling pmi --model Qwen/Qwen3-0.6B --inputs sentences.tsv --source de --others es,ru,fr "
    "--target en --out parallel",
    draws=True,
)
TASKS = ("translation", "math", "nli", "free")
PARAPHRASE, BACK_TRANSLATION = "paraphrase", "back-translation"
WAYS_TO_MAKE = ("translation", PARAPHRASE, BACK_TRANSLATION)
DEFAULT_PARAPHRASES = 3
LANGUAGE_FILE = re.compile(r"([\w~-]+)=(.+)")  # CODE=FILE; a path or a URL with = in it has other characters before it


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--inputs",
        metavar="FILE|CODE=FILE",
        action="append",
        required=True,
        help="the same texts in several languages: a file with all languages, or CODE=FILE, such as de=de.jsonl, once "
        "for each language. For the tasks translation and free: a .tsv file with one column per language and the "
        "language codes in the first line, or CODE=FILE of texts, one per line. For math and nli: a .jsonl, .tsv or "
        ".parquet file whose records have the fields lang, id, and question and answer (math) or premise, hypothesis "
        "and label (nli), or the fields of the published MSVAMP or XNLI. All but .parquet may be compressed (.gz, "
        ".zst). A file is given as a path or a URL",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="translation",
        help="what the model is asked for: a translation, the answer to a mathematical question (math), the "
        "relation of two sentences (nli), or what --instruction says (free) (default: %(default)s)",
    )
    parser.add_argument(
        "--source",
        metavar="CODE",
        required=True,
        help="language of the original input, such as de; it is part of every prompt, except that of --pivot",
    )
    parser.add_argument(
        "--others",
        metavar="CODES",
        type=language_codes,
        help="further inputs that are added to the prompt one after the other, such as es,ru,fr (default: all in "
        "the file)",
    )
    parser.add_argument(
        "--target",
        metavar="CODE",
        help="language of the answers, such as en; required for translation and free, where its column has the "
        "references",
    )
    parser.add_argument(
        "--pivot",
        metavar="CODE",
        help="input that is also shown alone, for comparison, such as es (default: none)",
    )
    parser.add_argument(
        "--positions",
        choices=("last", "all", "response"),
        default="last",
        help="tokens at which active neurons are counted: the prompt's last one, all of the prompt, or those of the "
        "answer (default: %(default)s)",
    )
    parser.add_argument(
        "--count-only", action="store_true", help="only count active neurons; do not generate and evaluate answers"
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive_integer,
        help="compare N items only, the --shots examples not counted (default: all)",
    )
    parser.add_argument(
        "--shots",
        metavar="N",
        type=whole_number,
        default=0,
        help="show the first N items, with their answers, as examples in every prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--template",
        metavar="NAME|FILE",
        help="prompt template: a name such as nli_premises, or a .json file (default: the task's own)",
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", default="", help="what the model is asked to do; required for --task free"
    )
    parser.add_argument(
        "--chat", action="store_true", help="give the prompt as a user's message, in the model's chat template"
    )
    parser.add_argument(
        "--name",
        metavar="CODE=ENGLISH",
        type=code_and_name,
        action="append",
        help="English name of a language in prompts, such as qq=Quenya, for codes that are unknown or named otherwise; "
        "may be repeated",
    )
    parser.add_argument(
        "--comet",
        metavar="NAME|FILE",
        help="COMET model to evaluate translations with, in addition to BLEU (default: none)",
    )
    made = parser.add_argument_group(
        "inputs that a model makes",
        "A model can make the other inputs from the source. They replace inputs of the same names in the file.",
    )
    made.add_argument(
        "--make",
        choices=WAYS_TO_MAKE,
        help="what is made of the source: a translation into each of --others (translation), --number texts in "
        "other words (paraphrase), or a translation into each of --others and back (back-translation) (default: no "
        "inputs are made)",
    )
    made.add_argument(
        "--by",
        metavar="NAME|DIR",
        help="the model that makes them: its name on the server of --base-url, otherwise a Hugging Face model",
    )
    made.add_argument(
        "--base-url",
        metavar="URL",
        help="OpenAI-compatible server, such as http://localhost:8000/v1; its key is read from OPENAI_API_KEY",
    )
    made.add_argument(
        "--number",
        metavar="N",
        type=positive_integer,
        help=f"number of paraphrases (default: {DEFAULT_PARAPHRASES})",
    )
    made.add_argument(
        "--cache",
        metavar="FILE",
        help="file in which the answers of the model are kept, so that a later run does not request them again "
        "(default: they are not kept)",
    )
    add_encoding(parser)
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compares the source alone with the source and 1, 2, ... other inputs, and writes a table, counts and a plot."""
    _check(arguments)
    record = start_record(arguments)
    with result_folder(arguments.out) as folder:
        task = _read_task(arguments)
        record.note(corpora=hash_corpora({language or "inputs": file for language, file in _files(arguments).items()}))
        if arguments.make is not None:
            with record.stage("make"):
                task = _with_made_inputs(arguments, task)
            others = _made_names(arguments)
        elif arguments.others is not None:
            others = arguments.others
        else:
            others = [name for name in task.items[0].texts if name not in (arguments.source, arguments.target)]
        examples = [(item, item.references[0]) for item in task.items[: arguments.shots]]
        task = dataclasses.replace(task, items=task.items[arguments.shots :])
        model, tokenizer = load(arguments, record)
        with record.stage("compare"):
            comparison = _compare(arguments, model, tokenizer, task, others, examples)
        with record.stage("write"):
            _write(comparison, task, arguments.source, folder, arguments.positions)
        record.note(items=comparison.items, left_out=comparison.left_out, others=others, scores=comparison.signatures)
        record.write(folder)
    print(pmi_table(comparison.table))
    print(
        f"\n{comparison.items:,} items; active: fraction of the FFN neurons that are active at "
        f"{POSITION_LABELS[arguments.positions]}; {TOP_SHARE}"
    )
    if comparison.left_out:
        print(
            f"{comparison.left_out:,} items were left out: their longest prompt has more tokens than the model allows"
        )
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _check(arguments: argparse.Namespace) -> None:
    _files(arguments)  # checks them
    if arguments.task in ("translation", "free"):
        require(arguments, ("target",), f"for --task {arguments.task} ")
    if arguments.task == "free" and not arguments.instruction:
        arguments.parser.error("for --task free --instruction is required")
    if arguments.positions == "response" and arguments.count_only:
        arguments.parser.error("argument --count-only: not allowed with --positions response")
    _check_made_inputs(arguments)
    for name in (arguments.source, arguments.target):
        if name in (arguments.others or ()):
            arguments.parser.error(f"argument --others: {name!r} is the source or the target: leave it out")


def _check_made_inputs(arguments: argparse.Namespace) -> None:
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


def _read_task(arguments: argparse.Namespace) -> ParallelTask:
    """Returns the task with the inputs of its file, without those that a model is going to make."""
    from pymultiling.methods import pmi

    files = {language: text_file(arguments, file) for language, file in _files(arguments).items()}
    inputs = files.pop("", None) or files
    if arguments.task == "math":
        return pmi.math(inputs)
    if arguments.task == "nli":
        return pmi.nli(inputs)
    languages = None
    if arguments.others is not None or arguments.make is not None:
        made_names = set() if arguments.make is None else set(_made_names(arguments))
        names = dict.fromkeys((arguments.source, *(arguments.others or ()), arguments.pivot))
        languages = [name for name in names if name is not None and name not in made_names]
        if arguments.make == BACK_TRANSLATION:  # --others are languages to go through, and no inputs of the file
            languages = [name for name in languages if name in (arguments.source, arguments.pivot)]
    task = pmi.translation(inputs, target=arguments.target, languages=languages)
    return dataclasses.replace(task, name="free", template="free") if arguments.task == "free" else task


def _files(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns {language: file} of --inputs, or {"": file} for a file with all languages."""
    files: dict[str, str] = {}
    for text in arguments.inputs:
        match = LANGUAGE_FILE.fullmatch(text)
        language, file = match.groups() if match else ("", text)
        if language in files or "" in files or (files and not language):
            arguments.parser.error(
                f"argument --inputs: {text!r} is one too many: give one file with all languages, or CODE=FILE once for "
                "each language"
            )
        # A shell expands ~ only at the beginning of a word.
        files[language] = os.path.expanduser(file)  # noqa: PTH111 - Path would change URLs such as hf://...
    return files


def _made_names(arguments: argparse.Namespace) -> list[str]:
    """Returns the names of the inputs that a model makes."""
    from pymultiling.methods.pmi.translate import input_names

    return input_names(_languages_or_number(arguments), arguments.source.partition("~")[0], arguments.make)


def _languages_or_number(arguments: argparse.Namespace) -> list[str] | int:
    """Returns what `pmi.translate` takes as `into`: the number of paraphrases, or languages."""
    if arguments.make == PARAPHRASE:
        number: int = arguments.number or DEFAULT_PARAPHRASES
        return number
    others: list[str] = arguments.others
    return others


def _with_made_inputs(arguments: argparse.Namespace, task: ParallelTask) -> ParallelTask:
    """Returns the task with inputs that a model makes, in place of those in the file."""
    from pymultiling.methods import pmi
    from pymultiling.models.loading import load_translator, pick_device

    translator: Server | Generator
    if arguments.base_url is not None:
        translator = pmi.Server(arguments.by, arguments.base_url)
    else:
        translator = pmi.Generator(*load_translator(arguments.by, pick_device(arguments.device)))
    needed = arguments.shots + arguments.limit if arguments.limit is not None else None
    made_names = set(_made_names(arguments))
    items = [
        dataclasses.replace(item, texts={name: text for name, text in item.texts.items() if name not in made_names})
        for item in task.items[:needed]
    ]
    items = pmi.translate_items(
        items,
        _languages_or_number(arguments),
        source=arguments.source,
        by=translator,
        how=arguments.make,
        cache=arguments.cache,
        names=dict(arguments.name or ()),
        progress=not arguments.quiet,
    )
    return dataclasses.replace(task, items=items)


def _compare(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ParallelTask,
    others: list[str],
    examples: Sequence[tuple[ParallelItem, str]],
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
        progress=not arguments.quiet,
    )


def _write(comparison: Comparison, task: ParallelTask, source: str, folder: Path, positions: str) -> None:
    """Writes table.csv, by_layer.csv, the plot pmi, counts/ with one file per kind of prompt, and answers.jsonl.

    With --count-only there are no answers, and no answers.jsonl. The field "item" of answers.jsonl counts from 0,
    without the items that --shots shows as examples: with --shots 2, item 0 is the third item of the file.
    """
    from pymultiling.results import plots

    comparison.table.to_csv(folder / "table.csv", index=False)
    comparison.by_layer.to_csv(folder / "by_layer.csv", index=False)
    (folder / "counts").mkdir()
    for name, statistics in comparison.statistics.items():
        statistics.save(folder / "counts" / f"{name}.safetensors", prompt=name, positions=positions)
    if comparison.answers:
        with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
            for index, answers in zip(comparison.places, zip(*comparison.answers.values())):
                item = task.items[index]
                record = {
                    "item": index,
                    "source": item.texts[source],
                    "references": item.references,
                    "answers": dict(zip(comparison.answers, answers)),
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    save_plot(plots.pmi(comparison.table, comparison.statistics, positions), folder, "pmi")
