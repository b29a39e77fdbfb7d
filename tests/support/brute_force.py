"""The oracle: importance by its definition, one neuron zeroed at a time in a float64 Hugging Face model.

Nothing of the package is used. transformers computes softmax and norms in float32 even in a float64 model;
`float64_throughout` lifts both, for one model and one block.
"""

import sys
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch

from tests.support.anatomy import attention_of, ffn_modules, layers_of, sizes, zero_neuron
from tests.support.tiny_models import positions

POST_NORMS = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
}
WITHOUT_POSITIONS = ("bloom",)  # which it takes from the mask
FFN_ON_THE_LAYER = ("opt", "xglm")
ROTATED_IN_FLOAT32 = ("cohere", "cohere2")


@contextmanager
def float64_throughout(model):
    """Inside, the float64 model's norms, rotation and eager softmax keep float64."""
    softmax = torch.nn.functional.softmax

    def wide_softmax(x, dim=None, dtype=None):
        return softmax(x, dim=dim, dtype=torch.float64 if x.dtype == torch.float64 else dtype)

    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.nn.functional.softmax", wide_softmax))
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                stack.enter_context(mock.patch.object(module, "forward", _norm(module)))
            elif type(module).__name__.endswith("LayerNorm") and not isinstance(module, torch.nn.LayerNorm):
                stack.enter_context(mock.patch.object(module, "forward", _centred_norm(module)))
        if model.config.model_type == "xglm":  # which makes a float32 of float64's lowest value
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        if model.config.model_type in ROTATED_IN_FLOAT32:
            home = sys.modules[type(layers_of(model)[0].self_attn).__module__]
            stack.enter_context(mock.patch.object(home, "apply_rotary_pos_emb", _rotate_pairs))
        yield model


def _norm(module):
    offset = 1.0 if "Gemma" in type(module).__name__ else 0.0
    eps = getattr(module, "variance_epsilon", None) or module.eps

    def forward(x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (module.weight + offset)

    return forward


def _centred_norm(module):
    """Cohere's, and OLMo's, which has no weight."""
    weight, eps = getattr(module, "weight", 1.0), getattr(module, "variance_epsilon", 1e-5)

    def forward(x):
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    return forward


def _rotate_pairs(q, k, cos, sin, unsqueeze_dim=1):
    """Cohere's, of dimensions 2m and 2m + 1."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return tuple(x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin for x in (q, k))


@torch.no_grad()
def brute_force(model, input_ids, attention_mask) -> dict[str, torch.Tensor]:
    """{site: (documents, layers, neurons)} of a float64 model; every neuron of every layer and site.

    ffn, v, o: squared change of the sublayer's output, its post-norm included; q, k: of the attention probabilities.
    """
    assert model.dtype == torch.float64
    valid = attention_mask.bool()
    with float64_throughout(model), _eager(model):
        calls = _sublayer_calls(model, input_ids, attention_mask)
        found = {site: [] for site in sizes(model.config)}
        for layer, call in zip(layers_of(model), calls):
            for site, width in sizes(model.config).items():
                run = _measured(layer, site, call, model.config)
                before = run()
                rows = []
                for n in range(width):
                    with _without(layer, site, n, model.config):
                        change = (run() - before).square().sum(-1)
                    rows.append(torch.where(valid, change, 0).sum(1))
                found[site].append(torch.stack(rows, 1))
    return {site: torch.stack(layers, 1) for site, layers in found.items()}


@contextmanager
def _eager(model):
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _sublayer_calls(model, input_ids, attention_mask) -> list[dict]:
    """What every attention and FFN was called with."""
    calls, handles, config = [], [], model.config
    for layer in layers_of(model):
        call = {}
        calls.append(call)
        ffn = ffn_modules(layer)[0] if config.model_type in FFN_ON_THE_LAYER else layer.mlp
        for name, module in (("attention", attention_of(layer, config)), ("ffn", ffn)):

            def catch(_, args, kwargs, call=call, name=name):
                call[name] = SimpleNamespace(args=args, kwargs=kwargs)

            handles.append(module.register_forward_pre_hook(catch, with_kwargs=True))
    given = {} if config.model_type in WITHOUT_POSITIONS else {"position_ids": positions(attention_mask)}
    model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **given)
    for handle in handles:
        handle.remove()
    for call in calls:
        call["shape"] = (*input_ids.shape, -1)
    return calls


def _measured(layer, site: str, call: dict, config):
    """A function that runs the sublayer of a site and gives (documents, tokens, whatever is compared)."""
    norms = POST_NORMS.get(config.model_type)
    norm = norms and getattr(layer, norms[site == "ffn"])

    def run():
        if site == "ffn":
            output = _ffn(layer, call["ffn"], config).view(call["shape"])
        else:
            kwargs = shown(call["attention"].kwargs, config) if site in ("q", "k") else call["attention"].kwargs
            output = attention_of(layer, config)(*call["attention"].args, **kwargs)
            if site in ("q", "k"):
                return output[1].transpose(1, 2).flatten(2)
            output = output[0]
        return norm(output) if norm else output

    return run


def shown(kwargs: dict, config) -> dict:
    """With what makes an attention give its probabilities.

    Falcon cannot be set to eager attention. Its mask has the biases of ALiBi in it already, and eager attention would add
    them again; or it is True where a key is seen, and eager attention would add that.
    """
    if config.model_type in ("opt", "xglm"):
        return {**kwargs, "output_attentions": True}  # which transformers 5.0 asks for
    if config.model_type != "falcon":
        return kwargs
    mask = torch.zeros(1, 1, 1, 1) if kwargs["attention_mask"] is None else kwargs["attention_mask"]
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -1e30)
    alibi = None if kwargs["alibi"] is None else torch.zeros_like(kwargs["alibi"])
    return {**kwargs, "output_attentions": True, "alibi": alibi, "attention_mask": mask}


def _ffn(layer, call, config):
    if config.model_type in FFN_ON_THE_LAYER:
        return layer.fc2(layer.activation_fn(layer.fc1(*call.args)))
    return layer.mlp(*call.args, **call.kwargs)


@contextmanager
def _without(layer, site: str, n: int, config):
    """Neuron n zeroed; of an FFN neuron the gate's row, up's row and down's column in turn, which are to be the same."""
    kept = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    zero_neuron(layer, site, n, config, ffn_part=("gate", "up", "down")[n % 3])
    yield
    for name, parameter in layer.named_parameters():
        parameter.copy_(kept[name])
