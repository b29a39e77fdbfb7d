"""Mean activations of neurons over a corpus, the values that mean ablation sets neurons to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.chat import chat_frame
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import NON_FINITE_ADVICE, CorpusError, NonFiniteActivations
from pymultiling.models.length_scaling import length_group
from pymultiling.models.unwrap import unwrap
from pymultiling.neurons.sites import SITES, Site
from pymultiling.passes.batch_size import tokens_that_fit
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.sums import Sums
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.verification.entry import unverified

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus


def mean_activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Corpus,
    *,
    sites: Site | Iterable[Site] = SITES,
    max_length: int = 512,
    batch_tokens: int | None = 4096,
    pack: int | None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> dict[str, Tensor]:
    """Computes the mean activation of every neuron over all tokens of a corpus.

        mean[n] = sum_t x[t, n] / #t

    The activation x is the value that `deactivate` changes: the input of the down projection (ffn), the input of o_proj
    (o), or the output of a projection, bias included (q, k, v). The mean of an expert's neuron is taken over the tokens
    that are routed to the expert; it is 0 if there are none.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each measures a
    part of the texts, and all return the means over all texts.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: the model's tokenizer.
        texts: an iterable of str or of records, or a path, as one corpus of `detect`.
        sites: the sites to measure: one or several of "ffn", "q", "k", "v" and "o".
        max_length: as in `detect`.
        batch_tokens: as in `detect`.
        pack: as in `detect`.
        chat_template: as in `detect`: the mean is over the texts' own tokens.
        tokens: as in `detect`.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        {site: (layers, neurons)} float32, for `deactivate(..., mean=...)`. Layers that have no attention have zeros at
        q, k, v and o.

    Raises:
        CorpusError: the texts cannot be read, or there are none.
        CheckpointError: as `detect`.
        NonFiniteActivations: a mean is NaN or infinite; the message names the site.
        UnsupportedModel: as `importance`.
        ValueError: an unknown site, an argument out of its range, or as `detect` for `chat_template`.
    """
    model = unwrap(model)
    with unverified(not verify):
        probe = ActivationSumProbe(model, sites)
    chat = chat_frame(tokenizer) if chat_template else None
    length = document_length(model, max_length, batch_tokens, pack)
    tokenisation = Tokenisation(tokenizer, length, pack, chat=chat)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)

    def measure(batch: Batch, source: BatchSource) -> Sums:
        counted = batch.counted(source.positions[batch.order])
        return Sums(probe.measure(batch.input_ids, batch.attention_mask, counted))

    def check(_: str, total: Sums, report: CorpusReport) -> None:
        if not total["tokens"]:
            raise CorpusError(f"no documents to compute means of: {str(report) or 'nothing was read'}")

    job = Job(
        activity="means",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: Sums(probe.zero_sums()),
        measure=measure,
        identity=lambda: {
            "measure": "means",
            "sites": probe.sites,
            **identify_inputs(probe.decoder.base_model, tokenisation),
        },
        check=check,
        tokens_that_fit=lambda: tokens_that_fit(probe.decoder),
        content_label=lambda _: "the texts",
        corpus_label=lambda _: "",
        spread_over=probe.decoder.tensor_parallel.count,
        group=length_group(model),
    )
    total, _ = run_pass({"texts": texts}, job, options)["texts"]
    for site in probe.sites:
        if not total[site].isfinite().all():
            raise NonFiniteActivations(f"NaN or infinite activations at site {site}: {NON_FINITE_ADVICE}")
    routed_tokens = total["routed"].clamp(min=1) if "routed" in total else total["tokens"]
    counts = {site: routed_tokens if site == "ffn" else total["tokens"] for site in probe.sites}
    return {site: (total[site] / counts[site]).float() for site in probe.sites}
