"""What the commands share: a run's record, the model, the sets, and how documents are made."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pymultiling.cli.argument_types import names_file
from pymultiling.data.file_shards import file_shards
from pymultiling.errors import CheckpointError
from pymultiling.models.loading import commit_of, load_model, pick_device
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.set_files import files_by_name
from pymultiling.neurons.sets import NeuronSet
from pymultiling.results.run import Run, file_hash


def record_of(command: str, arguments: Namespace) -> Run:
    """The run's record; CheckpointError where the folder of its results would replace what the run reads, or its state."""
    out = arguments.out.resolve()
    state = getattr(arguments, "checkpoint", None)
    for path in _paths(value for name, value in vars(arguments).items() if name != "out"):
        if (path.exists() or path == state) and path.resolve().is_relative_to(out):
            raise CheckpointError(
                f"--out {arguments.out} is to hold results alone, and {path} is in it: give --out another folder"
            )
    apart = ("command", "run", "parser", "debug")
    return Run(command, {name: value for name, value in vars(arguments).items() if name not in apart})


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Whatever among arguments may be a path: PATH, NAME=PATH, and lists of these."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif isinstance(value, (str, Path)) and str(value):
            yield Path(value)
            yield Path(str(value).partition("=")[2] or value)


def load(arguments: Namespace, run: Run):
    with run.stage("load"):
        device = pick_device(arguments.device)
        model, tokenizer = load_model(arguments.model, device, arguments.dtype, arguments.revision)
    run.note(
        model={
            "name": arguments.model,
            "revision": commit_of(arguments.model, arguments.revision),
            "type": model.config.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        device=str(device),
    )
    return model, tokenizer


def documents_of(arguments: Namespace) -> dict[str, int | None]:
    return {name: getattr(arguments, name) for name in ("max_length", "batch_tokens", "pack")}


def pass_of(arguments: Namespace) -> dict[str, object]:
    """Documents, and how the pass over them is run."""
    how = ("workers", "checkpoint", "checkpoint_seconds", "checkpoint_documents")
    return {**documents_of(arguments), **{name: getattr(arguments, name) for name in how}}


def hashes(corpora: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"file": path, "sha256": file_hash(path)} for name, path in corpora.items()}


def hashes_of_files(corpora: dict[str, str]) -> dict[str, dict[str, object]]:
    """As `hashes`, of each file where a pattern names several; of remote ones, their size and both ends."""
    found: dict[str, dict[str, object]] = {}
    for name, path in corpora.items():
        shards = file_shards(path)
        if "://" in path:
            found[name] = {"file": path, "fingerprints": {shard.name: shard.fingerprint() for shard in shards}}
        elif len(shards) == 1:
            found[name] = {"file": path, "sha256": file_hash(shards[0].name)}
        else:
            found[name] = {"file": path, "files": {shard.name: file_hash(shard.name) for shard in shards}}
    return found


def read_sets(given: list[str]) -> dict[str, NeuronSet]:
    """The sets of every NAME=FILE and folder; none may be called "none"."""
    return _read(given, NeuronSet.load, "detect", taken=("none",))


def read_counts(given: list[str]) -> dict[str, ActivationStatistics]:
    """The counts of every NAME=FILE and folder."""
    return _read(given, ActivationStatistics.load, "count")


def _read(given: list[str], load: Callable, command: str, taken: tuple[str, ...] = ()) -> dict:
    found = {}
    for argument in given:
        for name, file in _named_files(argument, command):
            if name in found or name in taken:
                raise CheckpointError(f"{file}: the name {name!r} is taken already, give another as NAME={file}")
            found[name] = load(file)
    return found


def _named_files(argument: str, command: str) -> list[tuple[str, Path]]:
    name, found, file = argument.partition("=")
    if found and not Path(argument).is_dir():
        if not names_file(name):
            raise CheckpointError(f"{name!r} cannot name a file: give a code such as fr in {argument}")
        return [(name, Path(file).expanduser())]
    files = files_by_name(argument)
    if not files:
        raise CheckpointError(
            f"{argument}: looked for NAME=FILE, or a folder of .safetensors files that {command} wrote"
        )
    return list(files.items())
