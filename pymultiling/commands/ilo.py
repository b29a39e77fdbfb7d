"""The command `ilo`: from sentences in several languages to how far these share one space."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from tempfile import TemporaryDirectory

from pymultiling.cli.command_run import hashes, load, record_of
from pymultiling.data.parallel_texts import columns_of, lines
from pymultiling.errors import CorpusError
from pymultiling.methods.embeddings import sentence_embeddings
from pymultiling.methods.ilo import check_bridges, ilo
from pymultiling.methods.retrieval import cka, retrieval
from pymultiling.results import plots
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run


def run(arguments: Namespace) -> None:
    """Measures ILO, and retrieval and CKA of translations; writes a table of each, and a plot."""
    record = record_of("ilo", arguments)
    with result_folder(arguments.out) as folder:
        sentences, parallel = _sentences(arguments, record)
        check_bridges(arguments.k, arguments.tau, len(sentences))
        model, tokenizer = load(arguments, record)
        on = {"device": model.device}
        with TemporaryDirectory(dir=folder) as kept:  # embeddings of large models would fill the memory
            with record.stage("embeddings"):
                options = {"max_length": arguments.max_length, "batch_tokens": arguments.batch_tokens, "progress": True}
                points = sentence_embeddings(model, tokenizer, sentences, folder=kept, **options)
            with record.stage("ilo"):
                table = ilo(points, k=arguments.k, tau=arguments.tau, metric=arguments.metric, **on)
            if parallel:
                with record.stage("retrieval and cka"):
                    found, alike = retrieval(points, metric=arguments.metric, **on), cka(points, **on)
        table.to_csv(folder / "ilo.csv", index=False)
        plots.save(plots.ilo(table), folder / "ilo.png")
        means = table.groupby("layer")[["bridge", "reach", "ilo"]].mean()
        if parallel:
            found.to_csv(folder / "retrieval.csv", index=False)
            alike.to_csv(folder / "cka.csv", index=False)
            means["retrieval"] = found.groupby("layer")["accuracy"].mean()
            means["cka"] = alike.groupby("layer")["cka"].mean()
        record.note(texts={name: asdict(report) for name, report in points.corpora.items()})
        record.write(folder)
    for language, report in points.corpora.items():
        print(f"{language}: {report}")
    print("\nILO by language and layer (0: embeddings)")
    print(table.pivot(index="language", columns="layer", values="ilo").loc[list(sentences)].round(3).to_string())
    print("\nmeans over languages, and over pairs of them")
    print(means.round(3).to_string())
    if not parallel:
        print(
            "no retrieval and no CKA: the languages' files have different numbers of lines, so these are no translations"
        )
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _sentences(arguments: Namespace, record: Run) -> tuple[dict[str, list[str]], bool]:
    """The sentences, and whether those of one place are translations of each other, as far as their number tells."""
    if arguments.sentences:
        files = dict(arguments.sentences)
        record.note(corpora=hashes(files))
        found = {language: lines(path) for language, path in files.items()}
    else:
        record.note(corpora=hashes({"parallel": arguments.parallel}))
        found = columns_of(arguments.parallel)
        chosen = arguments.languages or list(found)
        if missing := [language for language in chosen if language not in found]:
            raise CorpusError(f"{arguments.parallel} has no language {missing[0]!r}, only {', '.join(found)}")
        found = {language: found[language] for language in chosen}
    parallel = len(set(map(len, found.values()))) == 1
    return {language: some[: arguments.limit] for language, some in found.items()}, parallel
