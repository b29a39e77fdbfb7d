"""Prints the time and the memory that it takes to read the tokens of one very long line.

    python -m benchmarks.whole_model.long_line --model FOLDER [--megabytes 4]

The line is a file, of which 512 tokens are kept. Memory is the peak of the resident memory above that before the call,
in a fresh process, which tokenised a short text before. The time is CPU seconds of all threads.
"""

import argparse
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.measuring.memory import added_mib
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import tokenise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a model, whose tokenizer is used")
    parser.add_argument("--megabytes", type=float, default=4, help="length of the line (default: %(default)s)")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    for name, words in {"words": "the quick brown fox jumps over the lazy dog ", "no spaces": "abcdefghij" * 4}.items():
        with tempfile.TemporaryDirectory() as folder:
            path, short = Path(folder) / "long.txt", Path(folder) / "short.txt"
            path.write_text(words * round(options.megabytes * 1e6 / len(words)) + "\n")
            short.write_text("a short text\n")
            seconds: list[float] = []

            def read(file: Path = path, seconds: list[float] = seconds) -> None:
                start = time.process_time()
                report = CorpusReport()
                documents = list(tokenise(read_texts(file, report), tokenizer, 512, report))
                assert len(documents) == 1 and len(documents[0]) <= 512
                seconds.append(time.process_time() - start)

            read(short)
            memory = added_mib(read)
            print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, {seconds[-1]:.2f} s, {memory:.0f} MiB")


if __name__ == "__main__":
    main()
