"""Mean activations of every neuron over a corpus: what mean ablation sets neurons to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError, NonFiniteActivations
from pymultiling.models.decoder import model_device
from pymultiling.neurons.sites import SITES
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.passes.sums import Sums
from pymultiling.probes.activation_sums import ActivationSumProbe


def mean_activations(
    model: nn.Module,
    tokenizer,
    texts,
    *,
    sites: Iterable[str] = SITES,
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
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
        workers, checkpoint, checkpoint_seconds, checkpoint_documents: as in `detect`.

    Under torchrun, or wherever torch.distributed is initialised, every process must make this call: each measures a part of the
    texts, and all return the whole.

    Returns:
        {site: (layers, neurons)} float32, for `deactivate(..., mean=...)`.

    Raises:
        CorpusError: the texts cannot be read, or there are none.
        CheckpointError: as `detect`.
        NonFiniteActivations: naming the site.
        UnsupportedModel, ValueError: as `importance`.
    """
    probe, device = ActivationSumProbe(model, sites), model_device(model)
    tokenisation = Tokenisation(tokenizer, document_length(model, max_length, batch_tokens, pack), pack)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)

    def measure(batch: Batch, _: BatchSource) -> Sums:
        return Sums(probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device)))

    def check(_: str, total: Sums, report: CorpusReport) -> None:
        if not total["tokens"]:
            raise CorpusError(f"no documents to take the means of: {str(report) or 'nothing was read'}")

    job = Job(
        activity="means",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: Sums(probe.zero_sums()),
        measure=measure,
        identity=lambda: {"measure": "means", "sites": probe.sites, **identify_inputs(model.base_model, tokenisation)},
        check=check,
        content_label=lambda _: "the texts",
        corpus_label=lambda _: "",
        spread_over=probe.decoder.tensor_parallel.count,
    )
    total, _ = run_pass({"texts": texts}, job, options)["texts"]
    for site in probe.sites:
        if not total[site].isfinite().all():
            raise NonFiniteActivations(f"NaN or infinite activations at site {site}: look for NaN weights")
    routed = total["routed"].clamp(min=1) if "routed" in total else total["tokens"]
    return {site: (total[site] / (routed if site == "ffn" else total["tokens"])).float() for site in probe.sites}
