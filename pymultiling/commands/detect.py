"""The command `detect`: from corpora to every language's neurons."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from pymultiling.cli.command_run import hashes_of_files, load, pass_of, record_of
from pymultiling.methods.overlap import overlap
from pymultiling.methods.plnd import Detection
from pymultiling.methods.plnd import detect as detect_neurons
from pymultiling.neurons.selection import Threshold, TopK
from pymultiling.results import plots
from pymultiling.results.folders import check_free, result_folder
from pymultiling.results.tables import counts_by_site
from pymultiling.runtime.processes import is_first, join


def run(arguments: Namespace, rule: TopK | Threshold) -> None:
    """Finds every language's neurons; writes sets, statistics, counts and plots."""
    record = record_of("detect", arguments)
    corpora = dict(arguments.corpus)
    join()
    if is_first():
        check_free(arguments.out)
        with record.stage("hash"):
            record.note(corpora=hashes_of_files(corpora))
    record.note(rule=rule.rule())
    model, tokenizer = load(arguments, record)
    with record.stage("detect"):
        detection = detect_neurons(
            model,
            tokenizer,
            corpora,
            select=rule,
            sites=arguments.sites,
            rope=arguments.rope,
            score=arguments.score,
            qk=arguments.qk,
            **pass_of(arguments),
        )
    if not is_first():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_detection(detection, folder, arguments.model)
        record.note(texts={name: asdict(report) for name, report in detection.corpora.items()})
        record.write(folder)
    print(counts_by_site(detection.report()), end="\n\n")
    for language, statistics in detection.statistics.items():
        became = f"{statistics.documents:,} documents, {statistics.tokens:,} tokens"
        print(f"{language}: {became}; {detection.corpora[language]}")
    if isinstance(rule, TopK) and rule.share == 1:
        for language, neurons in detection.specific().items():
            if not len(neurons):
                print(f"{language}: no neurons of its own; a --share below 1 asks for them in fewer documents")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def write_detection(detection: Detection, folder: Path, model: str) -> None:
    """Writes neurons/, specific/ and statistics/ with a file a language, report.csv, overlap.csv, jaccard.csv, and the plots."""
    specific = detection.specific()
    for name, sets in (("neurons", detection.neurons), ("specific", specific)):
        (folder / name).mkdir()
        for language, neurons in sets.items():
            neurons.save(folder / name / f"{language}.safetensors", model=model, language=language)
        plots.save(plots.neurons_by_layer(sets, plots.TITLES[name]), folder / f"{name}.png")
    shared = overlap(detection.neurons)
    shared.counts.to_csv(folder / "overlap.csv", index_label="language")
    shared.jaccard.to_csv(folder / "jaccard.csv", index_label="language")
    plots.save(plots.overlap(*shared), folder / "overlap.png")
    (folder / "statistics").mkdir()
    for language, statistics in detection.statistics.items():
        statistics.save(folder / "statistics" / f"{language}.safetensors")
    detection.report().to_csv(folder / "report.csv", index=False)
