"""The oracle: importance by its definition, one neuron zeroed at a time in a float64 Hugging Face model.

Nothing of the package is used. transformers computes softmax and norms in float32 even in a float64 model;
`float64_throughout` lifts both, for one model and one block.
"""

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from tiny import positions, sizes, zero_neuron

POST_NORMS = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
}


@contextmanager
def float64_throughout(model):
    """Inside, the float64 model's norms and eager softmax keep float64."""
    softmax = torch.nn.functional.softmax

    def wide_softmax(x, dim=None, dtype=None):
        return softmax(x, dim=dim, dtype=torch.float64 if x.dtype == torch.float64 else dtype)

    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.nn.functional.softmax", wide_softmax))
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                stack.enter_context(mock.patch.object(module, "forward", _norm(module)))
        yield model


def _norm(module):
    offset = 1.0 if "Gemma" in type(module).__name__ else 0.0
    eps = getattr(module, "variance_epsilon", None) or module.eps

    def forward(x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (module.weight + offset)

    return forward


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
        for layer, call in zip(model.model.layers, calls):
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
    """What every attention and FFN module was called with."""
    calls, handles = [], []
    for layer in model.model.layers:
        call = {}
        calls.append(call)
        for name in ("self_attn", "mlp"):

            def catch(_, args, kwargs, call=call, name=name):
                call[name] = SimpleNamespace(args=args, kwargs=kwargs)

            handles.append(getattr(layer, name).register_forward_pre_hook(catch, with_kwargs=True))
    model.model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions(attention_mask), use_cache=False
    )
    for handle in handles:
        handle.remove()
    return calls


def _measured(layer, site: str, call: dict, config):
    """A function that runs the sublayer of a site and gives (documents, tokens, whatever is compared)."""
    norms = POST_NORMS.get(config.model_type)
    name = "mlp" if site == "ffn" else "self_attn"
    module, norm = getattr(layer, name), norms and getattr(layer, norms[name == "mlp"])

    def run():
        output = module(*call[name].args, **call[name].kwargs)
        if site in ("q", "k"):
            return output[1].transpose(1, 2).flatten(2)
        output = output if site == "ffn" else output[0]
        return norm(output) if norm else output

    return run


@contextmanager
def _without(layer, site: str, n: int, config):
    """Neuron n zeroed; of an FFN neuron the gate's row, up's row and down's column in turn, which are to be the same."""
    kept = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    zero_neuron(layer, site, n, config, ffn_part=("gate", "up", "down")[n % 3])
    yield
    for name, parameter in layer.named_parameters():
        parameter.copy_(kept[name])
