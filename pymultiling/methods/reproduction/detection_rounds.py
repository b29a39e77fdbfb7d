"""A detection in rounds, so that it can stop at any time with as many documents of every language, and go on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.data.added_tokens import encode_alone
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.long_texts import cut_text
from pymultiling.methods.plnd import detect
from pymultiling.methods.reproduction.plan import Setup, TimeLimit
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.selection import TopK
from pymultiling.runtime.progress import show_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RULE = TopK(0.05, 0.05, share=0.7)
PACK = 128  # tokens of a document
ROUND = 16  # documents of each language that are measured before the next language comes
ROUNDS = 32  # so at most 512 documents of a language
SECONDS_BETWEEN_FILES = 60.0


def detect_in_rounds(
    setup: Setup, texts: Mapping[str, Path], limit: TimeLimit
) -> tuple[int, dict[str, NeuronStatistics]]:
    """Measures importance in rounds: in each the same number of documents of every language.

    Args:
        setup: the model, and where the statistics are kept.
        texts: {language: file}.
        limit: the time that it may take; one round is measured in any case.

    Returns:
        The number of rounds that are done, and {language: statistics}.

    Raises:
        CorpusError: texts cannot be read, or fill no document.
        UnsupportedModel: as `detect`.
        NonFiniteActivations: as `detect`.
    """
    languages = list(texts)
    rounds, statistics = setup.measured.statistics(languages)
    written_rounds, written_at = rounds, time.monotonic()
    if rounds == ROUNDS:
        return rounds, statistics
    blocks = {
        language: text_blocks(read_texts(str(file), CorpusReport()), setup.tokenizer)
        for language, file in texts.items()
    }
    most, seconds = max(map(len, blocks.values())), 0.0
    try:
        with show_progress("detection", "rounds", setup.progress, most) as bar:
            bar.update(rounds)
            while rounds < most and (rounds == 0 or limit.left > seconds):
                started = time.monotonic()
                corpora = {name: parts[rounds] for name, parts in blocks.items() if rounds < len(parts)}
                found = detect(
                    setup.model,
                    setup.tokenizer,
                    corpora,
                    select=RULE,
                    batch_tokens=setup.batch_tokens,
                    pack=PACK,
                    workers=0,
                    progress=False,
                    verify=rounds == written_rounds,
                )
                more = {
                    language: statistics[language] + of_round if language in statistics else of_round
                    for language, of_round in found.statistics.items()
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
