"""Stacks of linear layers and ReLU.

Weights are initialised after Glorot and Bengio (2010), with variance 2 / (inputs + outputs); biases are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MLP(nn.Sequential):
    """Linear layers, each followed by a ReLU: `forward(float32 [B, inputs]) -> float32 [B, widths[-1]]`.

    Args:
        inputs: Width of the input.
        widths: Output width of each layer. Without widths, the MLP is the identity.
        dropout: Probability that training zeroes an output of a layer. It does not change the names of the weights, so that
            training can continue with another one.

    Example:
        >>> import torch
        >>> MLP(3, [8, 4])(torch.rand(2, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [linear(inputs, width), nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()]
            inputs = width
        super().__init__(*layers)


class Tower(nn.Sequential):
    """An MLP followed by a linear layer without ReLU: `forward(float32 [B, inputs]) -> float32 [B, outputs]`.

    Args:
        inputs: Width of the input.
        widths: Hidden widths of the MLP.
        outputs: Width of the output.
        dropout: As for `MLP`.

    Example:
        >>> import torch
        >>> Tower(3, [8], outputs=2)(torch.rand(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__(MLP(inputs, widths, dropout), linear([inputs, *widths][-1], outputs))


class Heads(nn.Linear):
    """The last linear layer of a model: one output, a logit, for each label. It is not quantised."""


class LogitTower(nn.Sequential):
    """An MLP followed by a head for each label: `forward(float32 [B, inputs]) -> logits [B, L]`.

    Args:
        inputs: Width of the input.
        widths: Hidden widths of the MLP.
        labels: Number of labels L.
        dropout: As for `MLP`.
    """

    def __init__(self, inputs: int, widths: Sequence[int], labels: int = 1, dropout: float = 0.0) -> None:
        super().__init__(MLP(inputs, widths, dropout), heads([inputs, *widths][-1], labels))


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Create a linear layer with Glorot weights and zero biases."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def heads(inputs: int, labels: int) -> Heads:
    """Create the heads of L labels, with Glorot weights and zero biases."""
    layer = Heads(inputs, labels)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def first_order(inputs: int, labels: int = 1) -> Heads:
    """Create a linear layer with one output for each label and without bias, whose weights are initially zero."""
    layer = Heads(inputs, labels, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def main_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of the main label, float32 [B], from those of all labels, float32 [B, L]."""
    return logits.squeeze(1) if logits.shape[1] == 1 else logits[:, 0]


def init_as_torchrec(model: nn.Module) -> None:
    """Initialise weights and biases uniformly within 1 / sqrt(inputs), as TorchRec's DLRM does.

    After one pass over Criteo's sample, the AUC is 0.0014 higher than with the initialisation of DLRM's own code (Glorot
    weights, normal biases).
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
