"""The processes that train one model together, and the messages that they exchange at every step.

The messages of sharded tables are in `ml.embeddings.distributed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Ranks:
    """This process in the group of processes that train a model together.

    Every rank must make the same calls in the same order. Dense layers are equal on all ranks, because their gradients are
    summed.

    Attributes:
        rank: This process's number, from 0.
        size: Number of processes.
        group: The process group; None for torch's default group.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ranks = Ranks.of()
        >>> ranks.all_gather(7, 8)
        [(7, 8)]
        >>> ranks.all_reduce_sum([1, 2])
        [1, 2]
        >>> dist.destroy_process_group()
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        """Return this process's rank in an initialised group; by default torch's default group."""
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def new_group(self) -> Ranks:
        """Form another group of the same processes, for messages that another thread sends at the same time."""
        group = dist.new_group(dist.get_process_group_ranks(self.group or dist.group.WORLD), backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        return Ranks(self.rank, self.size, group)

    def all_gather(self, *numbers: int) -> list[tuple[int, ...]]:
        """Gather some integers of every rank. Returns one tuple per rank, in their order."""
        own = torch.tensor(numbers)
        of_all = torch.empty(self.size * len(numbers), dtype=own.dtype)
        dist.all_gather_single(of_all, own, group=self.group)
        return [tuple(row) for row in of_all.view(self.size, -1).tolist()]

    def all_reduce_sum(self, numbers: Sequence[int]) -> list[int]:
        """Sum some integers over all ranks."""
        total = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def barrier(self) -> None:
        """Wait until all ranks have made this call."""
        dist.barrier(group=self.group)

    def all_gather_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Gather the rows of all ranks, which may differ in number. The operation is differentiable.

        Args:
            rows: [N, ...], this rank's N rows.

        Returns:
            The rows of all ranks, [sum of N, ...], in the order of the ranks, and the index of this rank's first row.
        """
        counts = [count for (count,) in self.all_gather(len(rows))]
        return _AllGatherRows.apply(rows, self, counts), sum(counts[: self.rank])

    def gather_bytes(self, data: bytes) -> list[bytes] | None:
        """Send bytes to the first rank.

        Returns:
            On the first rank, the bytes of all ranks, in their order; None on the others.
        """
        sizes = [size for (size,) in self.all_gather(len(data))]
        if self.rank:
            dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), group=self.group, group_dst=0)
            return None
        found = [data]
        for rank, size in enumerate(sizes[1:], 1):
            received = torch.empty(size, dtype=torch.uint8)
            dist.recv(received, group=self.group, group_src=rank)
            found.append(received.numpy().tobytes())
        return found

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Copy bytes from the first rank to all ranks. data: the bytes on the first rank; ignored on the others."""
        own = data if data is not None and self.rank == 0 else b""
        size = self.all_gather(len(own))[0][0]
        message = (
            torch.frombuffer(bytearray(own), dtype=torch.uint8) if self.rank == 0 else torch.empty(size, dtype=torch.uint8)
        )
        dist.broadcast(message, group_src=0, group=self.group)
        return message.numpy().tobytes()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], *more: float) -> list[float]:
        """Sum the gradients of all ranks in place, together with some numbers, in one message.

        Args:
            parameters: Dense parameters, the same on all ranks. A missing gradient counts as zero.
            *more: Further numbers to sum, as float32.

        Returns:
            The sums of `more`.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(more, dtype=torch.float32)])
        dist.all_reduce(flat, group=self.group)
        at = 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = flat[at : at + gradient.numel()].view_as(gradient)
            at += gradient.numel()
        return flat[at:].tolist()


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ranks: Ranks, counts: Sequence[int]) -> torch.Tensor:  # type: ignore[override]
        ctx.ranks, ctx.counts = ranks, counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        of_all = rows.new_empty(ranks.size * max(counts), *rows.shape[1:])
        dist.all_gather_single(of_all, padded, group=ranks.group)
        parts = of_all.view(ranks.size, max(counts), *rows.shape[1:])
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        total = grad.contiguous()
        dist.all_reduce(total, group=ctx.ranks.group)
        begin = sum(ctx.counts[: ctx.ranks.rank])
        return total[begin : begin + ctx.counts[ctx.ranks.rank]], None, None
