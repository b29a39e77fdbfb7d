"""Statistics in rounds, so that they can stop at any time with as many documents of every language, and go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.data.added_tokens import encode_alone
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.long_texts import cut_text
from pymultiling.methods.reproduction.measured import Kind, S
from pymultiling.methods.reproduction.plan import Setup, TimeLimit
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACK = 128  # tokens of a document
ROUND = 16  # documents of each language that are measured before the next language comes
ROUNDS = 32  # so at most 512 documents of a language
SECONDS_BETWEEN_FILES = 60.0


def measure_texts(
    setup: Setup,
    texts: Mapping[str, Path],
    kind: Kind[S],
    limit: TimeLimit,
    measure: Callable[[Mapping[str, list[str]], bool], Mapping[str, S]],
) -> tuple[int, dict[str, S]]:
    """Measures texts in rounds: in each the same number of documents of every language.

    Args:
        setup: the model, and where the statistics are kept.
        texts: {language: file}.
        kind: the kind of statistics.
        limit: the time that it may take; one round is measured in any case.
        measure: ({language: texts of a round}, whether it is the first round of this run) -> {language: statistics}.

    Returns:
        The number of rounds that are done, and {language: statistics}.

    Raises:
        CorpusError: texts cannot be read.
    """
    done = setup.measured.statistics(texts, kind)
    if done[0] == ROUNDS:
        return done
    blocks = {
        language: text_blocks(read_texts(str(file), CorpusReport()), setup.tokenizer)
        for language, file in texts.items()
    }

    def measure_round(number: int, is_first: bool) -> Mapping[str, S]:
        return measure({name: parts[number] for name, parts in blocks.items() if number < len(parts)}, is_first)

    return measure_rounds(setup, kind, done, max(map(len, blocks.values())), limit, measure_round)


def measure_rounds(
    setup: Setup,
    kind: Kind[S],
    done: tuple[int, dict[str, S]],
    most: int,
    limit: TimeLimit,
    measure: Callable[[int, bool], Mapping[str, S]],
) -> tuple[int, dict[str, S]]:
    """Measures rounds until there is no time for another one, and writes the sums at times and at the end.

    Args:
        setup: where the statistics are kept.
        kind: the kind of statistics.
        done: what an earlier run has measured, as `Measured.statistics` returns it.
        most: how many rounds there are.
        limit: the time that it may take; one round is measured in any case.
        measure: (number of the round from 0, whether it is the first of this run) -> {name: statistics}.

    Returns:
        The number of rounds that are done, and {name: statistics}.
    """
    rounds, statistics = done
    written_rounds, written_at, seconds = rounds, time.monotonic(), 0.0
    start = rounds
    try:
        with show_progress(kind.label, "rounds", setup.progress, most) as bar:
            bar.update(rounds)
            while rounds < most and (rounds == 0 or limit.left > seconds):
                started = time.monotonic()
                found = measure(rounds, rounds == start)
                more = {
                    name: statistics[name] + of_round if name in statistics else of_round
                    for name, of_round in found.items()
                }
                rounds, statistics = rounds + 1, statistics | more  # together, since an interrupt may come at any time
                seconds = time.monotonic() - started
                bar.update()
                if time.monotonic() - written_at > SECONDS_BETWEEN_FILES:
                    setup.measured.keep_statistics(rounds, statistics)
                    written_rounds, written_at = rounds, time.monotonic()
    finally:
        if rounds > written_rounds:
            setup.measured.keep_statistics(rounds, statistics)
    return rounds, statistics


def text_blocks(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """Returns texts in blocks of `ROUND` documents of `PACK` tokens, at most `ROUNDS` blocks.

    A text that is longer than the rest of its block is cut. The last texts that fill no block are left out, unless
    they are all.
    """
    blocks: list[list[str]] = []
    block: list[str] = []
    room = ROUND * PACK
    for text in texts:
        tokens = len(encode_alone(tokenizer, text))
        block.append(text if tokens <= room else cut_text(text, tokenizer, room))
        room -= min(tokens, room) + 1  # and the token between texts
        if room <= 0:
            blocks.append(block)
            block, room = [], ROUND * PACK
            if len(blocks) == ROUNDS:
                break
    return blocks or [block]
