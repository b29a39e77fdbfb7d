"""Calls that type checkers accept, with the types of their results, and calls that they refuse, which are marked.

mypy reads this file with `warn_unused_ignores`: a call that is marked as wrong and is accepted is an error as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import pandas
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import pymultiling as pml


def right_calls(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Tensor, hidden: Tensor) -> None:
    detection = pml.detect(
        model,
        tokenizer,
        {"fr": ["La neige couvre les toits."], "de": Path("de.txt"), "zh": "zh-*.jsonl.gz"},
        select=pml.TopK(ffn=0.05),
        qk="fast",
        pack=256,
    )
    assert_type(detection, pml.Detection)
    assert_type(detection.specific()["fr"], pml.NeuronSet)
    assert_type(detection.report(), pandas.DataFrame)
    assert_type(pml.importance(model, ids, rope="post")["ffn"], Tensor)
    with pml.deactivate(model, [detection.neurons["fr"], None], rows=[0, 1], scale=2.0):
        assert_type(pml.perplexity(model, tokenizer, ["Der Schnee."]), float)
    pml.export(model, tokenizer, {"fr": detection.neurons["fr"]}, Path("out"), scale=2.0)
    pml.export("Qwen/Qwen3-0.6B", None, detection.neurons["fr"], "out", dtype="bfloat16")
    counts = pml.activations(model, tokenizer, {"fr": "fr.txt", "de": ["Der Schnee."]}, positions="last")
    pml.activations(model, tokenizer, {"fr": [("Question ?", "Réponse.")]}, positions="response")
    assert_type(counts["fr"], pml.ActivationStatistics)
    assert_type(pml.ternary(counts), pml.Ternary)
    assert_type(pml.lape(counts)["fr"], pml.NeuronSet)
    assert_type(pml.load_sets("found/specific")["fr"], pml.NeuronSet)
    assert_type(pml.ops.gated_ffn(hidden, hidden), pml.ops.GatedFFN)
    assert_type(pml.ops.column_energy(hidden, backend="torch"), Tensor)
    assert_type(pml.ops.qk_importance(hidden, hidden, scale=0.125), tuple[Tensor, Tensor])
    assert_type(pml.ops.qk_importance(hidden, hidden, scale=0.125, mode="fast"), pml.ops.QKEstimate)


def wrong_calls(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hidden: Tensor) -> None:
    pml.detect(1, 2, 3, nonsense=4)  # type: ignore[arg-type, call-arg]
    pml.detect(model, tokenizer, {"fr": 3})  # type: ignore[dict-item]
    pml.detect(model, tokenizer, {"fr": "fr.txt"}, rope="sideways")  # type: ignore[arg-type]
    pml.detect(model, tokenizer, {"fr": "fr.txt"}, qk="quick")  # type: ignore[arg-type]
    pml.detect(model, tokenizer, {"fr": "fr.txt"}, pml.TopK())  # type: ignore[call-arg]
    pml.activations(model, tokenizer, {"fr": "fr.txt"}, positions="first")  # type: ignore[call-overload]
    pml.deactivate(model, "fr.safetensors")  # type: ignore[arg-type]
    pml.export(model, tokenizer, "fr.safetensors", "out")  # type: ignore[arg-type]
    pml.perplexity(model, tokenizer, 3)  # type: ignore[arg-type]
    pml.ops.column_energy(hidden, backend="gpu")  # type: ignore[arg-type]
    pml.ops.gated_ffn(hidden, hidden, activation="tanh")  # type: ignore[arg-type]
    pml.ops.qk_importance(hidden, hidden, scale=0.125, mode="quick")  # type: ignore[call-overload]
    pml.NeuronSet([torch.ones(2, 3)])  # type: ignore[arg-type]
    pml.detect_languages  # type: ignore[attr-defined]
