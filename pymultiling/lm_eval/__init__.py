"""A model for lm-evaluation-harness: its own `hf` with a set of neurons off. Importing this registers it as `pymultiling`.

`lm_eval --model pymultiling --model_args pretrained=DIR_OR_NAME,neurons=fr.safetensors --tasks TASK`, where lm-eval finds the
models of other packages; `python -m pymultiling.lm_eval` with the same arguments everywhere.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import deactivate

try:  # absolute: the other package
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"lm-evaluation-harness with its hf models is not installed ({error}): pip install 'pymultiling[lm-eval]'",
        name=error.name,
    ) from error


@register_model("pymultiling")
class Deactivated(HFLM):
    """lm-eval's model `hf` inside `deactivate`: every forward, likelihoods and generation alike, runs without the neurons.

    The weights are not touched. A model that was given as an object runs as it did before once this one is gone.
    """

    def __init__(self, pretrained, *, neurons: str | Path, scale: float = 0.0, **arguments) -> None:
        """
        Args:
            pretrained: a folder, a name on the Hugging Face Hub, or the model itself.
            neurons: the file of a NeuronSet.
            scale: 0 switches off; 2 doubles the neurons' activations.
            arguments: all others of `hf`.

        Raises:
            CheckpointError: there is no such file, or it is damaged or something else.
            UnsupportedModel: the model's neurons are not where a known family has them.
            ValueError: the set is of a model of another shape; scale is not a finite number.
        """
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise ValueError(f"scale is a number, such as 0 to switch off or 2 to double; got {scale!r}")
        chosen = NeuronSet.load(str(neurons))  # before the model: a wrong name is to be told at once
        super().__init__(pretrained, **arguments)
        self._inside = ExitStack()  # never closed: its block ends when this object does
        self._inside.enter_context(deactivate(self.model, chosen, scale=float(scale)))
