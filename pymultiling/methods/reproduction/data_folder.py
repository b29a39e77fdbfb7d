"""The folder with the texts and tasks of a reproduction. What is missing is said before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pymultiling.data.languages import match_language
from pymultiling.errors import CorpusError

TEXTS = re.compile(r"(?P<language>[^.]+)(?P<heldout>\.heldout)?\.(txt|jsonl|parquet)(\.gz|\.zst)?")
COMPRESSIONS = ("", ".gz", ".zst")


class DataFolder:
    """The files of a data folder.

        corpora/LANGUAGE.txt            texts of a language, one a line; also .jsonl and .parquet, and .gz and .zst of
                                        .txt and .jsonl
        corpora/LANGUAGE.heldout.txt    other texts of the same language
        tasks/NAME.jsonl                items of a task in all languages, with the language in the field lang; also .gz
                                        and .zst
        parallel/NAME.tsv               translations: a column for each language, whose codes are in the first line;
                                        also .gz and .zst

    Attributes:
        folder: the folder.
        corpora: {language: file of its texts}.
        heldout: {language: file of its held-out texts}.
    """

    def __init__(self, folder: str | Path) -> None:
        """Looks for the files.

        Raises:
            CorpusError: there is no such folder, or two files hold the texts of one language.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CorpusError(f"{folder}: no such folder; give one with corpora/LANGUAGE.txt for each language")
        self.corpora: dict[str, Path] = {}
        self.heldout: dict[str, Path] = {}
        corpora = self.folder / "corpora"
        for file in sorted(corpora.iterdir()) if corpora.is_dir() else ():
            match = TEXTS.fullmatch(file.name)
            if match is None or not file.is_file():
                continue
            files = self.heldout if match["heldout"] else self.corpora
            if (other := files.setdefault(match["language"], file)) != file:
                raise CorpusError(f"{other} and {file} have texts of the same language: keep one of them")

    def languages(self, names: Sequence[str] | None, english: str) -> list[str]:
        """Returns the languages that have texts and held-out texts, English first.

        Args:
            names: the languages to take; None: all that have both.
            english: how English is called in the folder.

        Raises:
            CorpusError: English, one of the names or every other language has no texts.
        """
        have_both = [language for language in self.corpora if language in self.heldout]
        wanted = have_both if names is None else [match_language(name, have_both) or name for name in names]
        for language in dict.fromkeys([english, *wanted]):
            for files, ending in ((self.corpora, ""), (self.heldout, ".heldout")):
                if language not in files:
                    raise CorpusError(
                        f"{self.folder} has no corpora/{language}{ending}.txt (or .jsonl, .parquet, .gz, .zst): "
                        f"languages with texts and held-out texts are {', '.join(have_both) or 'none'}"
                    )
        languages = list(dict.fromkeys([english, *wanted]))
        if len(languages) < 2:
            raise CorpusError(f"{self.folder} has texts of {english} only: add corpora/LANGUAGE.txt and .heldout.txt")
        return languages

    def task(self, name: str, *needed: str) -> list[Path] | None:
        """Returns the file tasks/NAME.jsonl and those that it needs, or None if there is no such task.

        Raises:
            CorpusError: a file that it needs is missing.
        """
        file = self._file("tasks", name)
        if file is None:
            return None
        others = {other: self._file("tasks", other) for other in needed}
        for other, found in others.items():
            if found is None:
                raise CorpusError(f"{file} needs {self.folder / 'tasks' / other}.jsonl (or .gz, .zst) beside it")
        return [file, *(found for found in others.values() if found is not None)]

    def parallel(self) -> Path:
        """Returns the table of translations.

        Raises:
            CorpusError: there is none, or several.
        """
        folder = self.folder / "parallel"
        files = [file for compression in COMPRESSIONS for file in sorted(folder.glob(f"*.tsv{compression}"))]
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise CorpusError(f"{folder} must have one table of translations, such as flores.tsv, and has {names}")
        return files[0]

    def _file(self, subfolder: str, name: str) -> Path | None:
        files = (self.folder / subfolder / f"{name}.jsonl{compression}" for compression in COMPRESSIONS)
        return next((file for file in files if file.is_file()), None)
