"""Writes docs/model_types.md: which language models of the installed transformers are supported.

Run it as `python docs/make_model_types.py`. Reasons are in docs/model_types.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from pymultiling.models.families import FAMILIES
from pymultiling.neurons.sites import SITES

FOLDER = Path(__file__).parent
PAGE = FOLDER / "model_types.md"
HEAD = """\
# Model types of transformers

Which `model_type` of transformers can be measured, and why can others not be? [models.md](models.md) says how to add
one.

These are the causal language models of transformers {version}, the encoders that are supported, also those of
encoder-decoders, and models that take more than text whose text decoder is supported. `python
docs/make_model_types.py` wrote this page from the registered families and from `docs/model_types.toml`, which has the
reasons.
"""


def main() -> None:
    PAGE.write_text(page(), "utf-8")


def page() -> str:
    """Returns the text of the page.

    Raises:
        ValueError: model_types.toml lacks a type, or has a reason for one that is supported or that does not exist.
    """
    data = tomllib.loads((FOLDER / "model_types.toml").read_text("utf-8"))
    reasons = {name: group["why"] for group in data["unsupported"] for name in group["types"]}
    further = [
        *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,  # with some text decoders (Mistral 4)
    ]
    known = [name for name in further if name in FAMILIES]
    names = dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *known, *data["multimodal"]])
    supported = {name: row for name in names if (row := _supported(name, data)) is not None}
    unsupported = set(names) - set(supported)
    if unsupported != set(reasons):
        raise ValueError(
            f"docs/model_types.toml lacks the reasons of {sorted(unsupported - set(reasons))}, and has reasons of "
            f"{sorted(set(reasons) - unsupported)}, which are supported or no causal models of transformers"
        )
    parts = [
        HEAD.format(version=transformers.__version__),
        f"## Supported: {len(supported)}\n",
        _table("sites", supported),
        f"## Not supported: {len(reasons)}\n",
        _table("why", reasons),
    ]
    return "\n".join(parts)


def _supported(name: str, data: dict[str, Any]) -> str | None:
    """Returns the sites of a model type with what there is to say about it, or None if it is not supported."""
    if name in data["multimodal"]:
        decoders = " or ".join(f"`{decoder}`" for decoder in data["multimodal"][name])
        return f"{', '.join(SITES)} of its text decoder {decoders}"
    model_type = CONFIG_MAPPING[name].model_type  # transformers has some models under a second name
    if model_type not in FAMILIES:
        return None
    remark = data["remarks"].get(model_type)
    return ", ".join(SITES) + (f"; {remark}" if remark else "")


def _table(title: str, rows: dict[str, str]) -> str:
    lines = [f"| `model_type` | {title} |", "|---|---|", *(f"| {name} | {rows[name]} |" for name in sorted(rows))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
