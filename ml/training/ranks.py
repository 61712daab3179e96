"""The processes that train one model together: what they tell each other at every step, beside what tables exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process among `size` of a group. Dense layers are alike on all ranks, as their gradients are summed."""

    rank: int
    size: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def gathered(self, *numbers: int) -> list[tuple[int, ...]]:
        """Some whole numbers of every rank, in the order of the ranks."""
        own = torch.tensor(numbers)
        of_all = torch.empty(self.size * len(numbers), dtype=own.dtype)
        dist.all_gather_into_tensor(of_all, own, group=self.group)
        return [tuple(row) for row in of_all.view(self.size, -1).tolist()]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], *more: float) -> list[float]:
        """Sum the gradients of all ranks, in one message; and some numbers, which it gives back."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(more, dtype=torch.float32)])
        dist.all_reduce(flat, group=self.group)
        at = 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = flat[at : at + gradient.numel()].view_as(gradient)
            at += gradient.numel()
        return flat[at:].tolist()
