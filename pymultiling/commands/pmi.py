"""The command `pmi`: from parallel texts to what more languages in the prompt do."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

from pymultiling.cli.command_run import hashes, load, record_of
from pymultiling.methods import pmi
from pymultiling.methods.pmi import Comparison, ParallelTask
from pymultiling.methods.pmi.translate import PARAPHRASE, made_names
from pymultiling.models.loading import load_translator, pick_device
from pymultiling.results import plots
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import WHERE, pmi_table

PARAPHRASES = 3


def run(arguments: Namespace) -> None:
    """Compares the source alone with the source and 1, 2, ... others; writes table, answers, counts and plot."""
    record = record_of("pmi", arguments)
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
            found = pmi.compare(
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
        with record.stage("write"):
            _write(found, task, arguments.source, folder, arguments.positions)
        record.note(items=found.items, left_out=found.left_out, others=others, scores=found.signatures)
        record.write(folder)
    print(pmi_table(found.table))
    print(f"\n{found.items:,} items; active: share of the FFN neurons at {WHERE[arguments.positions]}")
    if found.left_out:
        print(f"{found.left_out:,} items were left out: their longest prompt does not fit the model's positions")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _task(arguments: Namespace) -> ParallelTask:
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


def _names(arguments: Namespace) -> list[str]:
    """The inputs that a model makes."""
    return made_names(_into(arguments), arguments.source.partition("~")[0], arguments.make)


def _into(arguments: Namespace) -> list[str] | int:
    return (arguments.number or PARAPHRASES) if arguments.make == PARAPHRASE else arguments.others


def _made(arguments: Namespace, task: ParallelTask) -> ParallelTask:
    """The task with inputs that a model makes, in the place of people's."""
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


def _write(found: Comparison, task: ParallelTask, source: str, folder: Path, positions: str) -> None:
    """Writes table.csv, by_layer.csv, answers.jsonl, counts/ with a file a prompt, pmi.png."""
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
