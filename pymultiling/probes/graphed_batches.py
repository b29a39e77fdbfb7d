"""Measures batches by CUDA graphs, where the model and the batch allow it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import partial
from itertools import chain

from torch import Tensor

from pymultiling.models.decoder import Decoder, model_device
from pymultiling.runtime.graphs import CudaRecorder, Graphs, Results


class GraphedBatches:
    """The CUDA graphs of one model. While it is in use, nothing about the model may change.

    Warns:
        UserWarning: the model cannot be measured by CUDA graphs, and why.
    """

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self._graphs: Graphs | None = None
        self._has_warned_of_masks = False
        reason = why_not_recorded(decoder)
        if reason is None:
            self._graphs = Graphs(CudaRecorder(model_device(decoder.model)))
        else:
            warnings.warn(f"CUDA graphs are not used, because {reason}", stacklevel=3)

    def run(
        self,
        measure: Callable[[Tensor, Tensor, Tensor, Tensor], Results],
        key: Hashable,
        mask: Tensor,
        input_ids: Tensor,
        valid: Tensor,
        counted: Tensor,
    ) -> Results:
        """Returns measure(mask, input_ids, valid, counted).

        Args:
            measure: runs the model on a batch. Of the mask's values it may use on the host only whether there is
                padding, and on which side.
            key: what else `measure` knows of the batch on the host.
            mask: (documents, length), 0 for padding, on the CPU.
            input_ids: (documents, length) int64, on the device.
            valid: mask as bool, on the device.
            counted: (documents, length) bool, the tokens that count, on the device.

        Warns:
            UserWarning: the model gets the mask (once); or the measurement cannot be recorded (once).
        """
        measure_batch = partial(measure, mask)
        if self._graphs is None:
            return measure_batch(input_ids, valid, counted)
        if self._decoder.needs_mask(mask):
            self._warn_of_masks()
            return measure_batch(input_ids, valid, counted)
        return self._graphs.run((bool(mask.all()), key), measure_batch, input_ids, valid, counted)

    def _warn_of_masks(self) -> None:
        if not self._has_warned_of_masks:
            self._has_warned_of_masks = True
            side = " on the left" if self._decoder.family.causal else ""
            warnings.warn(
                f"CUDA graphs are not used for batches with padding{side}, because the model gets their mask",
                stacklevel=4,
            )


def why_not_recorded(decoder: Decoder) -> str | None:
    """Returns why no forward of the model can be recorded in a CUDA graph, or None if some can."""
    device = model_device(decoder.model)
    if device.type != "cuda":
        return f"the model is on the device {device.type!r}"
    if decoder.tensor_parallel.count > 1:
        return "the model is spread over processes"
    if any(x.device != device for x in chain(decoder.base_model.parameters(), decoder.base_model.buffers())):
        return "the model is spread over devices"
    return None
