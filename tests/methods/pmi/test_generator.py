"""Answers of models against one request at a time, a token at a time, without the cache of keys and values."""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    PreTrainedTokenizerFast,
)

from pymultiling import TranslationError
from pymultiling.methods.pmi import Generator, translate
from pymultiling.methods.pmi.translation_requests import Request
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
END, NEWLINE = 257, BYTES.index("Ċ")  # a newline as ByteLevel writes it
TEXTS = [f"Satz {number}" + " lang" * (number % 5) for number in range(24)]
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def byte_tokenizer(template=None) -> PreTrainedTokenizerFast:
    """A byte is a token; what it decodes is what there was."""
    tokenizer = Tokenizer(models.BPE({c: number for number, c in enumerate([*BYTES, "<s>", "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    found.chat_template = template
    return found


def decoder(room=256):
    """A tiny Llama whose answers differ and end after 2 to 14 tokens, or do not end: it likes newlines and the end."""
    shape = dict(vocab_size=258, max_position_embeddings=room, bos_token_id=256)
    model = tiny_model("llama", torch.float64, seed=12, **shape)
    with torch.no_grad():
        model.lm_head.weight[[NEWLINE, END]] *= 3
    return model


@torch.no_grad()
def plainly(model, tokenizer, prompt: str, most: int, line: bool) -> tuple[str, bool]:
    """The greedy answer, and whether it ends."""
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    most, start = min(most, model.config.max_position_embeddings - len(tokens)), len(tokens)
    while len(tokens) - start < most:
        tokens.append(model(torch.tensor([tokens])).logits[0, -1].argmax().item())
        text = tokenizer.decode(tokens[start:], skip_special_tokens=True)
        if tokens[-1] == END or (line and "\n" in text.lstrip()):
            return text.lstrip().partition("\n")[0].rstrip() if line else text.strip(), True
    return tokenizer.decode(tokens[start:], skip_special_tokens=True).strip(), False


def check(model, tokenizer, prompts, line, **options):
    """Every answer is as the model gives it alone, and those that do not end are counted."""
    truth = [plainly(model, tokenizer, prompt, 4 * options["max_new_tokens"], line) for prompt in prompts]
    by = Generator(model, tokenizer, **options)
    with pytest.warns(UserWarning) as told:
        assert translate(TEXTS, ["fr"], source="de", by=by)["fr"] == [text for text, _ in truth]
    assert len({text for text, _ in truth}) > 8
    cut, empty = sum(not ended for _, ended in truth), sum(not text for text, _ in truth)
    assert 2 < cut < len(TEXTS) - 2
    expected = [f"{cut} of 24 answers do not end within {4 * options['max_new_tokens']} tokens, or within the model's "]
    expected += [f"{empty} of 24 answers are empty"] * bool(empty)
    sentences = [str(one.message).partition(": ")[2] for one in told]
    assert all(found.startswith(sentence) for found, sentence in zip(sentences, expected, strict=True))


@pytest.mark.parametrize("batch_tokens", [1, 600, 4096])
def test_a_model_that_continues_texts(batch_tokens):
    prompts = [f"Put the German text into French.\nGerman: {text}\nFrench:" for text in TEXTS]
    check(decoder(), byte_tokenizer(), prompts, True, max_new_tokens=3, batch_tokens=batch_tokens)


def test_a_model_that_is_talked_to():
    prompts = [f"<user>{Request(text, 'de', 'fr').messages()[0]['content']}\n<model>" for text in TEXTS]
    check(decoder(), byte_tokenizer(TEMPLATE), prompts, False, max_new_tokens=4, batch_tokens=2000)


def saying(monkeypatch, answer: str) -> tuple[Generator, list[str]]:
    """A model that says so, whatever it is asked, and what it is asked."""
    template = TEMPLATE.replace("<model>", "<model>{% if enable_thinking is false %}<think></think>{% endif %}")
    model, tokenizer, asked = decoder(), byte_tokenizer(template), []
    said = tokenizer(answer)["input_ids"] + [END]

    def generate(input_ids, max_new_tokens, **options):
        asked.extend(tokenizer.batch_decode(input_ids))
        return torch.cat([input_ids, torch.tensor([said[:max_new_tokens]] * len(input_ids))], 1)

    monkeypatch.setattr(model, "generate", generate)
    return Generator(model, tokenizer, max_new_tokens=20), asked


@pytest.mark.parametrize(
    "thinking", ["<think>\nhm, oui?\n</think>\n\n", "<think>a <think> b</think>", "hm, oui?</think>"]
)
def test_what_a_model_thinks_is_no_answer(monkeypatch, thinking):
    """It is asked not to think; and also where the template has opened it already."""
    by, asked = saying(monkeypatch, f"{thinking}Bon jour")
    assert translate(["a"], ["fr"], source="de", by=by) == {"fr": ["Bon jour"]}
    assert asked[0].endswith("<model><think></think>")


@pytest.mark.filterwarnings("ignore:.*answers do not end")
@pytest.mark.parametrize("answer, times", [("<think>hm", 1), ("<think>" + "hm " * 40, 3)])
def test_a_model_that_only_thinks(monkeypatch, tmp_path, answer, times):
    """It has no answer that is kept; where it does not end by itself it is given more room first."""
    by, asked = saying(monkeypatch, answer)
    for already in (1, 2):
        with pytest.warns(UserWarning, match="1 of 1 answers are empty"):
            found = translate(["a"], ["fr"], source="de", by=by, cache=tmp_path / "c")
        assert found == {"fr": [""]} and len(asked) == already * times


def test_answers_may_fill_the_models_room():
    prompts = [Request(text, "de", "fr").plain() for text in TEXTS]
    room = max(map(len, prompts)) + 4
    check(decoder(room), byte_tokenizer(), prompts, True, max_new_tokens=3, batch_tokens=4096)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_requests_that_have_no_room():
    by = Generator(decoder(room=80), byte_tokenizer(), max_new_tokens=3)
    length = len(Request("", "de", "fr").plain())
    translate(["x" * (79 - length)], ["fr"], source="de", by=by)
    with pytest.raises(
        TranslationError,
        match=r"'x+' has 80 tokens, too many for LlamaForCausalLM with 80 positions: give shorter texts",
    ):
        translate(["x", "x" * (80 - length)], ["fr"], source="de", by=by)


def test_tokens_that_end_an_answer():
    """Those of the model's configuration of generation, and the tokenizer's."""
    model, tokenizer = decoder(), byte_tokenizer(TEMPLATE)
    prompts = [f"<user>{Request(text, 'de', 'fr').messages()[0]['content']}\n<model>" for text in TEXTS[:6]]
    before = [plainly(model, tokenizer, prompt, 12, False)[0] for prompt in prompts]
    token = tokenizer(before[0][1:2])["input_ids"][0]
    model.generation_config.eos_token_id = [token, 5]
    model.generation_config.repetition_penalty = 9.0  # a configuration's, which is not asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = translate(TEXTS[:6], ["fr"], source="de", by=Generator(model, tokenizer, max_new_tokens=3))["fr"]
    assert found[0] == before[0][:1]


class Counted(Generator):
    """Counts the rows that it generates, and is interrupted after so many batches."""

    rows, batches_left = 0, -1

    def _generate_batch(self, batch, limit, target):
        if self.batches_left == 0:
            raise KeyboardInterrupt
        self.batches_left -= 1
        self.rows += len(batch.order)
        return super()._generate_batch(batch, limit, target)


@pytest.fixture
def saved(tmp_path):
    """A model that has a name, the folder where it is."""
    decoder().save_pretrained(tmp_path / "model")
    return lambda: type(decoder()).from_pretrained(tmp_path / "model", dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_what_was_answered_is_not_asked_again(tmp_path, saved):
    options = {"source": "de", "cache": tmp_path / "answers.db"}
    tokenizer, texts = byte_tokenizer(TEMPLATE), TEXTS + TEXTS[:4]
    truth = translate(texts, ["fr"], source="de", by=Generator(decoder(), tokenizer, max_new_tokens=20))["fr"]
    by = Counted(saved(), tokenizer, max_new_tokens=20, batch_tokens=800)
    by.batches_left = 2
    with pytest.raises(KeyboardInterrupt):
        translate(texts, ["fr"], by=by, **options)
    again = Counted(saved(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=again, **options)["fr"] == truth
    whole = Counted(saved(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=whole, **options)["fr"] == truth
    # Only what has not come to its end, or is empty, is asked again.
    assert 0 < by.rows < 24 and whole.rows < again.rows
    unnamed = Counted(decoder(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=unnamed, **options)["fr"] == truth
    assert unnamed.rows >= 24


LANGUAGES = ["eng_Latn", "fra_Latn", "deu_Latn"]
SHAPE = dict(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_position_embeddings=40,
)


def nllb():
    """NLLB's own tokenizer with letters for tokens, and a random model of its class."""
    letters = "abcdefghijklmnop"
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{c}" for c in letters)]
    tokenizer = NllbTokenizer(
        vocab={token: number for number, token in enumerate(words)},
        merges=[("▁", c) for c in letters],
        extra_special_tokens=LANGUAGES,
    )
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), init_std=1.0, **SHAPE))
    return model.double().eval(), tokenizer


@torch.no_grad()
def translated(model, given: list[int], forced: list[int], most: int, end: int) -> list[int]:
    """Greedy, without the tokens that are forced and the end."""
    answer = [model.config.decoder_start_token_id, *forced]
    while (len(answer) <= most and answer[-1] != end) or len(answer) <= 1:
        logits = model(torch.tensor([given]), decoder_input_ids=torch.tensor([answer])).logits
        answer.append(logits[0, -1].argmax().item())
    return answer[1 + len(forced) :]


@pytest.mark.filterwarnings("ignore:.*answers")
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_a_model_for_translation(batch_tokens):
    model, tokenizer = nllb()
    texts = ["ab cd", "a", "ponm lkji hgf", "d d d", "fab"]
    by = Generator(model, tokenizer, max_new_tokens=3, batch_tokens=batch_tokens)
    found = translate(texts, ["fra_Latn", "eng_Latn"], source="deu_Latn", by=by, how="back-translation")
    code = dict(zip(LANGUAGES, tokenizer.convert_tokens_to_ids(LANGUAGES)))

    def step(text, source, target):
        given = [code[source], *tokenizer(text, add_special_tokens=False)["input_ids"], 2]
        tokens = translated(model, given, [code[target]], 12, 2)
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    for pivot in ("fra_Latn", "eng_Latn"):
        there = [step(text, "deu_Latn", pivot) for text in texts]
        assert found[f"deu_Latn~{pivot}"] == [step(text, pivot, "deu_Latn") for text in there]
    assert len(set(found["deu_Latn~fra_Latn"])) > 1 and found["deu_Latn~fra_Latn"] != found["deu_Latn~eng_Latn"]


def test_what_a_model_for_translation_refuses():
    model, tokenizer = nllb()
    by = Generator(model, tokenizer, max_new_tokens=3)
    for options, sentence in (
        (
            {"into": 2, "how": "paraphrase", "source": "deu_Latn"},
            "can only translate: give a chat model or a base model for paraphrases",
        ),
        ({"into": ["fr"], "source": "deu_Latn"}, "has no language 'fr': give its own codes, such as eng_Latn fra_Latn"),
        ({"into": ["fra_Latn"], "source": "a"}, "has no language 'a'"),  # a letter, and no language
    ):
        with pytest.raises(ValueError, match=sentence):
            translate(["ab"], by=by, **options)
    with pytest.raises(TranslationError, match="'a b a b .*' has 43 tokens, too many for .* with 40 positions"):
        translate(["a b " * 20], ["fra_Latn"], source="deu_Latn", by=by)


def marian(targets=()):
    """Marian's model; its tokenizer takes a package that is not asked for here, so that one of words stands in."""
    tokenizer = tiny_tokenizer(bos=False)
    tokenizer.add_tokens([f">>{code}<<" for code in targets])
    tokenizer.supported_language_codes = [f">>{code}<<" for code in targets]
    shape = dict(vocab_size=len(tokenizer), pad_token_id=0, decoder_start_token_id=0, eos_token_id=2)
    torch.manual_seed(1)
    model = MarianMTModel(MarianConfig(**SHAPE, **shape, forced_eos_token_id=2, init_std=1.0))
    return model.double().eval(), tokenizer


def test_marian():
    model, tokenizer = marian()
    model.generation_config.forced_eos_token_id = 2
    given = texts("de", (5, 3, 8))
    by = Generator(model, tokenizer, max_new_tokens=3)
    truth = [translated(model, tokenizer(text)["input_ids"], [], 12, 2) for text in given]
    assert not any(2 in tokens for tokens in truth)
    with pytest.warns(UserWarning, match="3 of 3 answers do not end within 12 tokens"):
        found = translate(given, ["fr"], source="de", by=by)
    assert found == {"fr": [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in truth]}


@pytest.mark.filterwarnings("ignore:.*answers")
def test_marian_with_several_targets():
    model, tokenizer = marian(["fra", "spa"])
    by = Generator(model, tokenizer, max_new_tokens=3)
    found = translate(["w4 w5"], ["fra", "spa"], source="de", by=by)
    for code in ("fra", "spa"):
        tokens = translated(model, tokenizer(f">>{code}<< w4 w5")["input_ids"], [], 12, 2)
        assert found[code] == [tokenizer.decode(tokens, skip_special_tokens=True)]
    with pytest.raises(ValueError, match="does not translate into 'deu', only into >>fra<< >>spa<<"):
        translate(["w4"], ["deu"], source="en", by=by)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_marian_for_one_pair():
    model, tokenizer = marian()
    by = Generator(model, tokenizer, max_new_tokens=3)
    tokenizer.source_lang, tokenizer.target_lang = "de", "fra"
    found = translate(["w4"], ["fra"], source="de", by=by)["fra"]
    assert translate(["w4"], ["fr_XX"], source="deu_Latn", by=by) == {"fr_XX": found}  # other codes of the same
    for source, target, sentence in (
        ("de", "es", "MarianMTModel translates only into 'fra': for 'es' give a model that has it"),
        ("en", "fra", "MarianMTModel translates only from 'de': for 'en' give"),
        ("qq", "fra", "MarianMTModel translates only from 'de': for 'qq' give"),
    ):
        with pytest.raises(ValueError, match=sentence):
            translate(["w4"], [target], source=source, by=by)
    for several in ("mul", "cat+oci+deu", "cat_oci_deu", None):
        tokenizer.source_lang = several
        assert translate(["w4"], ["fra"], source="it", by=by)["fra"] == found


def test_models_that_cannot_be_told_the_languages():
    """T5, BART and others whose tokenizers know of none."""
    model, tokenizer = marian()
    del tokenizer.supported_language_codes
    with pytest.raises(ValueError, match="MarianMTModel cannot be told which languages .*: give NLLB, M2M100"):
        translate(["w4"], ["fr"], source="de", by=Generator(model, tokenizer))


@pytest.mark.filterwarnings("ignore:.*answers")
def test_the_callers_tokenizer_stays_as_it_was():
    model, tokenizer = nllb()
    tokenizer.src_lang = "fra_Latn"
    before = tokenizer("ab")["input_ids"]
    translate(["ab"], ["eng_Latn"], source="deu_Latn", by=Generator(model, tokenizer, max_new_tokens=3))
    assert tokenizer.src_lang == "fra_Latn" and tokenizer("ab")["input_ids"] == before


def test_what_a_generator_needs():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Generator(decoder(), byte_tokenizer(), max_new_tokens=0)
