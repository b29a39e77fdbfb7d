"""The command `mwork`: from neuron sets and tasks to the table of what each part of a model is for."""

from __future__ import annotations

from argparse import Namespace

from pymultiling import demo, tasks
from pymultiling.cli.command_run import hashes, load, read_sets, record_of
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.methods.mwork import mwork
from pymultiling.methods.mwork_search import mwork_search
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.results import plots
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run
from pymultiling.results.tables import mwork_table
from pymultiling.tasks import Task


def run(arguments: Namespace) -> None:
    """Measures tasks with parts of the model without a language's neurons; writes mwork.csv, its plot, and the search."""
    record = record_of("mwork", arguments)
    with result_folder(arguments.out) as folder:
        prepared = demo.for_mwork(record) if arguments.demo else _from_files(arguments, record)
        model, tokenizer, sets, chosen = prepared
        if arguments.metric is not None:
            chosen = [task.judged_by(arguments.metric) for task in chosen]
        chosen = [task.only(limit=arguments.limit) for task in chosen]
        layers = len(Decoder(model).layers)
        options = {"english": arguments.english, "batch_tokens": arguments.batch_tokens}
        if arguments.search is None:
            understanding, generation = range(arguments.understanding), range(layers - arguments.generation, layers)
        else:
            with record.stage("search"):
                found = mwork_search(model, tokenizer, sets, chosen[0], arguments.search, **options)
            understanding, generation = found.understanding, found.generation
            found.sweep.to_csv(folder / "search.csv", index=False)
            print(f"Neurons of {arguments.search} off in the first and in the last layers, {chosen[0].name}\n")
            print(found.sweep.round(4).to_string(index=False), end="\n\n", flush=True)
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


def _span(layers: range) -> str:
    return f"{layers.start} to {layers.stop - 1}" if len(layers) else "none"


def _from_files(arguments: Namespace, record: Run) -> tuple[object, object, dict[str, NeuronSet], list[Task]]:
    chosen = _tasks(arguments)
    one = {name: getattr(arguments, name) for name in ("mgsm", "exemplars", "xquad", "contexts")}
    files = {name: path for name, path in one.items() if path is not None}
    for name in ("text", "xcopa", "xcsqa", "xlsum"):
        files |= {f"{name}, {language}": path for language, path in getattr(arguments, name) or ()}
    record.note(corpora=hashes(files))
    sets = read_sets(arguments.neurons)
    return *load(arguments, record), sets, chosen


def _tasks(arguments: Namespace) -> list[Task]:
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
