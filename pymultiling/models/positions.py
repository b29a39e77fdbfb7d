"""How many tokens a text may have, by the number of positions of the model."""

from __future__ import annotations

from torch import nn

from pymultiling.models.families import known_family
from pymultiling.models.pretrained import pretrained


def position_limit(model: nn.Module) -> int | None:
    """Returns the number of tokens that a model's configuration allows in a text; None if it gives none.

    It is the number of positions, without those before the position of a text's first token.
    """
    config = pretrained(model).config.get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    family = known_family(config)
    return positions if positions is None or family is None else positions - family.first_position
