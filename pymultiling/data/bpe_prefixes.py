r"""Finds where a text without words can be cut, for tokenizers that merge pairs (BPE).

The tokens of a long word depend on all of it, in principle: merges happen in the order of their rank, anywhere. But if
a place in the word is the border of two tokens in the end, no merge has ever crossed it. So the merges before it were
those of the word's beginning alone, and the tokens before it are the tokens of the beginning. A token that spans place
p is an entry of the vocabulary that occurs there in the text. So the last border up to p is p itself or the start of
such an occurrence. If the beginnings up to all of these places have the same first tokens, then so has the whole text,
whatever follows.

This needs that the words of a beginning are those of the text, the last one cut. A regular expression without lookahead
finds the same words before the one that is cut: what it has tried there lies before the cut. The cut word stays one
word if it is cut in a run of letters, or of digits, and the expression takes such runs whole or from the left: KNOWN
lists the alternatives of which that is known.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tokenizers.models import BPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

PLACES = 64  # places at which a text is tried to be cut
BEGINNINGS = 64  # of a place, whose tokens are compared
WORK = 1.0  # characters of the beginnings of two places, at most, as a part of the text: the whole text has as many
RUN = 4  # letters or digits before and after a place: contractions such as 'll have fewer
SPACE = "\u2581"  # a space in the vocabularies of SentencePiece
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that stands for a byte there

# Alternatives of the regular expressions of GPT-2, Llama 3, Qwen2 and the demo model that cut a run of letters, or of
# digits, at most after its first characters, or from the left. The lookahead reads one character after white space.
KNOWN = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
    *(r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", " ?[\\p{L}\\p{M}]+(?:['\u2019][\\p{L}\\p{M}]+)?"),
    *(r" ?\p{N}+", r"\p{N}", r"\p{N}{1,3}"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{M}\p{N}]+"),
    *(r"\s*[\r\n]+", r"\s*[\r\n]", r"\s+(?!\S)", r"\s+"),
}


@dataclass(frozen=True)
class Merges:
    """What a tokenizer that merges pairs does to texts.

    Attributes:
        vocabulary: the spellings of all tokens.
        longest: characters of the longest one.
        longest_from: {first character: characters of the longest one that begins with it}
        is_byte_level: whether spellings consist of bytes.
        normalises: whether texts are brought into the form NFC.
        has_spaces: whether a space is spelled SPACE.
        bytes_stand_alone: whether a character that is no token becomes the tokens of its bytes, which nothing merges.
        ignores_merges: whether a word that is an entry of the vocabulary is one token, whatever the merges.
        parts_words: whether texts are parted into words that may end elsewhere than at spaces.
        added: the tokens that are found in a text before all others.
    """

    vocabulary: frozenset[str]
    longest: int
    longest_from: dict[str, int]
    is_byte_level: bool
    normalises: bool
    has_spaces: bool
    bytes_stand_alone: bool
    ignores_merges: bool
    parts_words: bool
    added: tuple[str, ...]

    def spell(self, text: str) -> tuple[str, list[int]]:
        """Returns a text as the vocabulary spells it, and how many characters the spelling of each character has."""
        if not self.is_byte_level:
            return (text.replace(" ", SPACE) if self.has_spaces else text), [1] * len(text)
        spellings = ["".join(map(_byte_spellings().__getitem__, character.encode())) for character in text]
        return "".join(spellings), [len(spelling) for spelling in spellings]


# {tokenizer: (its number of tokens, what is known about it)}. Tokens may be added to a tokenizer.
_known_merges: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Merges | None]] = WeakKeyDictionary()


def merges_of(tokenizer: PreTrainedTokenizerBase) -> Merges | None:
    """Returns what a fast tokenizer does to texts, or None if it is not known to be as the module's docstring says."""
    known = _known_merges.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _known_merges[tokenizer] = (len(tokenizer), _read_merges(tokenizer))
    return known[1]


def beginning_of_same_tokens(text: str, size: int, tokenizer: PreTrainedTokenizerBase, count: int) -> int | None:
    """Returns a place up to `size` at which the text can be cut, or None if none is found.

    The beginning has more than `count` tokens, of which the first `count` are those of the text.
    """
    merges = merges_of(tokenizer)
    if merges is None:
        return None
    places = {
        place: borders
        for place in range(size, max(size - PLACES, 1), -1)
        if (borders := _possible_borders(text, place, merges)) is not None
    }
    for place in sorted(places, key=lambda place: len(places[place]))[:2]:
        if 2 * size * (1 + len(places[place])) > WORK * len(text):
            continue
        beginnings = {
            tuple(tokenizer(text[:border], add_special_tokens=False, verbose=False)["input_ids"][: count + 1])
            for border in (place, *places[place])
        }
        if len({beginning[:count] for beginning in beginnings}) == 1 and min(map(len, beginnings)) > count:
            return place
    return None


def _possible_borders(text: str, place: int, merges: Merges) -> list[int] | None:
    """Returns the places before `place` of which one is the border of two tokens if `place` is none.

    Returns None if this cannot be told, or if the text cannot be cut at one of these places.
    """
    if not _stays_the_same(text, place, merges):
        return None
    reach = merges.longest
    begin, end = max(place - reach, 0), min(place + reach, len(text))
    spelled, sizes = merges.spell(text[begin:end])
    if not merges.bytes_stand_alone and not merges.vocabulary.issuperset(spelled):
        return None  # characters that are no tokens may become one together, or be left out
    starts, at = {}, 0  # {place in `spelled`: place in the text}
    for index, size in enumerate(sizes):
        starts[at] = begin + index
        at += size
    middle = sum(sizes[: place - begin])
    spanning = [
        start
        for start in range(max(middle - reach + 1, 0), middle)
        if any(
            spelled[start:stop] in merges.vocabulary
            for stop in range(middle + 1, start + merges.longest_from.get(spelled[start], 0) + 1)
        )
    ]
    if len(spanning) >= BEGINNINGS or not all(start in starts for start in spanning):
        return None  # a token may begin within the bytes of a character
    borders = [starts[start] for start in spanning]
    around = text[max(begin - 2 * reach, 0) : end + 2 * reach]
    can_be_cut = all(_stays_the_same(text, border, merges) for border in borders)
    return borders if can_be_cut and not any(token in around for token in merges.added) else None


def _stays_the_same(text: str, place: int, merges: Merges) -> bool:
    """Whether the words and the normal form of text[:place] are those of the text, the last word cut."""
    run = merges.longest if merges.ignores_merges else RUN  # then the word is longer than any entry
    around = text[max(place - run, 0) : place + run]
    if merges.normalises and not (unicodedata.is_normalized("NFC", around) and unicodedata.combining(text[place]) == 0):
        return False
    if not merges.parts_words:
        return True
    kinds = {unicodedata.category(character)[0] for character in around}
    return len(around) == 2 * run and (kinds == {"L"} or (kinds == {"N"} and not merges.ignores_merges))


def _read_merges(tokenizer: PreTrainedTokenizerBase) -> Merges | None:
    backend: Any = tokenizer.backend_tokenizer
    model = backend.model
    if not isinstance(model, BPE) or model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    normalizers, pre_tokenizers = (_steps(part) for part in (backend.normalizer, backend.pre_tokenizer))
    added = tuple(token.content for token in backend.get_added_tokens_decoder().values())
    has_spaces = normalises = parts_words = is_byte_level = False
    for step in normalizers:
        if step["type"] == "NFC":
            normalises = True
        elif step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": " "}, SPACE):
            has_spaces = True
        elif step["type"] != "Prepend":
            return None
    for step in pre_tokenizers:
        if step["type"] == "ByteLevel":
            is_byte_level, parts_words = True, parts_words or step["use_regex"]
        elif step["type"] == "Digits":
            parts_words = True
        elif step["type"] == "Split" and "Regex" in step["pattern"] and step["behavior"] == "Isolated":
            if step["invert"] or not _alternatives(step["pattern"]["Regex"]) <= KNOWN:
                return None
            parts_words = True
        elif step["type"] != "Split" or step["pattern"] != {"String": " "} or not has_spaces:
            return None
    vocabulary = frozenset(backend.get_vocab(with_added_tokens=False))
    bytes_stand_alone = (
        model.byte_fallback
        and vocabulary.issuperset(f"<0x{byte:02X}>" for byte in range(256))
        and not any(len(token) > len("<0x00>") and BYTE.search(token) for token in vocabulary)
    )
    longest_from: dict[str, int] = {}
    for token in vocabulary:
        longest_from[token[:1]] = max(longest_from.get(token[:1], 0), len(token))
    longest = max(longest_from.values(), default=0)
    if (is_byte_level and has_spaces) or max(map(len, added), default=0) > 2 * longest:
        return None
    return Merges(
        vocabulary,
        longest,
        longest_from,
        is_byte_level,
        normalises,
        has_spaces,
        bytes_stand_alone,
        model.ignore_merges,
        parts_words,
        added,
    )


def _steps(part: Any) -> list[dict[str, Any]]:
    """Returns the settings of the steps of a normalizer or pre-tokenizer, none for None."""
    if part is None:
        return []
    settings = json.loads(part.__getstate__())
    return list(_flat(settings))


def _flat(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if settings["type"] != "Sequence":
        yield settings
        return
    for step in settings.get("normalizers", settings.get("pretokenizers", [])):
        yield from _flat(step)


def _alternatives(pattern: str) -> set[str]:
    """Returns the alternatives of a regular expression, those in groups not parted."""
    return set(re.findall(r"(?:\((?:\\.|[^()\\])*\)|\[(?:\\.|[^\]\\])*\]|\\.|[^|])+", pattern))


@cache
def _byte_spellings() -> list[str]:
    """Returns the character that stands for each byte in byte-level vocabularies: printable ones for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    spellings, others = [""] * 256, 0
    for byte in range(256):
        if byte in printable:
            spellings[byte] = chr(byte)
        else:
            spellings[byte], others = chr(256 + others), others + 1
    return spellings
