"""Counts in how many positions every FFN neuron is active, in a plain forward.

The model's output stays the same bit for bit. For a mixture of experts this holds where the model uses transformers'
"eager" experts (`from_pretrained(..., experts_implementation="eager")`). With other implementations, the output agrees
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pymultiling.errors import NON_FINITE_ADVICE, NonFiniteActivations, UnsupportedModel
from pymultiling.models.activations import sparse_gate
from pymultiling.models.decoder import Decoder, DenseFFN, model_device
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.find_modules import CORRECT_ENTRY
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.routing import Routed
from pymultiling.ops import active_count
from pymultiling.probes.batch_documents import BatchDocuments
from pymultiling.probes.hooks import Hooks, OutputHook
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.switched_off import switch_off, switch_off_routed
from pymultiling.probes.verification.entry import require_verified
from pymultiling.runtime.device_copies import HostCopy, to_device

# transformers' names of the activations that are above zero exactly where their input is.
SIGN_PRESERVING_ACTIVATIONS = (
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "quick_gelu",
    "relu", "relu2", "relu6", "leaky_relu", "mish",
)  # fmt: skip


class ActivationProbe:
    """Counts for each neuron the tokens of a batch in which act(gate) > 0, or in a plain FFN act(up) > 0.

    A neuron of an expert is not active in tokens that are not routed to the expert. A neuron that `deactivate` has set
    to zero is not active; one that it scales by another factor, or sets to its mean, counts as the model computes gate.

    Args:
        model: a Hugging Face decoder of a supported family.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them, weights are not in memory, or the
            activation is none of SIGN_PRESERVING_ACTIVATIONS.
    """

    def __init__(self, model: nn.Module):
        self.decoder = Decoder(model)
        self.decoder.require_weights()
        if self.decoder.activation not in SIGN_PRESERVING_ACTIVATIONS:
            raise UnsupportedModel(
                f"the FFN's activation is {self.decoder.activation!r}; looked for one of "
                f"{', '.join(SIGN_PRESERVING_ACTIVATIONS)}"
            )
        require_verified(self.decoder, ("body", "ffn", "ffn once", "product"))

    def measure(self, input_ids: Tensor, attention_mask: Tensor, counted: Tensor) -> Tensor:
        """Counts for every neuron in how many of the positions `counted` it is active, and waits for the counts.

        Args:
            input_ids: as in `launch`.
            attention_mask: as in `launch`.
            counted: as in `launch`.

        Returns:
            (layers, neurons) int64, on the model's device.

        Raises:
            NonFiniteActivations: the model's output is NaN or infinite; names the document, and the site and the layer
                if the importance of an FFN neuron is NaN or infinite too.
            UnsupportedModel: the model does not run its modules as its family does.
        """
        active, require_finite = self.launch(input_ids, attention_mask, counted)
        require_finite()
        return active

    @torch.no_grad()
    def launch(self, input_ids: Tensor, attention_mask: Tensor, counted: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Launches a count, without waiting for the device.

        Args:
            input_ids: (documents, length) int64, on any device.
            attention_mask: (documents, length), 0 for padding on either side. A mask on a GPU is read first, which
                waits for the GPU.
            counted: (documents, length) bool, on any device, the positions that count.

        Returns:
            (layers, neurons) int64, on the model's device; and a check that the model's output is finite, which
            waits for it and raises as `measure` does.

        Raises:
            UnsupportedModel: the model does not run its modules as its family does.
        """
        device = model_device(self.decoder.model)
        documents = BatchDocuments(to_device(torch.where(counted, 0, -1).flatten(), device), 1)
        # Allocated before the forward: memory that is allocated during the forward and kept stops the CPU's allocator
        # from reusing memory (8 layers of 256 x 2816: 24,000 page faults instead of 17,000, and 2% of the time).
        shape = len(self.decoder.layers), self.decoder.widths()["ffn"]
        active = torch.zeros(shape, dtype=torch.int64, device=device)
        # The number of neurons of each layer in this process, which is smaller for a tensor-parallel model.
        local_widths: dict[int, int] = {}

        def count_projection(index: int, first: int, ffn: DenseFFN) -> OutputHook:
            def count(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                gate = ffn.gate.select(output)
                if ffn.gate_sparsity > 0:
                    gate = sparse_gate(gate, ffn.gate_sparsity)
                x = switch_off(ffn.down, gate).flatten(0, -2)
                active[index, first : first + x.shape[1]] = active_count(x, documents.of(x, "ffn", index))[0]
                local_widths[index] = local_widths.get(index, 0) + x.shape[1]

            return count

        def count_experts(index: int, experts: Experts) -> Callable[[Routed], None]:
            def count(routed: Routed) -> None:
                routed = switch_off_routed(experts, routed)
                ids = documents.of(routed.states, "ffn", index).ids
                active[index, : experts.width] = experts.active(routed, ids, 1)[0]
                local_widths[index] = local_widths.get(index, 0) + experts.width

            return count

        hooks = Hooks()
        for index, layer in enumerate(self.decoder.layers):
            ffn = layer.ffn_parts
            if isinstance(ffn, Experts):
                attach_change(hooks, ffn, count_experts(index, ffn))
            dense, first = layer.dense, layer.dense_members.start
            if dense is not None:
                hooks.after(dense.gate.module, count_projection(index, first, dense))
        with hooks, evaluation_mode(self.decoder.model):
            output = self.decoder.forward(input_ids, attention_mask)
        seen_widths = [local_widths.get(index, 0) for index in range(len(self.decoder.layers))]
        is_whole = seen_widths == [layer.width("ffn") for layer in self.decoder.layers]
        is_part = self.decoder.tensor_parallel.count > 1 and len(set(seen_widths)) == 1
        if not (is_whole or is_part):
            raise UnsupportedModel(
                f"FFNs were seen in {len(local_widths)} of {len(self.decoder.layers)} layers: the model does not run "
                f"its modules as its family does in transformers; {CORRECT_ENTRY}"
            )
        counts = self.decoder.tensor_parallel.gather(active[:, : max(seen_widths)], shape[1])
        return counts, self._finite_check(output[0], input_ids, attention_mask)

    def _finite_check(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Callable[[], None]:
        """Returns a check of the last hidden states (documents, length, hidden). Padding may be NaN.

        The states of other layers need no check, because every layer adds its output to the states before it.
        """
        is_broken = HostCopy(~(hidden.isfinite().all(-1) | ~to_device(attention_mask.bool(), hidden.device)).all(-1))

        def require_finite() -> None:
            broken_documents = is_broken.wait().nonzero().flatten().tolist()
            if not broken_documents:
                return
            # It raises an error that names the site and the first layer with such values, if they reach a neuron.
            with ImportanceProbe(self.decoder.model, ("ffn",), verify=False) as probe:
                probe.measure(input_ids, attention_mask)
            document = broken_documents[0]
            raise NonFiniteActivations(
                f"NaN or infinite output of document {document + 1} of the batch: {NON_FINITE_ADVICE}", document
            )

        return require_finite
