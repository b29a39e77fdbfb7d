"""The command `doctor`: which backends can run on this machine, and whether a model can be measured."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import model_folder
from pymultiling.cli.shared.options import MODELS, add_code, add_source
from pymultiling.errors import UnsupportedModel
from pymultiling.results.run import versions

if TYPE_CHECKING:
    from torch import nn

    from pymultiling.models.decoder import AttentionLayer, Decoder
    from pymultiling.models.linear import Projection

COMMAND = Command(
    name="doctor",
    group=Group.BEGIN,
    summary="show which backends can run on this machine, and whether a model can be measured",
    title="What can run",
    about="Versions, backends, and whether importance is what setting neurons to zero does.",
    papers={},
    example="pymultiling doctor --model Qwen/Qwen3-0.6B",
)
MAX_DIFFERENCE = 1e-2  # larger relative differences are not rounding; a correct family is at about 1e-5


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    add_source(
        parser,
        f"a model to check: {MODELS}. Its modules are compared with their weights and configuration, and importances "
        "with the effect of setting a few neurons to zero, on the CPU in float32 (default: only the machine is "
        "checked)",
    )
    add_code(parser)
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="show the model's layers and modules only; its weights are not loaded and nothing is compared",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the versions, the backends and the model.

    Raises:
        CheckpointError: the model or its tokenizer cannot be loaded.
        UnsupportedModel: the model cannot be measured.
    """
    from pymultiling.models.loading import load_tokenizer
    from pymultiling.ops.backends import unavailable
    from pymultiling.ops.registry import BACKENDS
    from pymultiling.runtime.machine import describe_machine

    print(_table({**versions(), **describe_machine()}), end="\n\n")
    print("backends")
    reasons = {name: unavailable(name) for name in BACKENDS if name != "auto"}
    print(_table({name: f"cannot run: {why}" if why else "can run" for name, why in reasons.items()}, indent="  "))
    if arguments.model is not None:
        source = model_folder(arguments.model), arguments.revision, arguments.trust_remote_code
        _print_model(*source)
        if not arguments.no_check:
            _check_importance(*source)
        load_tokenizer(*source)


def _print_model(name: str, revision: str | None, trust_remote_code: bool) -> None:
    from pymultiling.cli.shared.model_kind import measured_part, remarks, sites
    from pymultiling.models.decoder import Decoder
    from pymultiling.models.linear import inputs_of
    from pymultiling.models.loading import load_without_weights
    from pymultiling.neurons.widths import width_range

    print(f"\nmodel {name}")
    model = load_without_weights(name, revision, trust_remote_code)
    if getattr(model.config, "quantization_config", None):
        raise UnsupportedModel(f"the weights of {name} are quantised: give a copy with floating-point weights")
    decoder = Decoder(model)
    number, layer = next(iter(decoder.attention_layers.items()))
    widths = {site: f"{width_range(by_layer)} neurons per layer" for site, by_layer in decoder.layer_widths().items()}
    widths["ffn"] += _experts(decoder)
    heads = "; or ".join(
        dict.fromkeys(
            f"{each.heads} query heads, {each.kv_heads or 'no own'} key-value heads, of size {each.head_size}"
            for each in decoder.attention_layers.values()
        )
    )
    if layer.latent is not None and layer.v is not None:
        own, shared, latent = layer.latent.own, layer.latent.shared, inputs_of(layer.v.module)
        heads = f"{layer.heads}; queries and keys of size {layer.head_size}, values of size {layer.value_size}"
        widths["k"] += f": {own:,} of each head, then {shared:,} rotated ones that all heads share"
        widths["latent vectors"] = f"keys and values come from one of size {latent:,}; what gives it has no neurons"
    family = f"{model.config.model_type} ({type(model).__name__}){measured_part(decoder)}"
    rows = {"family": family, "layers": str(len(decoder.layers)), "heads": heads, **widths}
    print(_table(rows, indent="  "))
    print("\nhow the importance of each site is computed")
    print(_table(sites(decoder), indent="  "))
    for remark in remarks(decoder):
        print(f"  {remark}")
    print(f"\nmodules of layer {number}")
    print(_table(_module_paths(model, layer), indent="  "))


def _experts(decoder: Decoder) -> str:
    """Returns what follows the number of FFN neurons: the experts of a layer, and which layers have none."""
    layer = next((layer for layer in decoder.layers if layer.experts is not None), None)
    if layer is None or layer.experts is None:
        return ""
    text = f": {layer.experts.expert_count} experts of {layer.experts.size:,}"
    if layer.shared is not None:
        text += f", then {layer.shared.parts.width:,} of the shared expert"
    dense = [str(number) for number, each in enumerate(decoder.layers) if each.experts is None]
    return f"{text}; layers without experts: {', '.join(dense)}" if dense else text


def _module_paths(model: nn.Module, layer: AttentionLayer) -> dict[str, str]:
    """Returns {part: path of its module}. If the part is fused with others, its range of outputs follows the path."""
    from pymultiling.models.linear import Projection

    paths = {module: path for path, module in model.named_modules()}
    ffn: dict[str, nn.Module | Projection | None]
    if layer.experts is not None:
        ffn = {"experts": layer.experts.module}
        if layer.shared is not None:
            shared = layer.shared.parts
            ffn |= {"shared gate": shared.gate, "shared up": shared.up, "shared down": shared.down}
    elif layer.up is None:  # a plain FFN without a gate: `gate` holds its first projection
        ffn = {"up": layer.gate, "down": layer.down}
    else:
        ffn = {"gate": layer.gate, "up": layer.up, "down": layer.down}
    parts = {
        "q": layer.q,
        "k": layer.k,
        "k of all heads": layer.shared_k,
        "v": layer.v,
        "o": layer.o,
        "output gate": layer.output_gate,
        **ffn,
        "norm of q": layer.q_norm,
        "norm of k": layer.k_norm,
        "norm after attention": layer.attention_norm,
        "norm after FFN": layer.ffn_norm,
    }
    return {
        name: _projection_path(paths, part) if isinstance(part, Projection) else paths[part]
        for name, part in parts.items()
        if part is not None
    }


def _projection_path(paths: dict[nn.Module, str], projection: Projection) -> str:
    from pymultiling.models.linear import outputs_of

    outputs, path = outputs_of(projection.module), paths[projection.module]
    if projection.width == outputs:
        return path
    block = str(outputs) if projection.groups == 1 else f"each block of {outputs // projection.groups}"
    return f"{path}, outputs {projection.start} to {projection.stop - 1} of {block}"


def _check_importance(name: str, revision: str | None, trust_remote_code: bool) -> None:
    import torch

    from pymultiling.models.decoder import Decoder
    from pymultiling.models.loading import load_weights
    from pymultiling.probes.verification.entry import verification_of
    from pymultiling.probes.verification.report import CHECKS
    from pymultiling.probes.verification.zeroing import spot_check

    model = load_weights(name, torch.device("cpu"), "float32", revision, trust_remote_code=trust_remote_code)
    print("\nthe model's modules compared with their weights, configuration and family, in all layers", flush=True)
    verification = verification_of(Decoder(model))
    wrong_checks = {departure.check for departure in verification.departures}
    agreements = {
        str(check): _agreement(difference, is_right=check not in wrong_checks)
        for check, difference in verification.differences.items()
    }
    print(_table(agreements, indent="  "))
    for sentence in (*verification.notes, *(departure.sentence for departure in verification.departures)):
        print(f"  {sentence}")
    print("\nimportance compared with setting neurons to zero, a few of the first and last layer", flush=True)
    differences = spot_check(model)
    wrong = {site: difference for site, difference in differences.items() if not difference <= MAX_DIFFERENCE}
    print(_table({site: _agreement(difference, site not in wrong) for site, difference in differences.items()}, "  "))
    if wrong:
        raise UnsupportedModel(
            f"{name} cannot be measured: at {', '.join(wrong)} importance differs from the effect of setting neurons "
            "to zero, because the model uses its modules in another way than its family says; describe it with "
            "pymultiling.Family, which lists what can differ"
        )
    verification.require(CHECKS)


def _agreement(difference: float, is_right: bool) -> str:
    if is_right:
        return f"agrees to {difference:.0e}" if difference else "agrees bit for bit"
    return f"does not agree: {f'off by {difference:.0e}' if math.isfinite(difference) else 'not zero, as expected'}"


def _table(rows: dict[str, str], indent: str = "") -> str:
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:{width}}  {value}" for name, value in rows.items())
