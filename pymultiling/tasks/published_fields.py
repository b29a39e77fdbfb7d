"""The fields of the published data sets, as `pymultiling.tasks` reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pymultiling.runtime.schemas import Schema


class Mgsm(Schema):
    """A question of MGSM, or an exemplar."""

    question: str
    answer: str


class Msvamp(Schema):
    """A question of MSVAMP in its own layout. It may have the fields of `Mgsm` instead."""

    m_query: str
    response: str


class XquadContext(Schema):
    """A paragraph of XQuAD."""

    context_id: str | int
    context: str


class XquadQuestion(Schema):
    """A question of XQuAD. Its answers have two layouts: see `xquad`."""

    context_id: str | int
    question: str


class Xcopa(Schema):
    """A premise of XCOPA with two choices."""

    premise: str
    question: Literal["cause", "effect"]
    choice1: str
    choice2: str
    label: Annotated[int, Field(ge=0, le=1)]


class XcsqaChoice(Schema):
    """A choice of X-CSQA."""

    label: str
    text: str


class XcsqaQuestion(Schema):
    """The question of a record of X-CSQA."""

    stem: str
    choices: Annotated[list[XcsqaChoice], Field(min_length=1)]


class Xcsqa(Schema):
    """A record of X-CSQA."""

    question: XcsqaQuestion
    answer_key: Annotated[str, Field(alias="answerKey")]


class Xlsum(Schema):
    """An article of XLSum."""

    text: str
    summary: str


class Xnli(Schema):
    """A pair of XNLI in its own layout."""

    sentence1: str
    sentence2: str
    gold_label: Literal["entailment", "neutral", "contradiction"]


class XnliOfHub(Schema):
    """A pair of XNLI in the layout of the Hugging Face Hub."""

    premise: str
    hypothesis: str
    label: Annotated[int, Field(ge=0, le=2)]


class Boolq(Schema):
    """A question of BoolQ in its own layout."""

    question: str
    passage: str
    answer: bool


class BoolqOfSuperGlue(Schema):
    """A question of BoolQ in the layout of SuperGLUE, whose label is 0 or 1 on the Hugging Face Hub."""

    question: str
    passage: str
    label: bool | Annotated[int, Field(ge=0, le=1)]
