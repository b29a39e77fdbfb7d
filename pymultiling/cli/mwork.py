"""The command `mwork`: from neuron sets and tasks to the table of what each part of a model is for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import count, named, whole
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.demo_detection import DETECTION_DOCUMENTS, detect_demo, load_demo, note_demo
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_model, refuse_twice, require
from pymultiling.cli.shared.run_record import hashes, record_of
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run
from pymultiling.results.tables import mwork_table

if TYPE_CHECKING:
    from pymultiling.neurons.sets import NeuronSet
    from pymultiling.tasks import Task

COMMAND = Command(
    name="mwork",
    group=Group.MEASURE,
    summary="measure tasks with each part of the model without a language's neurons (MWork)",
    title="What each part of a model is for",
    about="Tasks, with a language's neurons off in parts of the model.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling mwork --model Qwen/Qwen3-0.6B --neurons found/neurons --text en=en.heldout.txt "
    "--text fr=fr.heldout.txt --search fr --out parts",
)
TASKS = ("text", "mgsm", "xquad", "xcopa", "xcsqa", "xlsum")
ITEMS, CHARACTERS = 16, 160  # of the demo's task, a language, and of a text at most: it is to take a minute or two


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--demo", action="store_true", help="the model and texts of the package; nothing else is needed but --out"
    )
    parser.add_argument(
        "--neurons",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="sets that detect wrote, or their folder; repeat",
    )
    of_tasks = parser.add_argument_group(
        "tasks, of .jsonl or .jsonl.gz files; those with field lang hold all languages"
    )
    of_tasks.add_argument(
        "--text",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        help="held-out texts, as for ablate: which second half belongs to a first half; repeat",
    )
    of_tasks.add_argument("--mgsm", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--exemplars", metavar="FILE", help="worked examples for --mgsm")
    of_tasks.add_argument("--shots", metavar="N", type=whole, default=8, help="of them before a question (%(default)s)")
    of_tasks.add_argument("--xquad", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--contexts", metavar="FILE", help="paragraphs for --xquad")
    for name, what in (
        ("xcopa", "premises and choices (English is not in XCOPA: give COPA in its fields)"),
        ("xcsqa", "questions and choices"),
        ("xlsum", "articles and summaries"),
    ):
        of_tasks.add_argument(f"--{name}", metavar="LANGUAGE=FILE", type=named, action="append", help=f"{what}; repeat")
    of_tasks.add_argument("--metric", metavar="NAME", help="judge all tasks by it; likelihood serves small models")
    of_tasks.add_argument("--limit", metavar="N", type=count, help="items a language")
    of_parts = parser.add_argument_group("parts of the model: both sizes, or --search")
    of_parts.add_argument("--understanding", metavar="N", type=whole, help="the first N layers")
    of_parts.add_argument("--generation", metavar="N", type=whole, help="the last N layers")
    of_parts.add_argument("--search", metavar="LANGUAGE", help="find both on the first task in this language")
    parser.add_argument("--english", metavar="NAME", default="en", help="English among the languages (%(default)s)")
    parser.add_argument("--seeds", metavar="N", type=count, default=3, help="random sets a row (%(default)s)")
    add_model(parser, required=False)


def run(arguments: argparse.Namespace) -> None:
    """Measures tasks with parts of the model without a language's neurons; writes mwork.csv, its plot, and the search."""
    from pymultiling.methods.mwork import mwork
    from pymultiling.models.decoder import Decoder
    from pymultiling.results import plots

    _check(arguments)
    record = record_of(arguments)
    with result_folder(arguments.out) as folder:
        model, tokenizer, sets, chosen = _demo(record) if arguments.demo else _from_files(arguments, record)
        if arguments.metric is not None:
            chosen = [task.judged_by(arguments.metric) for task in chosen]
        chosen = [task.only(limit=arguments.limit) for task in chosen]
        layers = len(Decoder(model).layers)
        options = {"english": arguments.english, "batch_tokens": arguments.batch_tokens}
        if arguments.search is None:
            understanding, generation = range(arguments.understanding), range(layers - arguments.generation, layers)
        else:
            with record.stage("search"):
                understanding, generation = _search(
                    arguments.search, model, tokenizer, sets, chosen[0], folder, options
                )
        with record.stage("mwork"):
            table = mwork(
                model, tokenizer, sets, chosen, understanding=understanding, generation=generation,
                seeds=range(arguments.seeds), progress=True, **options,
            )  # fmt: skip
        with record.stage("write"):
            table.to_csv(folder / "mwork.csv", index=False)
            plots.save(plots.mwork(table), folder / "mwork.png")
        spans = {"understanding": _span(understanding), "generation": _span(generation)}
        record.note(layers=layers, **spans, tasks={task.name: task.metric for task in chosen})
        record.write(folder)
    print(f"\nLayers of understanding: {spans['understanding']}; of generation: {spans['generation']}; of {layers}.")
    print("✗: a language's neurons, or as many random ones, are off there; Eng: English under the same sets.\n")
    print(mwork_table(table))
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _check(arguments: argparse.Namespace) -> None:
    for option in ("text", "xcopa", "xcsqa", "xlsum"):
        refuse_twice(arguments, option)
    given = [name for name in ("understanding", "generation") if getattr(arguments, name) is not None]
    if arguments.search and given:
        arguments.parser.error(f"argument --search: not allowed with --{given[0]}")
    if arguments.demo:
        others = [name for name in ("model", "neurons", *TASKS) if getattr(arguments, name) is not None]
        if others:
            arguments.parser.error(f"argument --demo: not allowed with --{others[0]}")
        arguments.search = arguments.search or (None if len(given) == 2 else "fr")
    else:
        require(arguments, ("model", "neurons"))
        if all(getattr(arguments, name) is None for name in TASKS):
            arguments.parser.error(f"no task is given: looked for one of --{', --'.join(TASKS)}")
        for option, other in (("mgsm", "exemplars"), ("xquad", "contexts")):
            if getattr(arguments, option):
                require(arguments, (other,), f"with --{option} ")
        if arguments.search is None:
            require(arguments, ("understanding", "generation"), "without --search ")


def _demo(record: Run) -> tuple[object, object, dict[str, NeuronSet], list[Task]]:
    """Model, tokenizer, {language: its own neurons}, and tasks: second halves of held-out texts, by their likelihood."""
    from pymultiling import demo_model, tasks

    model, tokenizer, corpora = load_demo(DETECTION_DOCUMENTS)
    detection = detect_demo(model, tokenizer, corpora, record)
    heldout = {
        name: [text for text in texts if len(text) <= CHARACTERS][:ITEMS]
        for name, texts in demo_model.heldout().items()
    }
    note_demo(record, model, corpora, heldout)
    return model, tokenizer, detection.specific(), [tasks.continuation(heldout).judged_by("likelihood")]


def _from_files(arguments: argparse.Namespace, record: Run) -> tuple[object, object, dict[str, NeuronSet], list[Task]]:
    """As `_demo`, of the files that the arguments name."""
    chosen = _tasks(arguments)
    one = {name: getattr(arguments, name) for name in ("mgsm", "exemplars", "xquad", "contexts")}
    files = {name: path for name, path in one.items() if path is not None}
    for name in ("text", "xcopa", "xcsqa", "xlsum"):
        files |= {f"{name}, {language}": path for language, path in getattr(arguments, name) or ()}
    record.note(corpora=hashes(files))
    sets = read_sets(arguments.neurons)
    return *load(arguments, record), sets, chosen


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    from pymultiling import tasks
    from pymultiling.data.corpora import CorpusReport, read_texts

    chosen = []
    if arguments.mgsm:
        chosen.append(tasks.mgsm(arguments.mgsm, arguments.exemplars, arguments.shots))
    if arguments.xquad:
        chosen.append(tasks.xquad(arguments.xquad, arguments.contexts))
    if arguments.xcopa:
        chosen.append(tasks.xcopa(dict(arguments.xcopa)))
    if arguments.xcsqa:
        chosen.append(tasks.xcsqa(dict(arguments.xcsqa)))
    if arguments.xlsum:
        chosen.append(tasks.xlsum(dict(arguments.xlsum)))
    if arguments.text:
        texts = {name: list(read_texts(path, CorpusReport())) for name, path in arguments.text}
        chosen.append(tasks.continuation(texts))
    return chosen


def _search(language: str, model, tokenizer, sets: dict[str, NeuronSet], task: Task, folder: Path, options: dict):
    """The layers of understanding and of generation; writes and prints what was tried."""
    from pymultiling.methods.mwork_search import mwork_search

    found = mwork_search(model, tokenizer, sets, task, language, **options)
    found.sweep.to_csv(folder / "search.csv", index=False)
    print(f"Neurons of {language} off in the first and in the last layers, {task.name}\n")
    print(found.sweep.round(4).to_string(index=False), end="\n\n", flush=True)
    return found.understanding, found.generation


def _span(layers: range) -> str:
    return f"{layers.start} to {layers.stop - 1}" if len(layers) else "none"
