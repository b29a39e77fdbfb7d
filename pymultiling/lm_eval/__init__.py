"""A model for lm-evaluation-harness: its model `hf` with a set of neurons deactivated.

Importing this module registers the model as `pymultiling`. If lm-eval finds the models of other packages, use it by
`lm_eval --model pymultiling --model_args pretrained=DIR_OR_NAME,neurons=fr.safetensors --tasks TASK`. Otherwise use
`python -m pymultiling.lm_eval` with the same arguments.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import deactivate

if TYPE_CHECKING:
    from torch import nn

try:  # these are absolute imports: `lm_eval` is the other package
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"lm-evaluation-harness with its hf models is not installed ({error}): pip install 'pymultiling[lm-eval]'",
        name=error.name,
    ) from error


@register_model("pymultiling")
class Deactivated(HFLM):  # type: ignore[misc]  # lm-eval brings no types
    """lm-eval's model `hf` with a set of neurons deactivated in every forward, for log-likelihoods and generation.

    The weights are not changed. A model that was passed as an object runs as before once this object is deleted.

    Args:
        pretrained: a model folder, a name on the Hugging Face Hub, or the model itself.
        neurons: the file of a NeuronSet.
        scale: the factor of the neurons' activations: 0 deactivates them, 2 doubles them.
        arguments: all other arguments of lm-eval's `hf`.

    Raises:
        CheckpointError: the file does not exist, is damaged, or is not a set of neurons.
        UnsupportedModel: the model is of no known family.
        ValueError: the set is of a model of another shape, or scale is not a finite number.
    """

    def __init__(
        self, pretrained: str | nn.Module, *, neurons: str | Path, scale: float = 0.0, **arguments: object
    ) -> None:
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise ValueError(f"scale must be a finite number, such as 0 to deactivate or 2 to double; got {scale!r}")
        neuron_set = NeuronSet.load(str(neurons))  # before the model is loaded, so that a wrong path fails at once
        super().__init__(pretrained, **arguments)
        # Never closed: when this object is deleted, Python closes the generator behind `deactivate`, which removes its
        # hooks.
        self._deactivation = ExitStack()
        self._deactivation.enter_context(deactivate(self.model, neuron_set, scale=float(scale)))
