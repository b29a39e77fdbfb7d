"""Hidden states of a forward: what every layer reads and gives, its means over sentences, and the tokens it decodes to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pymultiling.errors import NonFiniteActivations, UnsupportedModel
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, evaluation_mode
from pymultiling.models.linear import is_linear, weight_of
from pymultiling.probes.hooks import Hooks

MAX_LOGITS = 2**24  # that are held at a time


def watch_layers(decoder: Decoder, hooks: Hooks, see: Callable[[int, Tensor], None]) -> None:
    """Calls see(0, what the first layer reads), then see(l, output of layer l), none normalised, in every forward."""

    def first(_, args, kwargs) -> None:
        see(0, args[0] if args else kwargs["hidden_states"])

    modules = list(decoder.base_model.get_submodule(decoder.family.layers))
    hooks.before(modules[0], first, with_kwargs=True)
    for index, module in enumerate(modules, 1):
        hooks.after(
            module, lambda _, args, output, at=index: see(at, output[0] if isinstance(output, tuple) else output)
        )


class SentenceMeanProbe:
    """The mean hidden state of every document in every layer, as `sentence_embeddings` defines them.

    Attributes:
        shape: (layers + 1, hidden), of a document's means.
    """

    def __init__(self, model: nn.Module):
        self.decoder = Decoder(model)
        self.decoder.require_weights()
        if any(is_linear(module) for module in self.decoder.final_modules):
            raise UnsupportedModel(
                f"{type(model).__name__} projects its last hidden states to another width: they are no points beside others"
            )
        self.shape = len(self.decoder.layers) + 1, weight_of(self.decoder.layers[0].o).shape[0]

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(documents, layers + 1, hidden) on the CPU, in float32; float64 of a float64 model.

        input_ids and attention_mask: (documents, length), mask 0 for padding.
        """
        means: dict[int, Tensor] = {}

        def see(index: int, hidden: Tensor) -> None:
            mask = attention_mask.bool().to(hidden.device)
            # Not a product with the mask: what stands beside padding may be NaN.
            total = upcast(hidden).masked_fill(~mask[..., None], 0).sum(1)
            means[index] = (total / mask.sum(1, keepdim=True)).cpu()

        with Hooks() as hooks, evaluation_mode(self.decoder.model):
            watch_layers(self.decoder, hooks, see)
            output = self.decoder.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            see(len(self.decoder.layers), output[0])
        if len(means) < self.shape[0]:
            raise UnsupportedModel(f"{len(means)} of {self.shape[0]} hidden states were seen: layers were not run")
        return torch.stack([means[index] for index in range(len(means))], 1)


class TopTokenProbe:
    """How often a token is among the `top` ones that a layer's hidden states decode to, by the final norm and the head.

    Attributes:
        vocabulary: how many tokens there are.
    """

    def __init__(self, model: nn.Module, top: int):
        self.decoder, head = Decoder(model), model.get_output_embeddings()
        self.decoder.require_weights()
        if head is None:
            raise UnsupportedModel(f"looked for a language-model head in {type(model).__name__}")
        self.vocabulary = head.weight.shape[0]
        if not 1 <= top <= self.vocabulary:
            raise ValueError(f"top must be between 1 and the {self.vocabulary} tokens of the vocabulary, got {top}")
        self._top, self._decode = top, nn.Sequential(*self.decoder.final_modules, head)

    def zero_counts(self) -> Tensor:
        """(layers + 1, vocabulary) int64: the counts of no tokens."""
        return torch.zeros(len(self.decoder.layers) + 1, self.vocabulary, dtype=torch.int64)

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(layers + 1, vocabulary) int64 on the CPU: the counts over a batch's tokens; arguments as of `SentenceMeanProbe`.

        Raises:
            NonFiniteActivations: naming the layer and the document.
        """
        counts = self.zero_counts()

        def see(index: int, hidden: Tensor) -> None:
            inside = attention_mask.bool().to(hidden.device)
            broken = inside & ~hidden.isfinite().all(-1)
            if broken.any():
                document = int(broken.any(1).nonzero()[0])
                raise NonFiniteActivations(
                    f"hidden states of index {index} are NaN or infinite: look for NaN weights", document
                )
            states = hidden[inside]  # parts that are elsewhere fetch them, as accelerate has them do
            for some in states.split(max(1, MAX_LOGITS // self.vocabulary)):
                tokens = self._decode(some).topk(self._top).indices.flatten()
                counts[index] += torch.bincount(tokens, minlength=self.vocabulary).cpu()

        with Hooks() as hooks, evaluation_mode(self.decoder.model):
            watch_layers(self.decoder, hooks, see)
            self.decoder.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return counts
