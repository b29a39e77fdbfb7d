"""The model card (README.md) of an exported checkpoint."""

from __future__ import annotations

from huggingface_hub import ModelCardData

from pymultiling import __version__
from pymultiling.neurons.sets import NeuronSet


def model_card(neurons: NeuronSet, name: str | None, base_model: str | None, scale: float, has_mean: bool) -> str:
    """Returns the text of the card.

    Args:
        neurons: the set that was changed.
        name: the name of the set; None: it has none.
        base_model: the name of the model on the Hub; None: it came from a folder, or was changed.
        scale: as in `export`.
        has_mean: whether the neurons were set to their mean.
    """
    what = "set to their mean" if has_mean else "switched off" if scale == 0 else f"scaled by {scale:g}"
    model = "a language model" if base_model is None else f"[{base_model}](https://huggingface.co/{base_model})"
    chosen = "" if name is None else f" (set `{name}`)"
    data = ModelCardData(
        library_name="transformers", base_model=base_model, tags=["pymultiling", "interpretability", "language-neurons"]
    )
    rows = "\n".join(
        f"| {site} | {count:,} | {sum(neurons.layer_widths(site)):,} |" for site, count in neurons.count("site").items()
    )
    return f"""---
{data.to_yaml()}
---

# {base_model or "Language model"} with {len(neurons):,} neurons {what}

Made from {model}: the weights are changed so that these neurons{chosen} are {what}.

| site | neurons changed | neurons in the model |
|---|---|---|
{rows}

Made with pymultiling {__version__} (`pml.export`). It is an ordinary checkpoint, and needs no further code. The
licence and the limits of the model that it was made from hold for it too.
"""
