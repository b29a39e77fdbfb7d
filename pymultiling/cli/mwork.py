"""The command `mwork`: task results with a language's neurons deactivated in parts of the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pymultiling.cli.shared.argument_types import name_and_path, positive_integer, whole_number
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.demo_detection import DETECTION_DOCUMENTS, detect_demo, load_demo, note_demo
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_encoding,
    add_field,
    add_model,
    refuse_duplicates,
    require,
    text_file,
    texts_of,
)
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run
from pymultiling.results.tables import mwork_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pymultiling.neurons.sets import NeuronSet
    from pymultiling.tasks import Task

    Inputs: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, NeuronSet], list[Task]]

COMMAND = Command(
    name="mwork",
    group=Group.MEASURE,
    summary="measure tasks with a language's neurons deactivated in parts of the model (MWork)",
    title="What each part of a model is for",
    about="Tasks, with a language's neurons off in parts of the model.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling mwork --model Qwen/Qwen3-0.6B --neurons found/neurons --text en=en.heldout.txt "
    "--text fr=fr.heldout.txt --search fr --out parts",
    draws=True,
)
# Options with files whose records have their language, and options with a file for each language.
FILE_OPTIONS = ("mgsm", "xquad", "xnli")
LANGUAGE_OPTIONS = ("text", "msvamp", "xcopa", "xcsqa", "xlsum", "boolq")
TASK_OPTIONS = (*LANGUAGE_OPTIONS, *FILE_OPTIONS)
# The demo's task has this many texts per language, of at most so many characters, so that it takes a minute or two.
DEMO_ITEMS, DEMO_CHARACTERS = 16, 160


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="use the demo model and texts of the package; only --out is needed then",
    )
    parser.add_argument(
        "--neurons",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="neurons of one language that detect wrote, such as fr=found/neurons/fr.safetensors, or a folder of such "
        "sets, such as found/neurons, which are named after their files, or the folder that detect wrote, such as "
        "found, whose folder specific is read; may be repeated",
    )
    tasks = parser.add_argument_group(
        "tasks",
        "At least one is needed. --mgsm, --exemplars, --xquad, --contexts and --xnli take one file with all "
        "languages, in which each record has its language in the field lang (XNLI calls it language). --msvamp, "
        "--xcopa, --xcsqa, --xlsum and --boolq take a file for each language, such as fr=fr.jsonl, and are repeated. "
        "Files are .jsonl, .tsv with the columns' names in the first line (both may be .gz or .zst) or .parquet. Each "
        "is given as a path, a URL or a pattern.",
    )
    tasks.add_argument(
        "--text",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        help="held-out texts of one language, such as fr=fr.heldout.txt; the task is to find the second half of a "
        f"text, given its first half; repeat the option for each language. FILE is {TEXT_FILES}",
    )
    tasks.add_argument("--mgsm", metavar="FILE", help="MGSM: questions and answers of mathematics; needs --exemplars")
    tasks.add_argument(
        "--exemplars", metavar="FILE", help="worked examples that are shown before a question of --mgsm or --msvamp"
    )
    tasks.add_argument(
        "--shots",
        metavar="N",
        type=whole_number,
        default=8,
        help="number of worked examples before a question of --mgsm or --msvamp (default: %(default)s)",
    )
    tasks.add_argument("--xquad", metavar="FILE", help="XQuAD: questions on paragraphs, and answers; needs --contexts")
    tasks.add_argument("--contexts", metavar="FILE", help="the paragraphs that --xquad asks about")
    tasks.add_argument(
        "--xnli", metavar="FILE", help="XNLI: premises and hypotheses, as xnli.test.jsonl or xnli.test.tsv of XNLI 1.0"
    )
    for name, description in (
        ("msvamp", "MSVAMP: arithmetic word problems, as test_French.json; needs --exemplars"),
        ("xcopa", "XCOPA: premises and two choices; it has no English: give COPA with the same fields"),
        ("xcsqa", "X-CSQA: questions of common sense, with choices"),
        ("xlsum", "XLSum: news articles and summaries"),
        ("boolq", "BoolQ: passages and questions to answer with yes or no; it is English"),
    ):
        tasks.add_argument(
            f"--{name}",
            metavar="LANGUAGE=FILE",
            type=name_and_path,
            action="append",
            help=f"{description}; repeat the option for each language",
        )
    tasks.add_argument(
        "--metric",
        metavar="NAME",
        help="metric of all tasks, such as likelihood (the mean log-likelihood of the right answer), which shows "
        "differences in small models too; an unknown name prints the list of metrics (default: each task's own)",
    )
    tasks.add_argument(
        "--limit", metavar="N", type=positive_integer, help="use the first N items of each language only (default: all)"
    )
    parts = parser.add_argument_group(
        "parts of the model",
        "The first layers understand the input, the last ones generate the output. Give the number of both, or "
        "--search.",
    )
    parts.add_argument(
        "--understanding", metavar="N", type=whole_number, help="the first N layers are the understanding layers"
    )
    parts.add_argument(
        "--generation", metavar="N", type=whole_number, help="the last N layers are the generation layers"
    )
    parts.add_argument(
        "--search",
        metavar="LANGUAGE",
        help="find both numbers with the neurons of this language, such as fr, on the first task (default: no "
        "search; fr with --demo)",
    )
    parser.add_argument(
        "--english",
        metavar="NAME",
        default="en",
        help="name that English has among the languages; the others are compared with it (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=positive_integer,
        default=3,
        help="number of random sets of neurons per row of the table, for comparison (default: %(default)s)",
    )
    add_encoding(parser)
    add_field(parser)
    add_model(parser, required=False)


def run(arguments: argparse.Namespace) -> None:
    """Measures tasks with neurons deactivated in parts of the model, and writes mwork.csv, its plot and search.csv."""
    from pymultiling.methods.mwork import mwork
    from pymultiling.models.decoder import Decoder
    from pymultiling.results import plots

    _check(arguments)
    record = start_record(arguments)
    with result_folder(arguments.out) as folder:
        if arguments.demo:
            model, tokenizer, sets, tasks = _demo_inputs(record, not arguments.quiet)
        else:
            model, tokenizer, sets, tasks = _file_inputs(arguments, record)
        if arguments.metric is not None:
            tasks = [task.judged_by(arguments.metric) for task in tasks]
        tasks = [task.only(limit=arguments.limit) for task in tasks]
        layers = len(Decoder(model).layers)
        if arguments.search is None:
            understanding, generation = range(arguments.understanding), range(layers - arguments.generation, layers)
        else:
            with record.stage("search"):
                understanding, generation = _search_parts(arguments, model, tokenizer, sets, tasks[0], folder)
        with record.stage("mwork"):
            table = mwork(
                model,
                tokenizer,
                sets,
                tasks,
                understanding=understanding,
                generation=generation,
                seeds=range(arguments.seeds),
                english=arguments.english,
                batch_tokens=arguments.batch_tokens,
                progress=not arguments.quiet,
            )
        with record.stage("write"):
            table.to_csv(folder / "mwork.csv", index=False)
            save_plot(plots.mwork(table), folder, "mwork")
        spans = {"understanding": _span(understanding), "generation": _span(generation)}
        record.note(layers=layers, **spans, tasks={task.name: task.metric for task in tasks})
        record.write(folder)
    print(f"\nUnderstanding layers: {spans['understanding']}; generation layers: {spans['generation']}; of {layers}.")
    print("✗: a language's neurons, or as many random ones, are deactivated in this part. Eng: English with the same")
    print("sets deactivated.\n")
    print(mwork_table(table))
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _check(arguments: argparse.Namespace) -> None:
    for option in LANGUAGE_OPTIONS:
        refuse_duplicates(arguments, option)
    part_options = [name for name in ("understanding", "generation") if getattr(arguments, name) is not None]
    if arguments.search and part_options:
        arguments.parser.error(f"argument --search: not allowed with --{part_options[0]}")
    if arguments.demo:
        file_options = [name for name in ("model", "neurons", *TASK_OPTIONS) if getattr(arguments, name) is not None]
        if file_options:
            arguments.parser.error(f"argument --demo: not allowed with --{file_options[0]}")
        if not arguments.search:
            arguments.search = None if len(part_options) == 2 else "fr"
    else:
        require(arguments, ("model", "neurons"))
        if all(getattr(arguments, name) is None for name in TASK_OPTIONS):
            arguments.parser.error(f"no task is given: add at least one of --{', --'.join(TASK_OPTIONS)}")
        for option, companion in (("mgsm", "exemplars"), ("msvamp", "exemplars"), ("xquad", "contexts")):
            if getattr(arguments, option):
                require(arguments, (companion,), f"with --{option} ")
        if arguments.search is None:
            require(arguments, ("understanding", "generation"), "without --search ")


def _demo_inputs(record: Run, progress: bool) -> Inputs:
    """Returns the demo model, its tokenizer, {language: its specific neurons}, and the task `continuation`."""
    from pymultiling import demo_model
    from pymultiling.tasks import continuation

    model, tokenizer, corpora = load_demo(DETECTION_DOCUMENTS)
    detection = detect_demo(model, tokenizer, corpora, record, progress)
    heldout = {
        language: [text for text in texts if len(text) <= DEMO_CHARACTERS][:DEMO_ITEMS]
        for language, texts in demo_model.heldout().items()
    }
    note_demo(record, model, corpora, heldout)
    return model, tokenizer, detection.specific(), [continuation(heldout).judged_by("likelihood")]


def _file_inputs(arguments: argparse.Namespace, record: Run) -> Inputs:
    """Returns the model, its tokenizer, the neuron sets and the tasks that the arguments name."""
    from pymultiling.methods.mwork import measured_languages

    tasks = _read_tasks(arguments)
    paths = {name: getattr(arguments, name) for name in (*FILE_OPTIONS, "exemplars", "contexts")}
    files = {name: path for name, path in paths.items() if path is not None}
    for name in LANGUAGE_OPTIONS:
        files |= {f"{name}, {language}": path for language, path in getattr(arguments, name) or ()}
    record.note(corpora=hash_corpora(files))
    sets = read_sets(arguments.neurons)
    for number, task in enumerate(tasks):  # before the model is loaded
        measured_languages(task, sets, arguments.english)
        if arguments.search is not None and number == 0:
            measured_languages(task.only((arguments.english, arguments.search)), sets, arguments.english)
    model, tokenizer = load(arguments, record)
    return model, tokenizer, sets, tasks


def _read_tasks(arguments: argparse.Namespace) -> list[Task]:
    from pymultiling import tasks

    chosen = []
    if arguments.mgsm or arguments.msvamp:
        exemplars = text_file(arguments, arguments.exemplars)
    if arguments.mgsm:
        chosen.append(tasks.mgsm(text_file(arguments, arguments.mgsm), exemplars, arguments.shots))
    if arguments.msvamp:
        questions = texts_of(arguments, dict(arguments.msvamp))
        chosen.append(tasks.msvamp(questions, exemplars, arguments.shots))
    if arguments.xquad:
        chosen.append(tasks.xquad(text_file(arguments, arguments.xquad), text_file(arguments, arguments.contexts)))
    if arguments.xnli:
        chosen.append(tasks.xnli(text_file(arguments, arguments.xnli)))
    for name, make_task in (
        ("xcopa", tasks.xcopa),
        ("xcsqa", tasks.xcsqa),
        ("xlsum", tasks.xlsum),
        ("boolq", tasks.boolq),
    ):
        if getattr(arguments, name):
            chosen.append(make_task(texts_of(arguments, dict(getattr(arguments, name)))))
    if arguments.text:
        chosen.append(tasks.continuation(with_stdin(arguments, dict(arguments.text))))
    return chosen


def _search_parts(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, NeuronSet],
    task: Task,
    folder: Path,
) -> tuple[range, range]:
    """Searches the understanding and the generation layers. Writes and prints the task's value for all sizes tried."""
    from pymultiling.methods.mwork_search import mwork_search

    search = mwork_search(
        model,
        tokenizer,
        sets,
        task,
        arguments.search,
        english=arguments.english,
        batch_tokens=arguments.batch_tokens,
    )
    search.sweep.to_csv(folder / "search.csv", index=False)
    print(f"Task {task.name} with the neurons of {arguments.search} deactivated in the first or in the last layers\n")
    print(search.sweep.round(4).to_string(index=False), end="\n\n", flush=True)
    return search.understanding, search.generation


def _span(layers: range) -> str:
    return f"{layers.start} to {layers.stop - 1}" if len(layers) else "none"
