"""Answers of a Generator against those of single requests, decoded token by token without a key-value cache."""

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
    """A tokenizer with a token for every byte, whose decoded text is the original."""
    tokenizer = Tokenizer(models.BPE({c: number for number, c in enumerate([*BYTES, "<s>", "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def decoder(max_positions=256):
    """A tiny Llama that prefers newlines and the end token; its answers differ and have 2 to 14 tokens or no end."""
    shape = dict(vocab_size=258, max_position_embeddings=max_positions, bos_token_id=256)
    model = tiny_model("llama", torch.float64, seed=12, **shape)
    with torch.no_grad():
        model.lm_head.weight[[NEWLINE, END]] *= 3
    return model


@torch.no_grad()
def decode_greedily(model, tokenizer, prompt: str, limit: int, ends_with_line: bool) -> tuple[str, bool]:
    """Returns the greedy answer, and whether it ends within `limit` tokens."""
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    limit, start = min(limit, model.config.max_position_embeddings - len(tokens)), len(tokens)
    while len(tokens) - start < limit:
        tokens.append(model(torch.tensor([tokens])).logits[0, -1].argmax().item())
        text = tokenizer.decode(tokens[start:], skip_special_tokens=True)
        if tokens[-1] == END or (ends_with_line and "\n" in text.lstrip()):
            return text.lstrip().partition("\n")[0].rstrip() if ends_with_line else text.strip(), True
    return tokenizer.decode(tokens[start:], skip_special_tokens=True).strip(), False


def check_answers(model, tokenizer, prompts, ends_with_line, **options):
    """Compares all answers with those of single requests, and the warnings with the counts of cut and empty answers."""
    expected = [
        decode_greedily(model, tokenizer, prompt, 4 * options["max_new_tokens"], ends_with_line) for prompt in prompts
    ]
    by = Generator(model, tokenizer, **options)
    with pytest.warns(UserWarning, match="answers") as warned:
        assert translate(TEXTS, ["fr"], source="de", by=by)["fr"] == [text for text, _ in expected]
    assert len({text for text, _ in expected}) > 8
    cut, empty = sum(not ended for _, ended in expected), sum(not text for text, _ in expected)
    assert 2 < cut < len(TEXTS) - 2
    expected = [f"{cut} of 24 answers do not end within {4 * options['max_new_tokens']} tokens, or within the model's "]
    expected += [f"{empty} of 24 answers are empty"] * bool(empty)
    messages = [str(warning.message).partition(": ")[2] for warning in warned]
    assert all(message.startswith(start) for message, start in zip(messages, expected, strict=True))


@pytest.mark.parametrize("batch_tokens", [1, 600, 4096])
def test_a_base_model_answers_up_to_the_end_of_the_line(batch_tokens):
    prompts = [f"Put the German text into French.\nGerman: {text}\nFrench:" for text in TEXTS]
    check_answers(decoder(), byte_tokenizer(), prompts, True, max_new_tokens=3, batch_tokens=batch_tokens)


def test_a_chat_model_gets_messages():
    prompts = [f"<user>{Request(text, 'de', 'fr').messages()[0]['content']}\n<model>" for text in TEXTS]
    check_answers(decoder(), byte_tokenizer(TEMPLATE), prompts, False, max_new_tokens=4, batch_tokens=2000)


def fixed_generator(monkeypatch, answer: str) -> tuple[Generator, list[str]]:
    """Returns a chat model that always gives this answer, and the list of prompts that it gets."""
    template = TEMPLATE.replace("<model>", "<model>{% if enable_thinking is false %}<think></think>{% endif %}")
    model, tokenizer, prompts = decoder(), byte_tokenizer(template), []
    answer_tokens = tokenizer(answer)["input_ids"] + [END]

    def generate(input_ids, max_new_tokens, **options):
        prompts.extend(tokenizer.batch_decode(input_ids))
        return torch.cat([input_ids, torch.tensor([answer_tokens[:max_new_tokens]] * len(input_ids))], 1)

    monkeypatch.setattr(model, "generate", generate)
    return Generator(model, tokenizer, max_new_tokens=20), prompts


@pytest.mark.parametrize(
    "thinking", ["<think>\nhm, oui?\n</think>\n\n", "<think>a <think> b</think>", "hm, oui?</think>"]
)
def test_thinking_is_removed_from_answers(monkeypatch, thinking):
    """The template is told to disable thinking. In the last case the prompt has opened it already."""
    by, prompts = fixed_generator(monkeypatch, f"{thinking}Bon jour")
    assert translate(["a"], ["fr"], source="de", by=by) == {"fr": ["Bon jour"]}
    assert prompts[0].endswith("<model><think></think>")


@pytest.mark.filterwarnings("ignore:.*answers do not end")
@pytest.mark.parametrize("answer, times", [("<think>hm", 1), ("<think>" + "hm " * 40, 3)])
def test_an_answer_with_thinking_only_is_empty_and_not_stored(monkeypatch, tmp_path, answer, times):
    """An answer whose thinking is cut by the limit is first generated again with larger limits."""
    by, prompts = fixed_generator(monkeypatch, answer)
    for calls in (1, 2):
        with pytest.warns(UserWarning, match="1 of 1 answers are empty"):
            inputs = translate(["a"], ["fr"], source="de", by=by, cache=tmp_path / "c")
        assert inputs == {"fr": [""]} and len(prompts) == calls * times


def test_answers_may_fill_the_models_positions():
    prompts = [Request(text, "de", "fr").plain() for text in TEXTS]
    max_positions = max(map(len, prompts)) + 4
    check_answers(decoder(max_positions), byte_tokenizer(), prompts, True, max_new_tokens=3, batch_tokens=4096)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_requests_that_exceed_the_positions_are_refused():
    by = Generator(decoder(max_positions=80), byte_tokenizer(), max_new_tokens=3)
    length = len(Request("", "de", "fr").plain())
    translate(["x" * (79 - length)], ["fr"], source="de", by=by)
    with pytest.raises(
        TranslationError,
        match=r"'x+' has 80 tokens, too many for LlamaForCausalLM with 80 positions: give shorter texts",
    ):
        translate(["x", "x" * (80 - length)], ["fr"], source="de", by=by)


def test_end_tokens_of_the_generation_config_and_the_tokenizer_end_an_answer():
    model, tokenizer = decoder(), byte_tokenizer(TEMPLATE)
    prompts = [f"<user>{Request(text, 'de', 'fr').messages()[0]['content']}\n<model>" for text in TEXTS[:6]]
    full_answers = [decode_greedily(model, tokenizer, prompt, 12, False)[0] for prompt in prompts]
    token = tokenizer(full_answers[0][1:2])["input_ids"][0]
    model.generation_config.eos_token_id = [token, 5]
    model.generation_config.repetition_penalty = 9.0  # must be ignored
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = translate(TEXTS[:6], ["fr"], source="de", by=Generator(model, tokenizer, max_new_tokens=3))["fr"]
    assert answers[0] == full_answers[0][:1]


class CountingGenerator(Generator):
    """Counts the generated rows. Raises KeyboardInterrupt after `batches_left` batches; never if that is negative."""

    rows, batches_left = 0, -1

    def _generate_batch(self, batch, limit, target):
        if self.batches_left == 0:
            raise KeyboardInterrupt
        self.batches_left -= 1
        self.rows += len(batch.order)
        return super()._generate_batch(batch, limit, target)


@pytest.fixture
def load_named(tmp_path):
    """A function that loads a model with a name, which is its folder."""
    decoder().save_pretrained(tmp_path / "model")
    return lambda: type(decoder()).from_pretrained(tmp_path / "model", dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_stored_answers_are_not_generated_again(tmp_path, load_named):
    options = {"source": "de", "cache": tmp_path / "answers.db"}
    tokenizer, texts = byte_tokenizer(TEMPLATE), TEXTS + TEXTS[:4]
    expected = translate(texts, ["fr"], source="de", by=Generator(decoder(), tokenizer, max_new_tokens=20))["fr"]
    by = CountingGenerator(load_named(), tokenizer, max_new_tokens=20, batch_tokens=800)
    by.batches_left = 2
    with pytest.raises(KeyboardInterrupt):
        translate(texts, ["fr"], by=by, **options)
    resumed = CountingGenerator(load_named(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=resumed, **options)["fr"] == expected
    repeated = CountingGenerator(load_named(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=repeated, **options)["fr"] == expected
    # Only answers that are cut or empty are generated again.
    assert 0 < by.rows < 24 and repeated.rows < resumed.rows
    unnamed = CountingGenerator(decoder(), tokenizer, max_new_tokens=20)
    assert translate(texts, ["fr"], by=unnamed, **options)["fr"] == expected
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
    """Returns a random model of NLLB's class, and NLLB's tokenizer with letters as tokens."""
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
def translate_greedily(model, tokens: list[int], forced: list[int], limit: int, end: int) -> list[int]:
    """Returns the tokens of the greedy translation after the forced ones."""
    answer = [model.config.decoder_start_token_id, *forced]
    while (len(answer) <= limit and answer[-1] != end) or len(answer) <= 1:
        logits = model(torch.tensor([tokens]), decoder_input_ids=torch.tensor([answer])).logits
        answer.append(logits[0, -1].argmax().item())
    return answer[1 + len(forced) :]


@pytest.mark.filterwarnings("ignore:.*answers")
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_nllb_translates_and_translates_back(batch_tokens):
    model, tokenizer = nllb()
    texts = ["ab cd", "a", "ponm lkji hgf", "d d d", "fab"]
    by = Generator(model, tokenizer, max_new_tokens=3, batch_tokens=batch_tokens)
    inputs = translate(texts, ["fra_Latn", "eng_Latn"], source="deu_Latn", by=by, how="back-translation")
    code = dict(zip(LANGUAGES, tokenizer.convert_tokens_to_ids(LANGUAGES)))

    def expected_translation(text, source, target):
        prompt = [code[source], *tokenizer(text, add_special_tokens=False)["input_ids"], 2]
        tokens = translate_greedily(model, prompt, [code[target]], 12, 2)
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    for pivot in ("fra_Latn", "eng_Latn"):
        intermediate = [expected_translation(text, "deu_Latn", pivot) for text in texts]
        assert inputs[f"deu_Latn~{pivot}"] == [expected_translation(text, pivot, "deu_Latn") for text in intermediate]
    assert len(set(inputs["deu_Latn~fra_Latn"])) > 1 and inputs["deu_Latn~fra_Latn"] != inputs["deu_Latn~eng_Latn"]


def test_translation_models_refuse_paraphrases_unknown_languages_and_long_texts():
    model, tokenizer = nllb()
    by = Generator(model, tokenizer, max_new_tokens=3)
    for options, message in (
        (
            {"into": 2, "how": "paraphrase", "source": "deu_Latn"},
            "can only translate: give a chat model or a base model for paraphrases",
        ),
        ({"into": ["fr"], "source": "deu_Latn"}, "has no language 'fr': give its own codes, such as eng_Latn fra_Latn"),
        ({"into": ["fra_Latn"], "source": "a"}, "has no language 'a'"),  # a token, but not a language
    ):
        with pytest.raises(ValueError, match=message):
            translate(["ab"], by=by, **options)
    with pytest.raises(TranslationError, match=r"'a b a b .*' has 43 tokens, too many for .* with 40 positions"):
        translate(["a b " * 20], ["fra_Latn"], source="deu_Latn", by=by)


def marian(targets=()):
    """Returns a random Marian model with a tokenizer of words, because Marian's own needs another package."""
    tokenizer = tiny_tokenizer(bos=False)
    tokenizer.add_tokens([f">>{code}<<" for code in targets])
    tokenizer.supported_language_codes = [f">>{code}<<" for code in targets]
    shape = dict(vocab_size=len(tokenizer), pad_token_id=0, decoder_start_token_id=0, eos_token_id=2)
    torch.manual_seed(1)
    model = MarianMTModel(MarianConfig(**SHAPE, **shape, forced_eos_token_id=2, init_std=1.0))
    return model.double().eval(), tokenizer


def test_marian_without_languages_translates_the_text():
    model, tokenizer = marian()
    model.generation_config.forced_eos_token_id = 2
    sources = texts("de", (5, 3, 8))
    by = Generator(model, tokenizer, max_new_tokens=3)
    expected = [translate_greedily(model, tokenizer(text)["input_ids"], [], 12, 2) for text in sources]
    assert not any(2 in tokens for tokens in expected)
    with pytest.warns(UserWarning, match="3 of 3 answers do not end within 12 tokens"):
        inputs = translate(sources, ["fr"], source="de", by=by)
    assert inputs == {"fr": [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]}


@pytest.mark.filterwarnings("ignore:.*answers")
def test_marian_with_several_targets_gets_the_target_in_the_text():
    model, tokenizer = marian(["fra", "spa"])
    by = Generator(model, tokenizer, max_new_tokens=3)
    inputs = translate(["w4 w5"], ["fra", "spa"], source="de", by=by)
    for code in ("fra", "spa"):
        tokens = translate_greedily(model, tokenizer(f">>{code}<< w4 w5")["input_ids"], [], 12, 2)
        assert inputs[code] == [tokenizer.decode(tokens, skip_special_tokens=True)]
    with pytest.raises(ValueError, match="does not translate into 'deu', only into >>fra<< >>spa<<"):
        translate(["w4"], ["deu"], source="en", by=by)


@pytest.mark.filterwarnings("ignore:.*answers")
def test_marian_for_one_pair_refuses_other_languages():
    model, tokenizer = marian()
    by = Generator(model, tokenizer, max_new_tokens=3)
    tokenizer.source_lang, tokenizer.target_lang = "de", "fra"
    inputs = translate(["w4"], ["fra"], source="de", by=by)["fra"]
    assert translate(["w4"], ["fr_XX"], source="deu_Latn", by=by) == {
        "fr_XX": inputs
    }  # other codes of the same languages
    for source, target, message in (
        ("de", "es", "MarianMTModel translates only into 'fra': for 'es' give a model that has it"),
        ("en", "fra", "MarianMTModel translates only from 'de': for 'en' give"),
        ("qq", "fra", "MarianMTModel translates only from 'de': for 'qq' give"),
    ):
        with pytest.raises(ValueError, match=message):
            translate(["w4"], [target], source=source, by=by)
    for several in ("mul", "cat+oci+deu", "cat_oci_deu", None):
        tokenizer.source_lang = several
        assert translate(["w4"], ["fra"], source="it", by=by)["fra"] == inputs


def test_models_that_cannot_be_told_the_languages_are_refused():
    """For example T5 and BART have tokenizers without languages."""
    model, tokenizer = marian()
    del tokenizer.supported_language_codes
    with pytest.raises(ValueError, match=r"MarianMTModel cannot be told which languages .*: give NLLB, M2M100"):
        translate(["w4"], ["fr"], source="de", by=Generator(model, tokenizer))


@pytest.mark.filterwarnings("ignore:.*answers")
def test_the_callers_tokenizer_is_not_changed():
    model, tokenizer = nllb()
    tokenizer.src_lang = "fra_Latn"
    tokens_before = tokenizer("ab")["input_ids"]
    translate(["ab"], ["eng_Latn"], source="deu_Latn", by=Generator(model, tokenizer, max_new_tokens=3))
    assert tokenizer.src_lang == "fra_Latn" and tokenizer("ab")["input_ids"] == tokens_before


def test_max_new_tokens_must_be_positive():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Generator(decoder(), byte_tokenizer(), max_new_tokens=0)
