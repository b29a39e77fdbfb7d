"""A long text that is cut before it is tokenised keeps the tokens of the whole text, for tokenizers of all kinds."""

import json
import random
from functools import cache

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pymultiling import demo_model
from pymultiling.data.bpe_prefixes import beginning_of_same_tokens
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from pymultiling.data.long_texts import CHARACTERS, cut_text

COUNT = 10
SPACE = normalizers.Replace(" ", "\u2581")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BPE, UNIGRAM = (models.BPE, trainers.BpeTrainer), (models.Unigram, trainers.UnigramTrainer)
# For each kind: the model and its trainer, the normalizer, and what parts texts into words.
KINDS = {
    "gemma: BPE over the whole text": (BPE, SPACE, None),
    "BPE over the whole text, with prefix": (BPE, normalizers.Sequence([SPACE, normalizers.Prepend("\u2581")]), None),
    "byte-level BPE": (BPE, normalizers.NFC(), BYTES),
    "byte-level BPE, digits apart": (BPE, None, pre_tokenizers.Sequence([pre_tokenizers.Digits(), BYTES])),
    "xglm: pieces of words": (UNIGRAM, normalizers.NFKC(), pre_tokenizers.Metaspace()),
    "pieces of the whole text": (UNIGRAM, SPACE, None),
}


@cache
def texts() -> dict[str, str]:
    """Returns long texts with spaces and without, with digits and signs, and of one letter."""
    corpora = {language: " ".join(lines[:60]) for language, lines in demo_model.heldout().items()}
    generator = random.Random(0)
    return {
        **{language: corpora[language] for language in ("de", "ru", "hi")},
        "zh": "".join(demo_model.heldout()["zh"][:60]),
        "noise": "".join(generator.choices("ab \u00e9e\u0301<table>0123456789.,\n\u2581", k=4000)),
        "digits": "".join(generator.choices("0123456789", k=4000)),
        "letters": "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=4000)),
        "one letter": "a" * 4000,
        "spaces": " " * 3000 + "b",
    }


@cache
def tokenizer(kind: str):
    if kind == "the demo model's":
        return demo_model.load()[1]
    (model, trainer), normalizer, pre_tokenizer = KINDS[kind]
    raw = Tokenizer(model() if model is models.Unigram else model(unk_token="<unk>", fuse_unk=True))
    if normalizer is not None:
        raw.normalizer = normalizer
    if pre_tokenizer is not None:
        raw.pre_tokenizer = pre_tokenizer
    options = {"unk_token": "<unk>"} if model is models.Unigram else {}
    lines = [text[start : start + 40] for text in texts().values() for start in range(0, 2000, 40)]
    raw.train_from_iterator(lines, trainer(vocab_size=3000, special_tokens=["<unk>"], show_progress=False, **options))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    fast.add_tokens([AddedToken("<table>", normalized=False), AddedToken("e\u0301e\u0301", normalized=False)])
    return fast


@pytest.mark.parametrize("kind", [*KINDS, "the demo model's"])
def test_the_tokens_that_are_kept_are_those_of_the_whole_text(kind):
    cut = {}
    for name, text in texts().items():
        whole = tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
        for shift in range(24):  # other places of the cut
            part = cut_text(text[shift:], tokenizer(kind), COUNT)
            kept = tokenizer(kind)(part, add_special_tokens=False)["input_ids"]
            expected = whole if shift == 0 else tokenizer(kind)(text[shift:], add_special_tokens=False)["input_ids"]
            assert kept[:COUNT] == expected[:COUNT], (name, shift)
            assert len(kept) > COUNT or part == text[shift:]
        cut[name] = len(part) <= CHARACTERS * COUNT * 4
    assert cut["de"] and cut["ru"] and cut["hi"], cut
    assert cut["zh"], cut
    assert cut["letters"] or not isinstance(tokenizer(kind).backend_tokenizer.model, models.BPE), cut


def test_characters_that_become_bytes_are_cut_too():
    """As Gemma's tokenizer spells characters that its vocabulary lacks."""
    settings = json.loads(tokenizer("gemma: BPE over the whole text").backend_tokenizer.to_str())["model"]
    vocabulary, merges = settings["vocab"], [tuple(merge) for merge in settings["merges"]]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    raw = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw)
    text = "".join(random.Random(0).choices("abc" + "".join(map(chr, range(0x4E00, 0x9FA5))), k=4000))
    part = cut_text(text, fast, COUNT)
    kept, whole = fast(part)["input_ids"], fast(text)["input_ids"]
    assert len(part) <= CHARACTERS * COUNT < len(text)
    assert kept[:COUNT] == whole[:COUNT] and set(whole[:COUNT]) & {vocabulary[f"<0x{byte:02X}>"] for byte in range(256)}


def test_a_beginning_has_the_first_tokens_of_the_text_whatever_the_merges():
    """Drawn merges of two letters, in any order: that of a pair may come before those of its parts.

    Texts are cut at a place only if all ends of tokens that the vocabulary allows there have the same first tokens.
    """
    generator, cut = random.Random(0), 0
    for _ in range(25):
        vocabulary, merges = ["a", "b"], []
        while len(merges) < 12:
            left, right = generator.choices(vocabulary, k=2)
            if len(left + right) <= 6 and left + right not in vocabulary:
                vocabulary.append(left + right)
                merges.insert(generator.randint(0, len(merges)), (left, right))
        raw = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges))
        fast = PreTrainedTokenizerFast(tokenizer_object=raw)
        for _ in range(5):
            text = "".join(generator.choices("ab", weights=(3, 1), k=120))
            whole = fast(text)["input_ids"]
            for size in range(14, 60, 3):
                place = beginning_of_same_tokens(text, size, fast, 3)
                assert place is None or fast(text[:place])["input_ids"][:3] == whole[:3]
                cut += place is not None
    assert cut > 500


def test_short_texts_and_tokenizers_that_tell_no_words_are_left_alone():
    text = texts()["de"]
    assert (
        cut_text(text[: 2 * CHARACTERS * COUNT], tokenizer("the demo model's"), COUNT) == text[: 2 * CHARACTERS * COUNT]
    )
    assert cut_text(text, lambda text, **_: None, COUNT) == text


@pytest.mark.parametrize("kind", [*KINDS, "the demo model's"])
def test_documents_of_long_texts_are_cut_and_counted(kind):
    report = CorpusReport()
    documents = list(tokenise(texts().values(), tokenizer(kind), COUNT, report))
    opening = [1] if kind == "the demo model's" else []
    for document, text in zip(documents, texts().values()):
        assert document == (opening + tokenizer(kind)(text, add_special_tokens=False)["input_ids"])[:COUNT]
    assert report.cut == sum(len(tokenizer(kind)(text)["input_ids"]) > COUNT for text in texts().values())
