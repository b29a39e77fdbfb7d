"""What test_processes.py starts with torchrun: a pass over tiny corpora, whose second process dies in the first attempt, or differs."""

import os
import signal
import sys
import time
from pathlib import Path

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import tiny_tokenizer


def main(folder: Path, how: str) -> None:
    chunks.LEAST = 1  # chunks of 80 texts at most
    second = os.environ.get("RANK") == "1"
    corpora = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if how == "dying" and second and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die_after(ImportanceProbe, 4)
    if how == "failing" and second:
        ImportanceProbe.measure = failing
    options = dict(batch_tokens=20, checkpoint_documents=5)
    states = {"detect": folder / "detect", "count": folder / "count"}
    if how == "other call":
        options, states = dict(max_length=30 if second else 20), dict.fromkeys(states)
    if how == "other texts":
        corpora = {language: iter(path.read_text().splitlines()[second:]) for language, path in corpora.items()}
    if how == "other files":
        corpora = {language: parts(path, second) for language, path in corpora.items()}
    arguments = tiny_model("llama"), tiny_tokenizer(), corpora
    found = pml.detect(*arguments, checkpoint=states["detect"], **options)
    counts = pml.activations(*arguments, checkpoint=states["count"], **options)
    write(folder / f"process-{os.environ.get('RANK', 'alone')}", found, counts)


def parts(path: Path, second: bool) -> str:
    """A pattern of two files, of names that both processes give theirs."""
    own = path.with_suffix("") / str(int(second))
    own.mkdir(parents=True)
    for number in range(2):
        (own / f"{number}.txt").write_text("\n".join(path.read_text().splitlines()[2 * number + second :: 4]))
    return f"{own}/*.txt"


def die_after(probe, batches: int) -> None:
    measure, seen = probe.measure, 0

    def dying(*arguments):
        nonlocal seen
        seen += 1
        if seen > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*arguments)

    probe.measure = dying


def failing(*_):
    time.sleep(3.0)  # the other one waits by then
    raise pml.CorpusError("this one fails")


def write(out: Path, found: pml.Detection, counts: dict[str, pml.ActivationStatistics]) -> None:
    out.mkdir()
    for language in found.neurons:
        found.neurons[language].save(out / f"{language}.neurons")
        found.statistics[language].save(out / f"{language}.statistics")
        counts[language].save(out / f"{language}.counts")
        (out / f"{language}.report").write_text(f"{found.corpora[language]}; {counts.corpora[language]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
