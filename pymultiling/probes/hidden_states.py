"""Hidden states of a forward: inputs and outputs of layers, their means over sentences, and what they decode to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pymultiling.errors import NON_FINITE_ADVICE, NonFiniteActivations, UnsupportedModel
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.head import refuse_encoder
from pymultiling.models.linear import is_linear
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.pretrained import class_name, pretrained, tensor_attribute
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.verification.entry import require_verified
from pymultiling.runtime.device_copies import HostCopy, to_device

MAX_LOGITS = 2**24  # how many logits are in memory at a time


def watch_layers(decoder: Decoder, hooks: Hooks, on_states: Callable[[int, Tensor], None]) -> None:
    """Adds hooks that call on_states(index, hidden states) in every forward. States are (documents, length, hidden).

    Index 0 is the input of the first layer and index l the output of layer l. The final norm is applied to none of
    them.
    """

    def pass_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        on_states(0, args[0] if args else kwargs["hidden_states"])

    def pass_output(index: int, _: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        on_states(index, output[0] if isinstance(output, (tuple, list)) else output)

    layers = decoder.layer_modules()
    hooks.before_with_keywords(layers[0], pass_input)
    for index, layer in enumerate(layers, 1):
        hooks.after(layer, partial(pass_output, index))


class SentenceMeanProbe:
    """Computes the mean hidden state of every document in every layer, as `sentence_embeddings` defines it.

    Args:
        model: a Hugging Face decoder of a supported family.

    Attributes:
        decoder: the model.
        shape: (layers + 1, hidden), the shape of one document's means.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them, weights are not in memory, or the last
            hidden state has another width than the others.
    """

    def __init__(self, model: nn.Module):
        self.decoder = Decoder(model)
        self.decoder.require_weights()
        _refuse_streams(self.decoder)
        require_verified(self.decoder, ("layers", "body"))
        if any(is_linear(module) for module in self.decoder.final_modules):
            raise UnsupportedModel(
                f"{class_name(model)} projects its last hidden states to another width: they cannot be compared "
                "with those of other layers"
            )
        self.shape = len(self.decoder.layers) + 1, self.decoder.hidden_size

    @torch.no_grad()
    def launch(self, input_ids: Tensor, attention_mask: Tensor) -> HostCopy:
        """Launches the measurement of a batch, without waiting for the device.

        Args:
            input_ids: (documents, length) int64, on any device.
            attention_mask: (documents, length), 0 for padding. A mask on a GPU is read first, which waits for the GPU.

        Returns:
            A copy on its way to the CPU: (documents, layers + 1, hidden), in float32; in float64 for a float64 model.

        Raises:
            UnsupportedModel: the model did not run all its layers.
        """
        means: dict[int, Tensor] = {}
        valid = to_device(attention_mask.bool(), model_device(self.decoder.model))

        def keep_mean(index: int, hidden: Tensor) -> None:
            mask = valid.to(hidden.device)
            # The states are not multiplied by the mask, because those at padding may be NaN.
            total = upcast(hidden).masked_fill(~mask[..., None], 0).sum(1)
            means[index] = (total / mask.sum(1, keepdim=True)).to(valid.device)

        hooks = Hooks()
        watch_layers(self.decoder, hooks, keep_mean)
        with hooks, evaluation_mode(self.decoder.model):
            output = self.decoder.forward(input_ids, attention_mask)
            keep_mean(len(self.decoder.layers), output[0])
        if len(means) < self.shape[0]:
            raise UnsupportedModel(
                f"{len(means)} of {self.shape[0]} hidden states were seen: the model did not run all its layers"
            )
        return HostCopy(torch.stack([means[index] for index in range(len(means))], 1))


class TopTokenProbe:
    """Counts how often each token is among the `top` most probable ones that a layer's hidden states decode to.

    Hidden states are decoded by the final norm and the head.

    Args:
        model: a Hugging Face decoder of a supported family with a language-model head.
        top: how many tokens are counted for each position.

    Attributes:
        decoder: the model.
        vocabulary: the number of tokens in the vocabulary.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them, weights are not in memory, or there is no
            head.
        ValueError: `top` is less than 1 or more than the vocabulary has tokens.
    """

    def __init__(self, model: nn.Module, top: int):
        self.decoder = Decoder(model)
        refuse_encoder(self.decoder.model, "what hidden states predict needs")
        head: nn.Module | None = pretrained(self.decoder.model).get_output_embeddings()  # type: ignore[no-untyped-call]
        self.decoder.require_weights()
        _refuse_streams(self.decoder)
        require_verified(self.decoder, ("layers", "body"))
        if head is None:
            raise UnsupportedModel(
                f"looked for a language-model head in {class_name(model)}: load the model with AutoModelForCausalLM"
            )
        self.vocabulary = tensor_attribute(head, "weight").shape[0]
        if not 1 <= top <= self.vocabulary:
            raise ValueError(f"top must be between 1 and the {self.vocabulary} tokens of the vocabulary, got {top}")
        self._top, self._decode = top, nn.Sequential(*self.decoder.final_modules, head)

    def zero_counts(self, device: torch.device | None = None) -> Tensor:
        """Returns (layers + 1, vocabulary) int64: the counts of no tokens, on a device; None: on the CPU."""
        return torch.zeros(len(self.decoder.layers) + 1, self.vocabulary, dtype=torch.int64, device=device)

    @torch.no_grad()
    def launch(
        self, input_ids: Tensor, attention_mask: Tensor, counted: Tensor | None = None
    ) -> tuple[Tensor, Callable[[], None]]:
        """Launches the measurement of a batch, without waiting for the device.

        Args:
            input_ids: (documents, length) int64, on any device.
            attention_mask: (documents, length), 0 for padding. A mask on a GPU is read first, which waits for the GPU.
            counted: (documents, length) bool, the positions whose tokens are counted. None: all but padding.

        Returns:
            (layers + 1, vocabulary) int64 on the model's device: how often each token was among the top ones of each
            layer; and a check that the hidden states are finite, which waits for them and raises NonFiniteActivations
            with the layer and the document.
        """
        device = model_device(self.decoder.model)
        counts, valid = self.zero_counts(device), to_device(attention_mask.bool(), device)
        positions = attention_mask if counted is None else counted
        token_rows = to_device(positions.cpu().flatten().nonzero().squeeze(1), device)
        is_broken: dict[int, Tensor] = {}  # {index: (documents,) bool, whether the document has such states}

        def count_top_tokens(index: int, hidden: Tensor) -> None:
            is_broken[index] = (valid.to(hidden.device) & ~hidden.isfinite().all(-1)).any(1).to(device)
            # The final norm and the head may be on other devices; accelerate's hooks then move the states there.
            states = hidden.flatten(0, 1)[token_rows.to(hidden.device)]
            for part in torch.split(states, max(1, MAX_LOGITS // self.vocabulary)):
                tokens = self._decode(part).topk(self._top).indices.flatten().to(device)
                counts[index].scatter_add_(0, tokens, torch.ones_like(tokens))  # bincount would wait for the tokens

        hooks = Hooks()
        watch_layers(self.decoder, hooks, count_top_tokens)
        with hooks, evaluation_mode(self.decoder.model):
            self.decoder.forward(input_ids, attention_mask)
        broken = HostCopy(torch.stack([is_broken[index] for index in sorted(is_broken)]))

        def require_finite() -> None:
            places = broken.wait().nonzero().tolist()
            if places:
                index, document = places[0]
                raise NonFiniteActivations(
                    f"hidden states of index {index} are NaN or infinite: {NON_FINITE_ADVICE}", document
                )

        return counts, require_finite


def _refuse_streams(decoder: Decoder) -> None:
    """Raises UnsupportedModel for a model that has several hidden states of a token between its layers."""
    if decoder.family.hidden_streams:
        raise UnsupportedModel(
            f"the layers of {class_name(decoder.model)} pass on several hidden states of a token (AltUp), of which the "
            "model makes one behind its last layer: hidden states between layers cannot be compared; neurons can be "
            "measured"
        )
