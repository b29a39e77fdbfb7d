"""Importance by its definition: one neuron is set to zero at a time, in a float64 Hugging Face model.

It uses nothing of the package. transformers computes softmax and norms in float32 even in a float64 model;
`float64_throughout` makes both float64, for one model inside one block.
"""

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from unittest import mock

import torch

from tests.support.anatomy import (
    attention_of,
    ffn_modules,
    ffn_of,
    layer_sizes,
    layers_of,
    sizes,
    zero_neuron,
)
from tests.support.tiny_models import hidden_of

# {model_type: names of the norms after the attention and after the FFN}
POST_NORMS = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "exaone4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo_hybrid": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "flex_olmo": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "afmoe": ("post_attention_layernorm", "post_mlp_layernorm"),
    "hyperclovax": ("post_norm1", "post_norm2"),
    "gemma3n_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma4_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma4_unified_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "kolibri1": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}
FFN_ON_THE_LAYER = ("opt", "xglm", "biogpt", "m2m_100")  # the modules of the FFN are attributes of the layer
# The attention and the FFN return a norm of the sum of the residual and their output, which is that of their last
# projection.
SUMS_INSIDE = ("bert", "camembert", "data2vec-text", "electra", "ernie", "rembert", "roberta", "xlm-roberta", "xmod")
# The attention and the FFN return the sum of the residual and their output, and norms come before them. The residual
# of the attention does not change where a neuron of it is zero.
SUMS_WITHOUT_NORMS = ("megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl")
# {model_type: the parts of an FFN neuron that are zero in turn}, where a row of zeros does not switch a neuron off:
# act(0) is not 0, or 1 is added to up; or where it changes other neurons, as a row of a sparse gate does.
FFN_PARTS = {"apertus": ("down",), "gpt_oss": ("gate", "down", "all"), "gemma3n_text": ("up", "down")}


OWN_GAINS = (
    "Gemma3nRMSNorm",
    "Gemma4RMSNorm",
    "Gemma4UnifiedRMSNorm",
)  # Gemma's norms that multiply by their weight, without 1


@contextmanager
def float64_throughout(model):
    """Inside the block, norms, rotation and eager softmax of a float64 model compute in float64."""
    softmax = torch.nn.functional.softmax

    def float64_softmax(x, dim=None, dtype=None, **options):  # torch.nn.Softmax gives an option of its own
        return softmax(x, dim=dim, dtype=torch.float64 if x.dtype == torch.float64 else dtype)

    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.nn.functional.softmax", float64_softmax))
        for module in model.modules():
            if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
                stack.enter_context(mock.patch.object(module, "forward", _rms_norm(module)))
            elif type(module).__name__ == "Llama4TextL2Norm":
                stack.enter_context(mock.patch.object(module, "forward", module._norm))
            elif type(module).__name__.endswith("LayerNorm") and not isinstance(module, torch.nn.LayerNorm):
                stack.enter_context(mock.patch.object(module, "forward", _layer_norm(module)))
        if model.config.model_type == "xglm":  # it creates the lowest value of float64 in the default dtype
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        if model.config.model_type in ROTATED_IN_FLOAT32:
            source = sys.modules[type(attention_of(layers_of(model)[0], model.config)).__module__]
            stack.enter_context(mock.patch.object(source, *ROTATED_IN_FLOAT32[model.config.model_type]))
        if model.config.model_type in ("codegen", "gpt_neo", "gptj"):  # their code computes scores in float32
            source = sys.modules[type(attention_of(layers_of(model)[0], model.config)).__module__]
            stack.enter_context(mock.patch.object(source, "torch", _Float64Torch()))
        if model.config.model_type in ("flint", "hy_v3", "mpt"):  # they cast scores or sums to float32
            stack.enter_context(mock.patch("torch.Tensor.float", lambda x: x if x.is_floating_point() else x.double()))
        if model.config.model_type in ("granite_swa", "granitemoe_swa"):
            source = sys.modules[type(layers_of(model)[0].self_attn).__module__]
            attend = partial(_attend_with_sinks, source.eager_attention_forward)
            stack.enter_context(mock.patch.object(source, "eager_attention_forward", attend))
        yield model


def _rms_norm(module):
    """Returns the forward of an RMS norm, in the dtype of its input."""
    kind = type(module).__name__
    starts = ("Gemma", "VaultGemma", "Qwen3Next", "Qwen3_5")
    offset = 1.0 if kind.startswith(starts) and kind not in OWN_GAINS else 0.0
    eps = getattr(module, "variance_epsilon", None) or module.eps

    def forward(x):
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        weight = getattr(module, "weight", None)  # Gemma 4's norm of values has none
        return normed if weight is None else normed * (weight + offset)

    return forward


def _layer_norm(module):
    """Returns the forward of Cohere's LayerNorm or of OLMo's (which has no weight), in the dtype of its input."""
    weight, eps = getattr(module, "weight", 1.0), getattr(module, "variance_epsilon", 1e-5)

    def forward(x):
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    return forward


def _rotate_pairs(q, k, cos, sin, unsqueeze_dim=1):
    """Rotates dimensions 2m and 2m + 1 together, as Cohere does."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return tuple(x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin for x in (q, k))


def _rotate_halves(q, k, cos, sin, unsqueeze_dim=1):
    """Rotates dimensions m and m + d/2 together, as most models do."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return tuple(x * cos + torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1) * sin for x in (q, k))


def _attend_with_sinks(original, module, query, key, value, attention_mask, scaling, **kwargs):
    """Returns the output of Granite's attention, and the probabilities that make it, which leave a part to the sink.

    Its own code returns probabilities that add up to 1, and scales what it sums up with them.
    """
    output, probabilities = original(module, query, key, value, attention_mask, scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    scores = scaling * query @ key.repeat_interleave(groups, 1).mT
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = probabilities * (scores.logsumexp(-1) - module.sinks[:, None]).sigmoid()[..., None]
    summed = probabilities @ value.repeat_interleave(groups, 1)
    torch.testing.assert_close(output, summed.transpose(1, 2), rtol=1e-5, atol=1e-5)
    return output, probabilities


class _Float64Torch:
    """torch, where float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


def _rotate_complex(q, k, table, heads_first):
    """Multiplies dimensions 2m and 2m + 1, as a complex number, by one of the table (B, l, r/2)."""
    pairs = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) for x in (q, k))
    table = table[:, None] if heads_first else table[:, :, None]
    return tuple(torch.view_as_real(x * table).flatten(3) for x in pairs)


# {model_type whose code rotates in float32: the function in its file that does, and one that keeps the dtype}
ROTATED_IN_FLOAT32 = {
    "cohere": ("apply_rotary_pos_emb", _rotate_pairs),
    "cohere2": ("apply_rotary_pos_emb", _rotate_pairs),
    "cohere2_moe": ("apply_rotary_pos_emb", _rotate_pairs),
    "modernbert-decoder": ("apply_rotary_pos_emb", _rotate_halves),
    "deepseek_v2": ("apply_rotary_emb", partial(_rotate_complex, heads_first=True)),
    "llama4_text": ("apply_rotary_emb", partial(_rotate_complex, heads_first=False)),
}


@torch.no_grad()
def brute_force(model, input_ids, attention_mask, counted=None) -> dict[str, torch.Tensor]:
    """Returns the importance of every neuron of a float64 model, {site: (documents, layers, neurons)}.

    For ffn, v and o it is the squared change of the sublayer's output, after the post-norm if there is one. For q and k
    it is the squared change of the attention probabilities. Layers have zeros for neurons that they lack.

    Args:
        model: a Hugging Face model in float64.
        input_ids: (documents, tokens) int64.
        attention_mask: (documents, tokens), 0 for padding.
        counted: (documents, tokens) bool, the tokens whose changes count. None: all but padding.
    """
    assert model.dtype == torch.float64
    valid = attention_mask.bool() if counted is None else counted
    with float64_throughout(model), _eager(model):
        calls = _sublayer_calls(model, input_ids, attention_mask)
        importance = {site: [] for site in sizes(model.config)}
        for number, (layer, call) in enumerate(zip(layers_of(model), calls)):
            for site, width in layer_sizes(model.config, number).items():
                padding = sizes(model.config)[site] - width
                if not width:
                    zeros = input_ids.new_zeros(len(input_ids), width + padding, dtype=torch.float64)
                    importance[site].append(zeros)
                    continue
                run = _sublayer(layer, site, call, model.config)
                before = run()
                changes = []
                for n in range(width):
                    with _without_neuron(layer, site, n, model.config):
                        change = (run() - before).square().sum(-1)
                    changes.append(torch.where(valid, change, 0).sum(1))
                run()  # gives the layers that take this one's keys and values those of all neurons
                importance[site].append(torch.nn.functional.pad(torch.stack(changes, 1), (0, padding)))
    return {site: torch.stack(layers, 1) for site, layers in importance.items()}


@contextmanager
def _eager(model):
    """Inside the block, the model computes attention with the implementation "eager", which returns probabilities."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _sublayer_calls(model, input_ids, attention_mask) -> list[dict]:
    """Runs the model. Returns for every layer the arguments of its attention and of its FFN, and the output's shape.

    They are {"attention": .args and .kwargs, "ffn": the same, "shape": (documents, tokens, -1)}.
    """
    calls, handles, config = [], [], model.config
    for layer in layers_of(model):
        call = {}
        calls.append(call)
        is_whole = config.model_type not in FFN_ON_THE_LAYER + SUMS_INSIDE + SUMS_WITHOUT_NORMS
        ffn = ffn_of(layer) if is_whole else ffn_modules(layer)[0]
        shared = getattr(layer, "shared_mlp", None)  # an expert whose output the layer adds
        for name, module in (("attention", attention_of(layer, config)), ("ffn", ffn), ("shared", shared)):

            def catch(_, args, kwargs, call=call, name=name):
                call[name] = SimpleNamespace(args=args, kwargs=kwargs)

            if module is not None:
                handles.append(module.register_forward_pre_hook(catch, with_kwargs=True))
    hidden_of(model, dict(input_ids=input_ids, attention_mask=attention_mask))
    for handle in handles:
        handle.remove()
    for call in calls:
        call["shape"] = (*input_ids.shape, -1)
    return calls


def _sublayer(layer, site: str, call: dict, config):
    """Returns a function that runs the sublayer of a site on the inputs of `call`.

    It returns (documents, tokens, values): the output, or for q and k the attention probabilities.
    """
    norms = POST_NORMS.get(config.model_type)
    norm = norms and getattr(layer, norms[site == "ffn"], None)  # layers of linear attention of OLMo Hybrid have none

    def run():
        if site == "ffn":
            output = _ffn(layer, call["ffn"], config).view(call["shape"])
            if "shared" in call:
                output = output + layer.shared_mlp(*call["shared"].args)
        else:
            args, kwargs = call["attention"].args, call["attention"].kwargs
            if site in ("q", "k"):
                kwargs = with_probabilities(kwargs, config)
            output = attention_of(layer, config)(*args, **kwargs)
            if site in ("q", "k"):  # T5 returns probabilities after its biases
                return output[2 if hasattr(layer, "layer") else 1].transpose(1, 2).flatten(2)
            output = output[0]
            if config.model_type in SUMS_INSIDE and not getattr(config, "pre_norm", False):
                probabilities_run = attention_of(layer, config).self(*args, **kwargs)
                output = layer.attention.output.dense(probabilities_run[0])
        return norm(output) if norm else output

    return run


def with_probabilities(kwargs: dict, config) -> dict:
    """Returns keyword arguments with which an attention returns its probabilities.

    Falcon cannot be set to eager attention. Its mask either has the biases of ALiBi in it, which eager attention
    would add again, or it is True where a key is visible, and eager attention would add this as a number.
    """
    if config.model_type in ("opt", "xglm", "openai-gpt"):
        return {**kwargs, "output_attentions": True}  # transformers 5.0 needs this
    if config.model_type != "falcon":
        return kwargs
    mask = torch.zeros(1, 1, 1, 1) if kwargs["attention_mask"] is None else kwargs["attention_mask"]
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -1e30)
    alibi = None if kwargs["alibi"] is None else torch.zeros_like(kwargs["alibi"])
    return {**kwargs, "output_attentions": True, "alibi": alibi, "attention_mask": mask}


def _ffn(layer, call, config):
    """Returns the output of the FFN for its arguments `call`."""
    if config.model_type in FFN_ON_THE_LAYER:
        return layer.fc2(layer.activation_fn(layer.fc1(*call.args)))
    if config.model_type in SUMS_INSIDE + SUMS_WITHOUT_NORMS:
        return layer.output.dense(layer.intermediate.intermediate_act_fn(layer.intermediate.dense(*call.args)))
    output = ffn_of(layer)(*call.args, **call.kwargs)
    return output[0] if isinstance(output, (tuple, list)) else output


@contextmanager
def _without_neuron(layer, site: str, n: int, config):
    """Inside the block, the parameters of neuron n are zero.

    Of an FFN neuron only one part is zero: for n = 0, 1, 2, 3 ... gate, up, down, gate ... Each has the same effect.
    FFN_PARTS has exceptions.
    """
    values = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    parts = FFN_PARTS.get(config.model_type, ("gate", "up", "down"))
    zero_neuron(layer, site, n, config, ffn_part=parts[n % len(parts)])
    yield
    for name, parameter in layer.named_parameters():
        parameter.copy_(values[name])
