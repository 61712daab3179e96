"""Exchange of one batch between ranks: ids are sent to the ranks that own them, rows are returned, and gradients are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.distributed.exchange_plan import plan_exchange, pool_rows, sum_row_gradients
from ml.embeddings.interface import TrainableBags


@dataclass(frozen=True)
class Exchange:
    """Exchange of the rows of one collection between R ranks.

    Args:
        local: Tables with the rows that this rank owns.
        keys: The F features.
        means: Whether the bags of each feature are averaged, bool [F].
        dim: Embedding dimension D.
        owners: Function that returns the rank that owns each occurrence, int64 [N], given ids and feature indices, both
            int64 [N].
        ranks: Number of ranks, R.
        group: Process group of the ranks; None for all processes.
    """

    local: TrainableBags
    keys: Sequence[str]
    means: torch.Tensor
    dim: int
    owners: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ranks: int
    group: dist.ProcessGroup | None

    def pool(self, anchor: torch.Tensor, features: KeyedJaggedTensor, training: bool) -> torch.Tensor:
        """Pool the rows of this rank's examples from all ranks. All ranks must call it.

        Owners receive all occurrences, because they count them. A rank requests a row once per feature, and the owner updates
        it once per batch.

        Args:
            anchor: Any tensor that requires a gradient, so that autograd runs the backward pass.
            features: Ids of this rank's B examples, in the order of `keys`.
            training: Whether the backward pass updates rows.

        Returns:
            Pooled rows, float32 [B, F * D].
        """
        return _Pool.apply(anchor, self, features, training)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, anchor: torch.Tensor, exchange: Exchange, features: KeyedJaggedTensor, training: bool
    ) -> torch.Tensor:
        f, d, keys, group, ranks = len(exchange.keys), exchange.dim, list(exchange.keys), exchange.group, exchange.ranks
        ids = features.values().long()  # [N]
        feature = torch.repeat_interleave(torch.arange(f), torch.tensor(features.length_per_key()))  # [N]
        places = exchange.owners(ids, feature) * f + feature
        order, row_of, counts = plan_exchange(ids.numpy(), places.numpy(), ranks * f)
        sent = torch.from_numpy(counts).view(ranks, f, 2)  # [R, F, 2]: distinct and repeated occurrences
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        requested = ids.new_empty(int(received.sum()))
        sizes = received.sum((1, 2)).tolist(), sent.sum((1, 2)).tolist()
        dist.all_to_all_single(requested, ids[torch.from_numpy(order)], *sizes, group=group)
        by_feature, per_feature = _by_feature(received.sum(2))
        stride = int(per_feature.max())
        lengths = (torch.arange(stride) < per_feature.unsqueeze(1)).reshape(-1).int()
        with torch.set_grad_enabled(training):
            own = KeyedJaggedTensor(keys, requested[by_feature], lengths=lengths, stride=stride)
            found = exchange.local(own).values().float()  # [stride, F * D]
        distinct = torch.tensor([True, False]).repeat(ranks * f).repeat_interleave(received.view(-1))
        cells = torch.empty_like(by_feature)
        cells[by_feature] = _cells(per_feature)
        cells = cells[distinct]
        rows_received, rows_sent = sent[..., 0].sum(1).tolist(), received[..., 0].sum(1).tolist()  # by rank
        rows = torch.empty(sum(rows_received), d)
        dist.all_to_all_single(rows, found.detach().view(-1, d)[cells], rows_received, rows_sent, group=group)
        bags = (row_of, features.offsets().long().numpy(), exchange.means.numpy(), features.stride())
        out = torch.zeros(features.stride(), f * d)
        pool_rows(rows.numpy(), *bags, out.numpy())
        ctx.exchange, ctx.found, ctx.cells, ctx.bags = exchange, found, cells, bags
        ctx.rows_received, ctx.rows_sent = rows_received, rows_sent
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None, None, None]:  # type: ignore[override]
        exchange, (row_of, offsets, means, examples) = ctx.exchange, ctx.bags
        summed = torch.zeros(sum(ctx.rows_received), exchange.dim)
        sum_row_gradients(grad.float().contiguous().numpy(), row_of, offsets, means, examples, summed.numpy())
        received = summed.new_empty(len(ctx.cells), exchange.dim)
        dist.all_to_all_single(received, summed, ctx.rows_sent, ctx.rows_received, group=exchange.group)
        if ctx.found.requires_grad:
            gradients = torch.zeros_like(ctx.found)
            gradients.view(-1, exchange.dim)[ctx.cells] = received
            torch.autograd.backward(ctx.found, gradients)
        return None, None, None, None


def _cells(per_feature: torch.Tensor) -> torch.Tensor:
    """Return the position of each bag of one id in a flattened [B, F] grid, int64 [N], ordered by feature.

    Args:
        per_feature: Number of bags of each feature, int64 [F].
    """
    f = len(per_feature)
    first = (per_feature.cumsum(0) - per_feature).repeat_interleave(per_feature)
    return (torch.arange(len(first)) - first) * f + torch.arange(f).repeat_interleave(per_feature)


def _by_feature(received: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reorder received occurrences, which are ordered by rank and then by feature, by feature and then by rank.

    Args:
        received: Number of occurrences by rank and feature, int64 [R, F].

    Returns:
        Positions of the occurrences in the new order, int64 [N], and the number of occurrences of each feature, int64 [F].
    """
    begins = (received.view(-1).cumsum(0) - received.view(-1)).view_as(received).T.reshape(-1)
    lengths = received.T.reshape(-1)
    shift = begins - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths), received.sum(0)
