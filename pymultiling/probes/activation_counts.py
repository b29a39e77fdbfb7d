"""How many positions every FFN neuron is active in, counted in a plain forward.

The model's output stays bit for bit; that of a mixture of experts does where the experts run as transformers' "eager"
ones, and agrees to rounding with other implementations (`from_pretrained(..., experts_implementation="eager")`).
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from pymultiling.errors import NonFiniteActivations, UnsupportedModel
from pymultiling.models.decoder import Decoder, evaluation_mode
from pymultiling.models.experts import Experts, Routed, changing
from pymultiling.models.linear import Projection
from pymultiling.ops import active_count
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.importance import ImportanceProbe

# transformers' names of the activations that are above zero exactly where their input is.
SIGN_PRESERVING_ACTIVATIONS = (
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "quick_gelu",
    "relu", "relu2", "relu6", "leaky_relu", "mish",
)  # fmt: skip


class ActivationProbe:
    """Counts, batch by batch, where act(gate) > 0; a neuron of a plain FFN, where act(up) > 0.

    A neuron of an expert is active in no token that is routed past it.
    """

    def __init__(self, model: nn.Module):
        self.decoder = Decoder(model)
        self.decoder.require_weights()
        if self.decoder.activation not in SIGN_PRESERVING_ACTIVATIONS:
            raise UnsupportedModel(
                f"the FFN's activation is {self.decoder.activation!r}; looked for one of {', '.join(SIGN_PRESERVING_ACTIVATIONS)}"
            )

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor, counted: Tensor) -> Tensor:
        """(layers, neurons) int64 on the CPU: in how many of the positions `counted` each neuron is active.

        Args:
            input_ids: (documents, length) int64, on the model's device.
            attention_mask: (documents, length), 0 for padding on either side.
            counted: (documents, length) bool.

        Raises:
            NonFiniteActivations: naming site, layer and document.
        """
        documents = torch.where(counted, 0, -1).flatten()
        # Made before the forward: what is kept from the middle of it keeps the CPU's allocator from using memory again
        # (8 layers of 256 x 2816: 24,000 page faults instead of 17,000, and 2% of the time).
        shape = len(self.decoder.layers), self.decoder.widths()["ffn"]
        active = torch.zeros(shape, dtype=torch.int64, device=input_ids.device)
        seen: dict[int, int] = {}  # how many neurons, which are fewer where the model is spread over processes

        def watch(index: int, gate: Projection):
            def count(_, args, output: Tensor) -> None:
                x = gate.of(output).flatten(0, -2)
                active[index, : x.shape[1]] = active_count(x, documents.to(x.device), 1)[0]
                seen[index] = x.shape[1]

            return count

        def watch_routed(index: int, experts: Experts):
            def count(routed: Routed) -> None:
                active[index] = experts.active(routed, documents.to(routed.gate.device), 1)[0]
                seen[index] = experts.width

            return count

        with ExitStack() as stack, Hooks() as hooks, evaluation_mode(self.decoder.model):
            for index, layer in enumerate(self.decoder.layers):
                if layer.experts is not None:
                    stack.enter_context(changing(layer.experts, watch_routed(index, layer.experts)))
                else:
                    hooks.after(layer.gate.module, watch(index, layer.gate))
            output = self.decoder.forward(input_ids, attention_mask)
        if len(seen) < len(self.decoder.layers):
            raise UnsupportedModel(
                f"FFNs were seen in {len(seen)} of {len(self.decoder.layers)} layers: the model does not run its modules as "
                "its family does in transformers"
            )
        self._require_finite(output[0], input_ids, attention_mask)
        return self.decoder.tensor_parallel.gather(active[:, : seen[0]], shape[1]).cpu()

    def _require_finite(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> None:
        """What is not finite in any layer is not in the last one's output either, for the layers' outputs add up."""
        if hidden.sum(dtype=torch.float32).isfinite():
            return  # without a look at what is padding
        broken = ~(hidden.isfinite().all(-1) | ~attention_mask.bool().to(hidden.device)).all(-1)
        if broken.any():
            with ImportanceProbe(self.decoder.model, ("ffn",)) as probe:  # which says where it began
                probe.measure(input_ids, attention_mask)
            document = int(broken.nonzero()[0])
            raise NonFiniteActivations(f"NaN or infinite output of document {document} of the batch", document)
