"""Mean activations of every neuron over a corpus: what mean ablation sets neurons to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from pymultiling.data.batches import batches
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import document_length, tokenise
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.models.decoder import Decoder, evaluation, model_device
from pymultiling.models.experts import Experts, Routed, changing
from pymultiling.models.linear import weight_of
from pymultiling.neurons.sites import SITES, check_sites
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.masking import places
from pymultiling.runtime.progress import progress as show_progress


@torch.no_grad()
def mean_activations(
    model: nn.Module,
    tokenizer,
    texts,
    *,
    sites: Iterable[str] = SITES,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The mean of every neuron's activation over all tokens of a corpus.

        mean[n] = sum_t x[t, n] / #t,    x where `deactivate` changes it

    the input of the down projection (ffn) and of o_proj (o), the output of a projection (q, k, v; bias included). A
    neuron of an expert has its mean over the tokens that are routed to the expert, 0 where none is.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        texts: an iterable of str or rows, or a path, as `detect` takes them.
        sites: which of "ffn", "q", "k", "v", "o".
        max_length, batch_tokens, pack, progress: as in `detect`.

    Returns:
        {site: (layers, neurons)} float32, for `deactivate(..., mean=...)`.

    Raises:
        CorpusError: the texts cannot be read, or there are none.
        NonFiniteActivations: naming the site.
        UnsupportedModel, ValueError: as `importance`.
    """
    decoder, sites, device = Decoder(model), check_sites(sites), model_device(model)
    decoder.require_weights()
    length, report = document_length(model, max_length, batch_tokens, pack), CorpusReport()
    documents = tokenise(read_texts(texts, report), tokenizer, length, report, pack)
    widths, layers = decoder.widths(), len(decoder.layers)
    sums = {site: torch.zeros(layers, widths[site], dtype=torch.float64) for site in sites}
    tokens, valid = 0, {}
    routed_tokens = torch.zeros(layers, widths["ffn"], dtype=torch.int64)

    def add(index: int, parts: dict[str, slice | Tensor], whole: int, x: Tensor) -> None:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = valid[x.device].to(wide) @ x.flatten(0, -2).to(wide)
        total = decoder.spread.gather(total, whole).double().cpu()
        for site, part in parts.items():
            if site in sums:
                sums[site][index] += total[part]

    def add_routed(index: int, experts: Experts, routed: Routed) -> None:
        documents = valid[routed.hidden.device] - 1  # -1 for padding
        sums["ffn"][index] += experts.total(routed, documents, 1)[0].double().cpu()
        routed_tokens[index] += experts.tokens(routed, documents, 1)[0].cpu()

    with (
        ExitStack() as stack,
        Hooks() as hooks,
        evaluation(model),
        show_progress("means", "documents", progress) as bar,
    ):
        for index, layer in enumerate(decoder.layers):
            if layer.experts is not None and "ffn" in sums:
                stack.enter_context(changing(layer.experts, partial(add_routed, index, layer.experts)))
            for module, on_input, parts in places(layer):
                if not sums.keys() & parts.keys():
                    continue
                at = index, parts, weight_of(module).shape[on_input]
                if on_input:
                    hooks.before(module, lambda _, args, at=at: add(*at, args[0]))
                else:
                    hooks.after(module, lambda _, args, output, at=at: add(*at, output))
        devices = {parameter.device for parameter in model.parameters()}
        for batch in batches(documents, batch_tokens):
            valid = {one: batch.attention_mask.flatten().to(one) for one in devices}
            decoder.base(
                input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
            )
            tokens += batch.tokens
            bar.update(len(batch.order))
    if tokens == 0:
        raise CorpusError(f"no documents to take the means of: {str(report) or 'nothing was read'}")
    for site, total in sums.items():
        if not total.isfinite().all():
            raise NonFiniteActivations(f"NaN or infinite activations at site {site}: look for NaN weights")
    of_experts = decoder.layers[0].experts is not None
    counts = {site: routed_tokens.clamp(min=1) if site == "ffn" and of_experts else tokens for site in sums}
    return {site: (total / counts[site]).float() for site, total in sums.items()}
