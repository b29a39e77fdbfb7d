"""A LoRA layer that merges its product into the weight in evaluation mode, as Microsoft's loralib does."""

import torch
from torch import nn

RANK = 3


class MergingLora(nn.Linear):
    """y = x (W + B A)^T, where evaluation mode adds B A to the weight and training mode subtracts it again."""

    @classmethod
    def of(cls, linear: nn.Linear) -> "MergingLora":
        """Returns a layer in training mode with the parameters of `linear` and random A and B."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.lora_a = nn.Parameter(torch.randn(RANK, linear.in_features).to(linear.weight))
        layer.lora_b = nn.Parameter(torch.randn(linear.out_features, RANK).to(linear.weight) / 10)
        layer.merged = False
        return layer

    def train(self, mode: bool = True) -> "MergingLora":
        """Switches the mode, and merges or unmerges."""
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (self.lora_b @ self.lora_a).data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes y."""
        y = super().forward(x)
        return y if self.merged else y + x @ self.lora_a.T @ self.lora_b.T


def with_merging_lora(model):
    """Gives every up projection of a Llama model a MergingLora, and returns the model in training mode."""
    torch.manual_seed(0)
    for layer in model.model.layers:
        layer.mlp.up_proj = MergingLora.of(layer.mlp.up_proj)
    return model.train()
