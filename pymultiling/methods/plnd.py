"""Language-specific neuron detection (PLND): arXiv 2402.18815, sections 2 and 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pymultiling.data.batches import batches
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import document_length, tokenise
from pymultiling.errors import CorpusError
from pymultiling.methods.naming import naming
from pymultiling.models.decoder import model_device
from pymultiling.models.deltas import refuse_deltas
from pymultiling.models.importance import Importance
from pymultiling.models.probe import ImportanceProbe
from pymultiling.neurons import NeuronSet
from pymultiling.progress import progress as show_progress
from pymultiling.selection import Threshold, TopK
from pymultiling.sites import SITES
from pymultiling.statistics import NeuronStatistics

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
            the plain model's to rounding, without it bit for bit. None: on a GPU, where it saves launches and memory
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
    progress: bool = True,
) -> Detection:
    """Finds the neurons of every language: those important in its documents (arXiv 2402.18815, section 2).

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        corpora: {language: iterable of str | path | datasets.Dataset | datasets.IterableDataset}; read once, in order.
        select: TopK(...) (the default) or Threshold(epsilon).
        sites, rope, score, qk: as in `importance`.
        max_length: longer documents are cut to this many tokens (or to the model's positions).
        batch_tokens: tokens in one forward, padding included.
        pack: join consecutive texts of a language into documents of this many tokens; None: a text is a document.
        progress: show it on stderr.

    Returns:
        Detection. Memory does not grow with the corpora.

    Raises:
        CorpusError: a corpus cannot be read, or has no documents.
        UnsupportedModel, NonFiniteActivations, ValueError: as `importance`.
    """
    if not corpora:
        raise CorpusError("no corpora were given: pass {language: texts or path}")
    select = select or TopK()
    length = document_length(model, max_length, batch_tokens, pack)
    refuse_deltas(model)
    probe, device = ImportanceProbe(model, sites, rope, score, qk=qk), model_device(model)
    rule = f"{select.rule()}; {probe.rule}"
    widths = {site: probe.decoder.widths()[site] for site in probe.sites}
    nothing = NeuronStatistics.of_nothing(widths, len(probe.decoder.layers), rule)
    statistics: dict[str, NeuronStatistics] = {}
    reports: dict[str, CorpusReport] = {}
    with probe:
        for language, source in corpora.items():
            report = reports[language] = CorpusReport()
            documents = tokenise(read_texts(source, report), tokenizer, length, report, pack)
            total = nothing
            with show_progress(f"{language}: measuring", "documents", progress) as bar:
                for batch in batches(documents, batch_tokens):
                    with naming(f"language {language!r}", batch):
                        found = probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device))
                    total += NeuronStatistics.of_batch(found, select.votes(found), batch.tokens, rule)
                    bar.update(len(batch.order))
            if total.documents == 0:
                raise CorpusError(f"language {language!r} has no documents: {str(report) or 'nothing was read'}")
            statistics[language] = total
    neurons = {language: select.select(one) for language, one in statistics.items()}
    return Detection(neurons, statistics, reports)
