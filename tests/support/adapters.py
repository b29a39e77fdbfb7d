"""Tiny models with adapters of PEFT whose weights are random."""

import copy
import warnings

import peft
import torch

from tests.support.tiny_models import tiny_model

# {model: linear modules of its layers, those whose inputs are FFN neurons}
MODULES = {
    "llama": (("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), ("down_proj",)),
    "gemma2": (("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), ("down_proj",)),
    "qwen3": (("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), ("down_proj",)),
    "phi3": (("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), ("down_proj",)),
    "gpt2": (("c_attn", "c_fc", "c_proj"), ("c_proj",)),  # Conv1D
}
NORMS = {
    "llama": ["input_layernorm", "norm"],
    "gemma2": ["post_attention_layernorm", "post_feedforward_layernorm", "norm"],
    "qwen3": ["q_norm", "k_norm", "norm"],
}


def adapter_config(kind: str, name: str):
    """Returns PEFT's configuration of a kind of adapter for a model of MODULES."""
    modules, feedforward = (list(part) for part in MODULES[name])
    options = dict(target_modules=modules, fan_in_fan_out=name == "gpt2")
    return {
        "LoRA": lambda: peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.5, **options),
        "LoRA of some modules": lambda: peft.LoraConfig(r=2, **{**options, "target_modules": modules[-1:]}),
        "rank-stabilised LoRA": lambda: peft.LoraConfig(r=4, use_rslora=True, **options),
        "LoRA with biases": lambda: peft.LoraConfig(r=4, lora_bias=True, **options),
        "DoRA": lambda: peft.LoraConfig(r=4, use_dora=True, **options),
        "IA3": lambda: peft.IA3Config(feedforward_modules=feedforward, **options),
        "a copy of some modules": lambda: peft.LoraConfig(
            r=4, **{**options, "target_modules": modules[:1]}, modules_to_save=modules[-1:]
        ),
        "LNTuning": lambda: peft.LNTuningConfig(target_modules=NORMS[name]),
    }[kind]()


def adapted_model(kind: str, name: str, dtype=torch.float64, seed: int = 0):
    """Returns a PEFT model around `tiny_model(name)`, in training mode, as a training leaves it."""
    with warnings.catch_warnings():  # PEFT's, about Conv1D
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model(name, dtype), adapter_config(kind, name), autocast_adapter_dtype=False)
    draw_adapters(model, seed)
    return model.train()


@torch.no_grad()
def draw_adapters(model, seed: int = 0) -> None:
    """Sets all adapters to random numbers, those that multiply near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "ia3_l", "ln_tuning_layers", "modules_to_save")):
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            is_factor = "ia3_l" in name or "magnitude" in name or "ln_tuning" in name
            parameter.copy_(noise + 1 if is_factor else noise)


def merged(model):
    """Returns a copy of a PEFT model with all adapters merged into its weights by PEFT."""
    return copy.deepcopy(model).merge_and_unload().eval()
