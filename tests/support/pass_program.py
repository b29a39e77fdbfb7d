"""The program of test_processes.py: `detect` and `activations` on corpora in several processes.

python -m tests.support.pass_program FOLDER HOW    measures FOLDER/*.txt

HOW is "dying" (the second process is killed in the first attempt), "by memory" (it is killed too; the memory decides
the tokens of a forward, the processes differ in it, the first one has more in the second attempt, and each writes the
tokens of its forwards), "failing" (the second process raises an error), "other call", "other texts" or "other files"
(it gets other arguments), "streamed" (the corpora are streamed data sets of two parquet files, after a map), or
anything else (nothing goes wrong).
"""

import os
import signal
import sys
import time
from pathlib import Path

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.methods import activations, plnd
from pymultiling.passes import corpus_pass
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import tiny_tokenizer


def main(folder: Path, how: str) -> None:
    chunks.LEAST = 1  # makes chunks of at most 80 texts
    second = os.environ.get("RANK") == "1"
    corpora = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    if how in ("dying", "by memory") and second and is_first_attempt:
        kill_after(ImportanceProbe, 4)
    if how == "failing" and second:
        ImportanceProbe.launch = fail
    options = dict(batch_tokens=20, checkpoint_documents=5)
    states = {"detect": folder / "detect", "count": folder / "count"}
    if how == "other call":
        options, states = dict(max_length=30 if second else 20), dict.fromkeys(states)
    if how == "other texts":
        corpora = {language: iter(path.read_text().splitlines()[second:]) for language, path in corpora.items()}
    if how == "other files":
        corpora = {language: write_parts(path, second) for language, path in corpora.items()}
    if how == "streamed":
        corpora = {language: stream_parts(path) for language, path in corpora.items()}
    arguments = tiny_model("llama"), tiny_tokenizer(), corpora
    if how == "by memory":
        options["batch_tokens"] = None
        corpus_pass.USUAL = 20  # so that chunks are as small as with 20 tokens
        set_memory(tokens=128 if second else 32 if is_first_attempt else 256)
        record_forwards(folder / f"forwards-{os.environ['RANK']}")
    detection = pml.detect(*arguments, checkpoint=states["detect"], **options)
    counts = pml.activations(*arguments, checkpoint=states["count"], **options)
    write_results(folder / f"process-{os.environ.get('RANK', 'alone')}", detection, counts)


def stream_parts(path: Path) -> object:
    """Returns a streamed data set of two parquet files, which this process writes, with the lines of a file."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    folder = path.with_suffix("") / os.environ.get("RANK", "alone")
    folder.mkdir(parents=True)
    for number in range(2):
        lines = path.read_text().splitlines()[number::2]
        parquet.write_table(pyarrow.table({"line": lines}), folder / f"{number}.parquet")
    files = str(folder / "*.parquet")
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return streamed.map(lambda row: {"text": row["line"]})


def write_parts(path: Path, second: bool) -> str:
    """Writes two files, whose names are the same in both processes, and returns a pattern that names them."""
    folder = path.with_suffix("") / str(int(second))
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"{number}.txt").write_text("\n".join(path.read_text().splitlines()[2 * number + second :: 4]))
    return f"{folder}/*.txt"


def kill_after(probe, batches: int) -> None:
    """Makes a class of probes kill this process when it measures the batch after `batches` batches."""
    measure, calls = probe.launch, 0

    def measure_or_die(*arguments):
        nonlocal calls
        calls += 1
        if calls > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*arguments)

    probe.launch = measure_or_die


def set_memory(tokens: int) -> None:
    """Makes forwards of this many tokens fit in memory."""
    for method in (plnd, activations):
        method.tokens_that_fit = lambda decoder: tokens


def record_forwards(file: Path) -> None:
    """Makes every forward of importance append its number of tokens, padding included, as a line of a file."""
    launch = ImportanceProbe.launch

    def launch_and_record(self, input_ids, *arguments):
        with file.open("a") as lines:
            print(input_ids.numel(), file=lines)
        return launch(self, input_ids, *arguments)

    ImportanceProbe.launch = launch_and_record


def fail(*_):
    """Raises an error, as a method of a probe."""
    time.sleep(3.0)  # until the other process waits for this one
    raise pml.CorpusError("this one fails")


def write_results(out: Path, detection: pml.Detection, counts: dict[str, pml.ActivationStatistics]) -> None:
    """Writes the neurons, both statistics and the descriptions of the corpus of each language into a new folder."""
    out.mkdir()
    for language in detection.neurons:
        detection.neurons[language].save(out / f"{language}.neurons")
        detection.statistics[language].save(out / f"{language}.statistics")
        counts[language].save(out / f"{language}.counts")
        (out / f"{language}.report").write_text(f"{detection.corpora[language]}; {counts.corpora[language]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
