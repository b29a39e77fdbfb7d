"""Language-specific neuron detection (PLND): arXiv 2402.18815, sections 2 and 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch
from pymultiling.data.corpora import NOTHING_READ, CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.models.decoder import model_device
from pymultiling.models.deltas import refuse_deltas
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.selection import Threshold, TopK
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.sites import SITES
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.importance_values import Importance

if TYPE_CHECKING:
    import pandas


def importance(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    sites: Iterable[str] = SITES,
    rope: str = "pre",
    score: str = "importance",
    qk: str = "exact",
    fused: bool | None = None,
) -> Importance:
    """Importance of every neuron of a decoder for each document of a batch, from one forward.

        Imp(N | c) = || T \\ N (h) - T(h) ||^2, summed over the tokens of document c        (arXiv 2402.18815, eq. 1)

    the squared change of the layer's output when all parameters of neuron N are zero; for "q" and "k" the change of the
    attention probabilities (eq. 9-11). Exact, without running the layer again; q and k on request estimated, for less.

    Args:
        model: a Hugging Face decoder of a supported family.
        input_ids: (documents, length) int64, on the model's device.
        attention_mask: (documents, length), 0 for padding on either side; None: no padding.
        sites: which of "ffn", "q", "k", "v", "o".
        rope: "pre" zeroes a neuron's row of q_proj or k_proj, as the definition says; "post" its dimension after the
            rotation, as the published code does.
        score: "importance", or "released": what the published code ranks by (sum |up|; sum |attention output|, for "v"
            summed over the query heads that share it; the change of the probabilities by unscaled scores, after the
            rotation, for "k" that of "q" summed over the query heads).
        qk: "exact", or "fast": q and k estimated from at most 16 keys of every query, with standard errors,

                f = sum_j w_j A_j (exp(y_j) / sum_i w_i exp(y_i) - 1)^2,   summed over the queries

            (`pml.ops.qk_importance` has the weights w); exact for documents of up to 16 tokens. Take it for long documents
            where the ranking counts.
        fused: let `gated_ffn` compute the FFNs' product together with its statistics; the layers' outputs then agree with
            the plain model's to rounding, without it bit for bit (of a mixture of experts where the model runs transformers'
            "eager" experts, to rounding with others). None: on a GPU, where it saves launches and memory
            traffic, and not on the CPU, where it saves nothing.

    Returns:
        {site: (documents, layers, neurons)}, float32; float64 for a float64 model. Its attribute `error` has the
        standard errors of the sites that are estimated, {site: tensor of the same shape}; none with qk="exact".

    Raises:
        UnsupportedModel: the model's neurons are not where a known family has them.
        NonFiniteActivations: naming site, layer and document.
        ValueError: an unknown site, rope, score or qk; the model trains some neurons (`train_only`).
    """
    refuse_deltas(model)
    with ImportanceProbe(model, sites, rope, score, fused, qk) as probe:
        return probe.measure(input_ids, attention_mask)


@dataclass(frozen=True)
class Detection:
    """What `detect` found.

    Attributes:
        neurons: {language: NeuronSet}, the neurons selected for it.
        statistics: {language: NeuronStatistics}; `select` of a Threshold, or of the same TopK with another share, finds
            other sets in them without measuring again.
        corpora: {language: CorpusReport}, what became of its texts.
    """

    neurons: dict[str, NeuronSet]
    statistics: dict[str, NeuronStatistics]
    corpora: dict[str, CorpusReport] = field(default_factory=dict)

    def specific(self, at_most: int = 1, minus: Iterable[str] = ()) -> dict[str, NeuronSet]:
        """{language: the neurons selected for it and for at most `at_most` languages in all, itself counted}.

        Neurons of the languages in `minus` are taken out (of the others' sets).
        """
        minus = set(minus)
        for language in minus - self.neurons.keys():
            raise ValueError(f"no language {language!r} among {', '.join(self.neurons)}")
        sites = next(iter(self.neurons.values())).sites
        counts = {site: sum(one.sites[site].int() for one in self.neurons.values()) for site in sites}
        few = NeuronSet({site: count <= at_most for site, count in counts.items()})
        found = {}
        for language, neurons in self.neurons.items():
            found[language] = neurons & few
            for other in minus - {language}:
                found[language] -= self.neurons[other]
        return found

    def report(self) -> pandas.DataFrame:
        """Counts: columns language, site, layer, selected, specific (selected for this language only)."""
        import pandas

        specific = self.specific()
        rows = [
            (language, site, layer, selected, only)
            for language, neurons in self.neurons.items()
            for site in neurons.sites
            for layer, (selected, only) in enumerate(
                zip(neurons.count("layer")[site], specific[language].count("layer")[site])
            )
        ]
        return pandas.DataFrame(rows, columns=["language", "site", "layer", "selected", "specific"])


def detect(
    model: nn.Module,
    tokenizer,
    corpora: Mapping[str, object],
    *,
    select: TopK | Threshold | None = None,
    sites: Iterable[str] = SITES,
    rope: str = "pre",
    score: str = "importance",
    qk: str = "exact",
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
) -> Detection:
    """Finds the neurons of every language: those important in its documents (arXiv 2402.18815, section 2).

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        corpora: {language: iterable of str | path | list of pathlib.Path | datasets.Dataset | datasets.IterableDataset}; read
            once, in order, but for the first row of files, which is looked at before anything is measured. A path is that of a .txt
            file (a text a line), .jsonl or .parquet (a field "text"), the first two also .gz or .zst; a URL that fsspec knows,
            such as s3:// and hf://, is one too; a * stands for all files that match.
        select: TopK(...) (the default) or Threshold(epsilon).
        sites, rope, score, qk: as in `importance`.
        max_length: longer documents are cut to this many tokens (or to the model's positions).
        batch_tokens: tokens in one forward, padding included.
        pack: join consecutive texts of a language into documents of this many tokens, within a chunk of 256 characters for
            each token of a batch; None: a text is a document.
        workers: processes that tokenise beside the forward; 0: this one does it.
        checkpoint: a folder to keep the state in. The same call goes on from there, after whatever ended it, to the same
            result: minimum and votes bit for bit, sums too.
        checkpoint_seconds, checkpoint_documents: how often the state is written; what is lost at most.
        progress: show it on stderr.

    Under torchrun and accelerate launch, or wherever torch.distributed is initialised, each process measures a part of the
    texts, and all return the whole. Their number changes nothing but the rounding of sums. All must make the same call, with
    whole corpora in the same order; torch.distributed is started where it was not, and stays so.

    Returns:
        Detection. Memory does not grow with the corpora.

    Raises:
        CorpusError: a corpus cannot be read, or has no documents; what was measured stays in the checkpoint.
        CheckpointError: the checkpoint is of another run, or in use. What an iterable that is neither a list nor a
            datasets.Dataset gave is not read again, so not compared, once it has ended.
        UnsupportedModel, NonFiniteActivations, ValueError: as `importance`; ValueError also where processes were called
            differently.

    Warns:
        UserWarning: a batch does not fit in memory, and is measured in halves, which gives the same to rounding (not of a model
            that is spread over processes); a checkpoint is damaged or cannot be written.
    """
    select = select or TopK()
    length = document_length(model, max_length, batch_tokens, pack)
    refuse_deltas(model)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    probe, device = ImportanceProbe(model, sites, rope, score, qk=qk), model_device(model)
    rule = f"{select.rule()}; {probe.rule}"
    widths = {site: probe.decoder.widths()[site] for site in probe.sites}
    dtype = torch.promote_types(model.dtype, torch.float32)
    nothing = NeuronStatistics.of_nothing(widths, len(probe.decoder.layers), rule, dtype)

    def measure(batch: Batch, _: BatchSource) -> NeuronStatistics:
        found = probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device))
        return NeuronStatistics.of_batch(found, select.votes(found), batch.tokens, rule)

    def check(language: str, total: NeuronStatistics, report: CorpusReport) -> None:
        if total.documents == 0:
            raise CorpusError(f"language {language!r} has no documents: {str(report) or NOTHING_READ}")

    tokenisation = Tokenisation(tokenizer, length, pack)
    job = Job(
        activity="measuring",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: nothing,
        measure=measure,
        identity=lambda: {"measure": rule, "sites": probe.sites, **identify_inputs(model.base_model, tokenisation)},
        check=check,
        spread_over=probe.decoder.tensor_parallel.count,
    )
    with probe:
        found = run_pass(corpora, job, options)
    statistics = {language: total for language, (total, _) in found.items()}
    neurons = {language: select.select(one) for language, one in statistics.items()}
    return Detection(neurons, statistics, {language: report for language, (_, report) in found.items()})
