"""Cuts a long text before it is tokenised, where the tokens that are kept do not depend on the rest.

A tokenizer took 16 seconds and 708 MB for a line of 4 MB of which 512 tokens are kept.
"""

from __future__ import annotations

import unicodedata
from itertools import chain
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pymultiling.data.bpe_prefixes import beginning_of_same_tokens, merges_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHARACTERS = 16  # of the first attempt, for each token that is kept
WORDS = 2  # at the end of a cut text, whose tokens may depend on what follows: a tokenizer looks one word ahead
TRIES = 64  # different pairs of characters at which a text may be cut; each is looked for in the whole vocabulary
SPACE, BYTE_SPACE = "\u2581", "\u0120"  # a space in the vocabularies of SentencePiece and of byte-level tokenizers

# {tokenizer: {two characters: whether no token holds them next to each other}}
_parted: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, bool]] = WeakKeyDictionary()


def cut_text(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Returns the beginning of a text, with more than `count` tokens, of which the first `count` are those of the text.

    A tokenizer that parts texts into words finds the tokens of each word alone. So only the tokens of the last words
    depend on what follows. An added token that is cut, such as <table>, may be taken for several words, so the end of
    its length does not count either.

    Tokenizers that merge pairs (BPE) are cut where it makes no difference to the first tokens which of the tokens that
    the vocabulary allows there crosses the cut (bpe_prefixes.py). Others are cut between two characters that stand side
    by side in no token of the vocabulary. So no token crosses the cut, and the tokens of both sides are those of the
    text.

    If no place is found, the text is returned whole, and so it is for tokenizers that are not fast.

    Args:
        text: the text.
        tokenizer: a Hugging Face tokenizer.
        count: how many tokens are kept.
    """
    size = CHARACTERS * count
    while getattr(tokenizer, "is_fast", False) and 2 * size < len(text):
        if (stop := _end_of_certain_words(text, size, tokenizer, count)) is not None:
            return text[:stop]
        if (stop := beginning_of_same_tokens(text, size, tokenizer, count)) is not None:
            return text[:stop]
        size *= 4
    return text


def _end_of_certain_words(text: str, size: int, tokenizer: PreTrainedTokenizerBase, count: int) -> int | None:
    """Returns a place up to `size` before which words have more than `count` tokens that are certain, or None."""
    merges = merges_of(tokenizer)
    if merges is not None and not merges.parts_words:
        return None
    stop = _place_to_cut(text, size, tokenizer)
    encoded = tokenizer(text[:stop], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    words, ends = encoded.word_ids(), [end for _, end in encoded["offset_mapping"]]
    last_word = max((word for word in words if word is not None), default=0)
    if last_word <= WORDS:
        is_parted = merges is None and _are_parted(text[stop - 1 : stop + 1], tokenizer)
        certain = len(words) if is_parted else 0
    elif text[stop - 1].isdigit() and text[stop].isdigit():  # some tokenizers group digits from the right
        certain = 0
    else:
        last_end = stop - max(map(len, tokenizer.get_added_vocab()), default=0)
        is_certain: list[bool] = [
            (word or 0) <= last_word - WORDS and end <= last_end for word, end in zip(words, ends)
        ]
        certain = is_certain.index(False)  # the last word is not
    return stop if certain > count else None


def _place_to_cut(text: str, size: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns a place from size / 2 to size: where no token crosses, else at a space, else `size`.

    Where no token crosses is not asked of tokenizers that merge pairs: bpe_prefixes.py looks for it in less time.
    """
    tried: set[str] = set()
    spaces = [stop for stop in range(size, size // 2, -1) if text[stop] == " " and not text[stop - 1].isspace()]
    for stop in chain(spaces, range(size, size // 2, -1)) if merges_of(tokenizer) is None else ():
        pair = text[stop - 1 : stop + 1]
        if pair not in tried and _are_parted(pair, tokenizer):
            return stop
        tried.add(pair)
        if len(tried) == TRIES:
            break
    return spaces[0] if spaces else size


def _are_parted(pair: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether two characters are tokens, and stand side by side in no token of the vocabulary."""
    known = _parted.setdefault(tokenizer, {})
    if pair not in known:
        vocabulary = tokenizer.get_vocab()
        known[pair] = _can_be_parted(pair, vocabulary) and not any(
            piece in token for piece in _spellings(pair) for token in vocabulary
        )
    return known[pair]


def _can_be_parted(pair: str, vocabulary: dict[str, int]) -> bool:
    """Whether both characters are tokens, and do not change each other where texts are normalised.

    Characters that are no tokens may become one unknown token together. A byte-level vocabulary spells those outside of
    ASCII otherwise.
    """
    is_byte_level = BYTE_SPACE in vocabulary and SPACE not in vocabulary
    parts = [unicodedata.normalize("NFKC", character) for character in pair]
    return (
        all(character in vocabulary or character == " " for character in pair)
        and not pair[0].isspace()
        and (pair.isascii() or not is_byte_level)
        and unicodedata.combining(pair[1]) == 0
        and unicodedata.normalize("NFKC", pair) == "".join(parts)
    )


def _spellings(pair: str) -> set[str]:
    """Returns how a vocabulary may spell two characters side by side."""
    normalised = {form for text in (pair, pair.lower()) for form in (text, unicodedata.normalize("NFKC", text))}
    return {form.replace(" ", space) for form in normalised for space in (" ", SPACE, BYTE_SPACE)}
