"""Stacks of linear layers and ReLU, begun as Glorot and Bengio (2010) say: variance 2 / (inputs + outputs), biases zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MLP(nn.Sequential):
    """`forward(float32 [B, inputs]) -> float32 [B, widths[-1]]`, a ReLU after every layer.

    dropout: share of each layer's outputs that training leaves out.
    """

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [linear(inputs, width), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
            inputs = width
        super().__init__(*layers)


class Tower(nn.Sequential):
    """An MLP, then a linear layer without ReLU to `outputs` numbers."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__(MLP(inputs, widths, dropout), linear([inputs, *widths][-1], outputs))


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def first_order(inputs: int) -> nn.Linear:
    """A weight an input, summed; zero at first, as a linear model begins."""
    layer = nn.Linear(inputs, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def begin_as_dlrm(model: nn.Module) -> None:
    """Biases normal with variance 1 / outputs beside Glorot's weights: how DLRM's own code begins its layers
    (facebookresearch/dlrm, `DLRM_Net.create_mlp`)."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            with torch.no_grad():
                layer.bias.normal_(0, layer.out_features**-0.5)
