"""Texts as messages of a chat template, compared with the template applied by transformers."""

import pytest

from pymultiling.data.chat import ChatFrame, chat_frame
from pymultiling.data.tokenising import Tokenisation
from tests.support.tiny_text import tiny_tokenizer

# With the beginning-of-text token, an instruction before the message and a mark after it.
TEMPLATE = "{{ bos_token }} w9 w10 {{ messages[0]['content'] }} w8 {% if add_generation_prompt %}w7 {% endif %}"
STRIPPING = TEMPLATE.replace("['content']", "['content'] | trim")


def chat_tokenizer(template: str = TEMPLATE):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def documents(lines, form="texts", max_length=32, pack=None, template=TEMPLATE):
    """Returns [(words before the text, words of the text)] of the documents, and the report."""
    tokenizer = chat_tokenizer(template)
    found = Tokenisation(tokenizer, max_length, pack, form, chat_frame(tokenizer))(
        [line if isinstance(line, tuple) else (line,) for line in lines]
    )
    return [
        (tokenizer.decode(tokens[:start]), tokenizer.decode(tokens[start:]))
        for tokens, start in zip(found, found.positions)
    ], found.report


def test_a_frame_is_what_the_template_puts_around_a_message():
    assert chat_frame(chat_tokenizer()) == ChatFrame("<s> w9 w10 ", " w8 w7 ", strips=False)
    assert chat_frame(chat_tokenizer(STRIPPING)) == ChatFrame("<s> w9 w10 ", " w8 w7 ", strips=True)


@pytest.mark.parametrize("template", [TEMPLATE, STRIPPING])
@pytest.mark.parametrize("text", ["w3 w4 w5", " w3 w4", "w11"])
def test_a_document_is_the_conversation_up_to_the_end_of_the_message(text, template):
    """The beginning-of-text token, which this tokenizer puts before a text and the template too, comes once."""
    tokenizer = chat_tokenizer(template)
    conversation = [{"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
    found = Tokenisation(tokenizer, 32, chat=chat_frame(tokenizer))([(text,)])
    (tokens,) = found
    assert [*tokens, tokenizer.convert_tokens_to_ids("w8")] == whole
    assert list(tokens).count(tokenizer.bos_token_id) == 1
    assert found.positions.tolist() == [3]


@pytest.mark.parametrize("form", ["texts", "prompts", "predicted"])
def test_importance_counts_and_perplexity_take_the_same_tokens(form):
    lines = ["w3 w4 w5 w6", "w11", " ", "w3 " * 9]
    found, report = documents(lines, form, max_length=10)
    before = "<s> w9 w10"
    assert found == [(before, "w3 w4 w5 w6"), (before, "w11"), (before, "w3 w3 w3 w3 w3 w3 w3")]
    assert (report.texts, report.empty, report.short, report.cut) == (4, 1, 0, 1)


def test_the_prompt_of_a_pair_is_the_message_and_the_response_is_the_answer():
    found, _ = documents([("w3 w4", "w5 w6")], "pairs")
    assert found == [("<s> w9 w10 w3 w4 w8 w7", "w5 w6")]


def test_packed_texts_are_one_message_a_document():
    """This tokenizer has no token for a line break."""
    found, report = documents(["w3 w4 w5", "w6", "w11 w12 w13"], pack=6)
    assert found == [("<s> w9 w10", "w3 w4 w5"), ("<s> w9 w10", "w6 w11 w12")]
    assert report.left_over == 1


def test_a_long_text_is_predicted_in_several_messages():
    found, _ = documents(["w3 w4 w5 w6 w11"], "predicted", pack=6)
    assert found == [("<s> w9 w10", "w3 w4 w5"), ("<s> w9 w10 w5", "w6 w11")]


def test_a_token_of_template_and_text_is_one_of_the_text():
    """The tokens of whole words: the template's last word and the text become one."""
    found, _ = documents(["3 w4"], template="<s> w9 w{{ messages[0]['content'] }}")
    assert found == [("<s> w9", "w3 w4")]


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "the tokenizer has no chat template, as those of models that are not tuned"),
        ("w9 w8", "does not have the user's message in it once"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "does not have the user's message in it once"),
        ("{{ raise_exception('a system message is needed') }}", "fails .* a system message is needed"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_way_out(template, message):
    with pytest.raises(ValueError, match=rf"{message}.*leave out chat_template \(--chat-template\), or set"):
        chat_frame(chat_tokenizer(template))


@pytest.mark.parametrize("form, size", [("texts", 3), ("predicted", 4), ("pairs", 4)])
def test_documents_without_room_for_text_are_refused(form, size):
    with pytest.raises(ValueError, match=r"have no room for text after \d tokens that begin each of them"):
        documents([("w3", "w4") if form == "pairs" else "w3"], form, max_length=size)
