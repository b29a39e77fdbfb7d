"""Detection of language-specific neurons (PLND): arXiv 2402.18815, sections 2 and 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pymultiling.data.batches import Batch
from pymultiling.data.chat import RULE, chat_frame
from pymultiling.data.corpora import NOTHING_READ, CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.methods.detection import Detection
from pymultiling.models.deltas import refuse_deltas
from pymultiling.models.length_scaling import length_group
from pymultiling.models.pretrained import pretrained
from pymultiling.models.token_tensors import TokenIds, token_tensors
from pymultiling.models.unwrap import unwrap
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.selection import Threshold, TopK
from pymultiling.neurons.sites import SITES, Site
from pymultiling.passes.batch_size import tokens_that_fit
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.pending import Pending
from pymultiling.probes.importance import ImportanceProbe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus
    from pymultiling.ops.arguments import Mode
    from pymultiling.probes.qk import ImportanceScore, Rope


def importance(
    model: nn.Module,
    input_ids: TokenIds,
    attention_mask: TokenIds | None = None,
    *,
    sites: Site | Iterable[Site] = SITES,
    rope: Rope = "pre",
    score: ImportanceScore = "importance",
    qk: Mode = "exact",
    fused: bool | None = None,
    verify: bool = True,
) -> dict[str, torch.Tensor]:
    r"""Measures the importance of every neuron for each document of a batch, in one forward.

        Imp(N | c) = sum over the tokens of document c of || T \ N (h) - T(h) ||^2

    T(h) is the output of the layer and T \ N its output when all parameters of neuron N are zero. For "q" and "k" the
    output is the attention probabilities (eq. 9-11). The values are exact and computed in parallel for all neurons; no
    layer runs a second time. For q and k a cheaper estimate can be requested.

    Source: arXiv 2402.18815, eq. 1 and eq. 9-11; for score="released" the paper's published code.

    Args:
        model: a Hugging Face decoder of a supported family.
        input_ids: (documents, length) int64, the tokens, on any device; or the tokens of every document as lists; or
            what a tokenizer returns (a BatchEncoding).
        attention_mask: (documents, length), 1 for tokens and 0 for padding, which may be on either side. None: the mask
            of the BatchEncoding, or no padding. Leave it on the CPU: a mask on a GPU is read first, which waits for the
            GPU.
        sites: the sites to measure: one or several of "ffn", "q", "k", "v" and "o".
        rope: where a query or key neuron is set to zero. "pre": its row of q_proj or k_proj is zero, as the definition
            says. "post": its dimension is zero after the rotary embedding, as in the published code.
        score: the definition of importance. "importance": eq. 1. "released": the quantity that the published code ranks
            by. For "ffn" it is sum |up|. For "o" it is sum |attention output|, and for "v" that sum added up over the
            query heads that share the value head. For "q" it is the change of the probabilities of unscaled attention
            scores after the rotary embedding, and for "k" that of "q" added up over the query heads.
        qk: "exact", or "fast" to estimate q and k from at most 16 keys of every query:

                f = sum_j w_j A_j (exp(y_j) / sum_i w_i exp(y_i) - 1)^2,   summed over the queries

            `pml.ops.qk_importance` defines the weights w. Documents of up to 16 tokens are exact. Use "fast" for long
            documents where only the ranking of neurons matters.
        fused: True: the operator `pml.ops.gated_ffn` computes the product of the FFN together with its statistics. The
            layers' outputs then agree with the plain model's up to rounding. False: the outputs are those of the plain
            model bit for bit (in a mixture of experts, bit for bit if the model runs transformers' "eager" experts, and
            up to rounding otherwise). None: True on a GPU, where it saves kernel launches and memory traffic, and
            False on the CPU, where it saves nothing.
        verify: whether the model's computation is compared with its weights, configuration and family at its first use,
            and again when its structure has changed (docs/verification.md). False: it is taken as it is.

    Returns:
        {site: (documents, layers, neurons)}, float32, or float64 for a float64 model. Layers that have no attention
        have zeros at q, k, v and o.

    Raises:
        UnsupportedModel: the model's neurons are not where its family has them, or no known family fits; or what is to
            be measured depends on a module that computes something else than its weights say.
        NonFiniteActivations: a value is NaN or infinite; the message names site, layer and document.
        ValueError: an unknown site, rope, score or qk; tokens that the model has no embeddings for; a mask of another
            shape or with other values; or the model trains some neurons (see `train_only`).
    """
    model = unwrap(model)
    refuse_deltas(model)
    ids, mask = token_tensors(input_ids, attention_mask)
    with ImportanceProbe(model, sites, rope, score, fused, qk, verify=verify) as probe:
        return probe.measure(ids, mask)


def detect(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Mapping[str, Corpus],
    *,
    select: TopK | Threshold | None = None,
    sites: Site | Iterable[Site] = SITES,
    rope: Rope = "pre",
    score: ImportanceScore = "importance",
    qk: Mode = "exact",
    graphs: bool = False,
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
) -> Detection:
    """Finds the neurons that matter for each language: those that are important in the documents of its corpus.

    The importance of every neuron is measured for every document (see `importance`), and `select` decides from it which
    neurons belong to the language. Memory does not grow with the corpora.

    Under torchrun or accelerate launch, or wherever torch.distributed is initialised, each process measures a part of
    the texts, and all return the result for all texts. The number of processes changes only the rounding of sums. All
    processes must make the same call, with the whole corpora in the same order. The call initialises torch.distributed
    where this has not been done, and leaves it initialised.

    Source: arXiv 2402.18815, section 2, eq. 1 and 2 (`Threshold`), and its published code (`TopK`).

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: the model's tokenizer.
        corpora: {language: corpus}. A corpus is an iterable of str, a path, a list of pathlib.Path, a datasets.Dataset
            or a datasets.IterableDataset. It is read once and in order, except that the first record of each file is
            checked before the measurement starts. A path is that of a .txt file (one text a line) or of a .jsonl or
            .parquet file (field "text"); .txt and .jsonl may be compressed (.gz, .zst). A URL that fsspec can open,
            such as s3:// or hf://, is a path too, and * stands for all files that match.
        select: the selection rule, `TopK(...)` or `Threshold(epsilon)`. None: `TopK()`.
        sites: as in `importance`.
        rope: as in `importance`.
        score: as in `importance`.
        qk: as in `importance`.
        graphs: True: on a GPU, replay a CUDA graph for a batch whose number of documents and length came twice before,
            which takes Python less time. It is meant for small models and packed texts, and was not measured on a GPU.
            The result is the same bit for bit. It takes the memory of another forward. What cannot be replayed is
            measured without graphs: batches on the CPU, models on several devices, and forwards in which Python waits
            for the GPU.
        max_length: longer documents are cut to this many tokens, or to the length that the model supports.
        batch_tokens: the largest number of tokens in one forward, padding included. None: as many as half of the free
            memory of the model's devices holds, at most 65,536. The first process decides for all, and a checkpoint
            keeps the number. Sums then depend on it up to rounding.
        pack: join consecutive texts of a language into documents of this many tokens. Texts are joined within a chunk
            of 256 characters for each token of a batch. Each document begins with the tokens that the tokenizer puts
            before a text. Each text is followed by those that it puts after a text, or else by the end-of-text token if
            there is one. None: each text is a document.
        chat_template: True: each text is given to the model as the user's message of the tokenizer's chat template, as
            an instruction-tuned model expects it. Importance is summed over the tokens of the text only, each in the
            context of what the template puts before the message, which is the same in all languages. For q and k these
            are the tokens whose queries count. What the template puts after the message cannot change what the model
            computes for it, and is left out. The beginning-of-text token comes once, if the template has it.
            `max_length` and `pack` include the template's tokens; packed texts are one message in each document, with
            a line break after each text. `activations`, `mean_activations`, `perplexity` and `ablation_matrix` take
            and count the same tokens. False: texts stand alone, and all tokens of a document count, also those that
            the tokenizer adds.
        tokens: measure at most this many tokens of each language: its first documents, as many as have at most this
            many tokens that count. They are the documents that come first without the limit, for any number of
            processes. The logger "pymultiling" says how many tokens were taken. None: all.
        workers: number of worker processes that tokenise during the forward. 0: the calling process tokenises.
        checkpoint: a folder for the state of the pass. If a run was interrupted, the same call resumes from the folder
            and gives the same result bit for bit: minimum, votes and sums. None: no state is saved.
        checkpoint_seconds: the state is written when this many seconds have passed since the last time.
        checkpoint_documents: the state is also written after this many documents. None: only the time counts. What was
            measured after the last write is lost by an interruption.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        A `Detection`.

    Raises:
        CorpusError: a corpus cannot be read or has no documents. Results measured before stay in the checkpoint.
        CheckpointError: the checkpoint belongs to another call, or is in use. The contents of an iterable that is
            neither a list nor a datasets.Dataset are not compared once it has been read to its end.
        UnsupportedModel: as `importance`.
        NonFiniteActivations: as `importance`; the message names language and document.
        ValueError: as `importance`; or `select` is another rule; or the processes made different calls; or with
            `chat_template` the tokenizer has no template, or documents have no room for text after it.

    Warns:
        UserWarning: a batch does not fit in memory and is measured in halves, which gives the same result up to
            rounding (a model that is spread over processes is not measured in halves); or a checkpoint is damaged or
            cannot be written; or CUDA graphs were requested and are not used.
    """
    model = unwrap(model)
    select = select or TopK()
    if not isinstance(select, (TopK, Threshold)):
        raise ValueError(f"select must be TopK or Threshold, got {select!r}: use the result's select() for other rules")
    length = document_length(model, max_length, batch_tokens, pack)
    refuse_deltas(model)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)
    probe = ImportanceProbe(model, sites, rope, score, qk=qk, graphs=graphs, verify=verify)
    chat = chat_frame(tokenizer) if chat_template else None
    rule = f"{select.rule()}; {probe.rule}" + (f"; {RULE}" if chat_template else "")
    sizes, widths = {site: probe.decoder.widths()[site] for site in probe.sites}, probe.decoder.layer_widths()
    dtype = torch.promote_types(pretrained(model).dtype, torch.float32)
    empty_statistics = NeuronStatistics.of_nothing(sizes, len(probe.decoder.layers), rule, dtype, widths)

    def measure(batch: Batch, source: BatchSource) -> Pending[NeuronStatistics]:
        counted = batch.counted(source.positions[batch.order])
        values, require_finite = probe.launch(batch.input_ids, batch.attention_mask, counted)
        counts = select.count(values, empty_statistics.widths)
        statistics = NeuronStatistics.of_counts(values, *counts, int(counted.sum()), rule, empty_statistics.widths)
        return Pending.checked(statistics, len(batch.order), require_finite)

    def check(language: str, total: NeuronStatistics, report: CorpusReport) -> None:
        if total.documents == 0:
            reason = f"language {language!r} has no documents: {str(report) or NOTHING_READ}"
            if report.left_over:
                reason += f"; they fill none of {pack} tokens: give more text, or pack less (pack, --pack N or none)"
            raise CorpusError(reason)

    tokenisation = Tokenisation(tokenizer, length, pack, chat=chat)
    job = Job(
        activity="measuring",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: empty_statistics,
        measure=measure,
        identity=lambda: {
            "measure": rule,
            "sites": probe.sites,
            **identify_inputs(probe.decoder.base_model, tokenisation),
        },
        check=check,
        tokens_that_fit=lambda: tokens_that_fit(probe.decoder),
        spread_over=probe.decoder.tensor_parallel.count,
        group=length_group(model),
    )
    with probe:
        results = run_pass(corpora, job, options)
    statistics = {language: total for language, (total, _) in results.items()}
    neurons = {language: select.select(total) for language, total in statistics.items()}
    return Detection(neurons, statistics, {language: report for language, (_, report) in results.items()})
