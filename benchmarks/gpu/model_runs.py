"""The runs of a model that are compared: its plain forward, importance in several ways, and alternatives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu.device_timing import Run
from benchmarks.gpu.workload import COUNTS, DTYPE, EXACT_CUDA, FAST, FFN_V_O, FORWARD, GRAPHS, HEAD, HOOKS, NEW_NORMS
from benchmarks.operators.shapes import Shape
from pymultiling.neurons.sites import SITES
from pymultiling.ops import column_energy, qk_importance, value_energy, value_gram
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe


def random_llama(shape: Shape, vocabulary: int, device: torch.device) -> nn.Module:
    """Returns a model with random weights, created directly on the device and in its dtype."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
    )
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=DTYPE, attn_implementation="sdpa").eval()


@contextmanager
def open_run(name: str, model: nn.Module, tokens: Tensor) -> Iterator[Run]:
    """Yields the run with a name, one of RUNS or RIVALS, or one that measures sites by a probe, followed by GRAPHS.

    Until the block ends, its probe keeps everything that it computes from the weights alone.
    """
    # Not verified: on a stub GPU kernels compute nothing.
    probe = partial(ImportanceProbe, model, fused=True, graphs=name.endswith(GRAPHS), verify=False)
    name = name.removesuffix(GRAPHS)
    if name in (FORWARD, HEAD):
        yield partial(model if name == HEAD else model.model, input_ids=tokens, use_cache=False)
    elif name == COUNTS:
        mask = torch.ones_like(tokens)
        yield partial(ActivationProbe(model).measure, tokens, mask, mask.bool())
    elif name == NEW_NORMS:
        yield partial(_measure_with_new_probe, partial(probe, ("ffn", "v", "o")), tokens)
    elif name == HOOKS:
        with ImportanceProbe(model, ("ffn", "v", "o")) as hooks:
            yield partial(_measure_in_plain_pytorch, hooks, tokens)
    elif name == FFN_V_O:
        with probe(("ffn", "v", "o")) as three_sites:
            yield partial(three_sites.measure, tokens)
    else:
        with probe(SITES, qk="fast" if name == FAST else "exact") as all_five:
            yield partial(_measure_by_cuda if name == EXACT_CUDA else ImportanceProbe.measure, all_five, tokens)


def _measure_by_cuda(probe: ImportanceProbe, tokens: Tensor) -> dict[str, Tensor]:
    """Measures with the kernel in CUDA C++ for queries and keys."""
    with patch("pymultiling.probes.qk.qk_importance", partial(qk_importance, backend="cuda")):
        return probe.measure(tokens)


def _measure_with_new_probe(make_probe: Callable[[], ImportanceProbe], tokens: Tensor) -> dict[str, Tensor]:
    """Measures with a probe that has computed nothing from the weights yet."""
    with make_probe() as probe:
        return probe.measure(tokens)


def _measure_in_plain_pytorch(probe: ImportanceProbe, tokens: Tensor) -> dict[str, Tensor]:
    """Measures with the references in place of the kernels."""

    def plain(*operators: Callable[..., Tensor]) -> dict[str, partial[Tensor]]:
        return {operator.__name__: partial(operator, backend="torch") for operator in operators}

    with (
        patch.multiple("pymultiling.probes.importance", **plain(column_energy, value_energy)),
        patch.multiple("pymultiling.probes.weight_products", **plain(column_energy, value_gram)),
    ):
        return probe.measure(tokens)


def compile_forward(model: nn.Module, tokens: Tensor) -> Run:
    """Compiles the layers of a model in place and returns its forward. One compilation serves all layers."""
    for layer in model.model.layers:
        layer.compile()
    return partial(model.model, input_ids=tokens, use_cache=False)
