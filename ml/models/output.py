"""The bias of the logit, which is where an untrained model's mean prediction comes from."""

from __future__ import annotations

import math

import torch
from torch import nn


def start_at_rate(model: nn.Module, rate: float, label: int = 0) -> None:
    """Set the output bias of an untrained model to the log odds of a label (Lin et al., 2017, arXiv 1708.02002, section 3.3).

    Otherwise the first model predicts about 0.5 for each row. On a day of few steps it does not learn the rate of a rare label,
    and its predictions are many times too high.

    Args:
        model: A model as built. One without an output layer, such as a two-tower model, is not changed.
        rate: Share of the positive rows; rates of 0 and 1 change nothing.
        label: Number of the label, 0 for the main one.
    """
    output = getattr(model, "output", None)
    if isinstance(output, nn.Linear) and output.bias is not None and 0 < rate < 1:
        with torch.no_grad():
            output.bias[label] = math.log(rate / (1 - rate))
