"""The commands `detect` and `ablate`: from files to a folder of results."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling import plots
from pymultiling.errors import CheckpointError
from pymultiling.loading import load_model, pick_device
from pymultiling.methods.ablation import ablation_matrix
from pymultiling.methods.plnd import Detection
from pymultiling.methods.plnd import detect as detect_neurons
from pymultiling.models.decoder import Decoder
from pymultiling.neurons import NeuronSet
from pymultiling.report import (
    change_table,
    counts_by_site,
    log_change,
    own_and_others,
    perplexity_table,
    with_random,
)
from pymultiling.runs import Run, file_hash, result_folder
from pymultiling.selection import Threshold, TopK

if TYPE_CHECKING:
    import pandas


def detect(arguments: Namespace, rule: TopK | Threshold) -> None:
    """Finds every language's neurons; writes sets, statistics, counts and plots."""
    run = _run("detect", arguments)
    with result_folder(arguments.out) as folder:
        corpora = dict(arguments.corpus)
        run.note(corpora=_hashes(corpora), rule=rule.rule())
        model, tokenizer = _load(arguments, run)
        with run.stage("detect"):
            detection = detect_neurons(
                model,
                tokenizer,
                corpora,
                select=rule,
                sites=arguments.sites,
                rope=arguments.rope,
                score=arguments.score,
                qk=arguments.qk,
                **_documents(arguments),
            )
        with run.stage("write"):
            write_detection(detection, folder, arguments.model)
        run.note(texts={name: asdict(report) for name, report in detection.corpora.items()})
        run.write(folder)
    print(counts_by_site(detection.report()), end="\n\n")
    for language, statistics in detection.statistics.items():
        became = f"{statistics.documents:,} documents, {statistics.tokens:,} tokens"
        print(f"{language}: {became}; {detection.corpora[language]}")
    print(f"\nresults in {arguments.out}, {run.elapsed:.1f} s")


def ablate(arguments: Namespace) -> None:
    """Measures perplexities with each set off; writes the matrix, its change, and a heat map."""
    run = _run("ablate", arguments)
    with result_folder(arguments.out) as folder:
        texts = dict(arguments.texts)
        run.note(corpora=_hashes(texts), seed=arguments.random)
        sets = _sets(arguments.neurons)
        model, tokenizer = _load(arguments, run)
        _check_fit(sets, model)
        if arguments.random is not None:
            sets = with_random(sets, arguments.random)
        with run.stage("ablate"):
            perplexities = ablation_matrix(model, tokenizer, sets, texts, progress=True, **_documents(arguments))
        with run.stage("write"):
            write_ablation(perplexities, folder)
        run.write(folder)
    print("perplexity", perplexity_table(perplexities), sep="\n", end="\n\n")
    print('change of log-perplexity against "none"', change_table(log_change(perplexities)), sep="\n")
    print(f"\nresults in {arguments.out}, {run.elapsed:.1f} s")


def write_detection(detection: Detection, folder: Path, model: str) -> None:
    """Writes neurons/, specific/ and statistics/ with a file a language, report.csv, and the plots."""
    specific = detection.specific()
    for name, sets in (("neurons", detection.neurons), ("specific", specific)):
        (folder / name).mkdir()
        for language, neurons in sets.items():
            neurons.save(folder / name / f"{language}.safetensors", model=model, language=language)
        plots.save(plots.neurons_by_layer(sets, plots.TITLES[name]), folder / f"{name}.png")
    (folder / "statistics").mkdir()
    for language, statistics in detection.statistics.items():
        statistics.save(folder / "statistics" / f"{language}.safetensors")
    detection.report().to_csv(folder / "report.csv", index=False)


def write_ablation(perplexities: pandas.DataFrame, folder: Path) -> None:
    """Writes perplexity.csv, log_change.csv, ablation.csv (`own_and_others`), and ablation.png."""
    change = log_change(perplexities)
    perplexities.to_csv(folder / "perplexity.csv", index_label="off")
    change.to_csv(folder / "log_change.csv", index_label="off")
    own_and_others(change).to_csv(folder / "ablation.csv", index_label="language")
    plots.save(plots.ablation(change), folder / "ablation.png")


def _run(command: str, arguments: Namespace) -> Run:
    apart = ("command", "run", "parser", "debug")
    return Run(command, {name: value for name, value in vars(arguments).items() if name not in apart})


def _load(arguments: Namespace, run: Run):
    with run.stage("load"):
        device = pick_device(arguments.device)
        model, tokenizer = load_model(arguments.model, device, arguments.dtype, arguments.revision)
    run.note(
        model={
            "name": arguments.model,
            "revision": getattr(model.config, "_commit_hash", None),
            "type": model.config.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        device=str(device),
    )
    return model, tokenizer


def _documents(arguments: Namespace) -> dict[str, int | None]:
    return {name: getattr(arguments, name) for name in ("max_length", "batch_tokens", "pack")}


def _hashes(corpora: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"file": path, "sha256": file_hash(path)} for name, path in corpora.items()}


def _sets(given: list[str]) -> dict[str, NeuronSet]:
    """The sets of every NAME=FILE and folder."""
    sets: dict[str, NeuronSet] = {}
    for argument in given:
        for name, file in _set_files(argument):
            if name in sets or name == "none":
                raise CheckpointError(f"{file}: the name {name!r} is taken already, give another as NAME={file}")
            sets[name] = NeuronSet.load(file)
    return sets


def _set_files(argument: str) -> list[tuple[str, Path]]:
    name, found, file = argument.partition("=")
    if found and not Path(argument).is_dir():
        return [(name, Path(file))]
    files = sorted(Path(argument).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{argument}: looked for NAME=FILE, or a folder of .safetensors files that detect wrote")
    return [(file.stem, file) for file in files]


def _check_fit(sets: dict[str, NeuronSet], model) -> None:
    decoder = Decoder(model)
    for name, neurons in sets.items():
        try:
            neurons.check_fits(decoder.widths(), len(decoder.layers))
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from None
