"""How many of the nearest items of the trained towers the exported towers find, on the rows that an export is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.models.two_tower import TwoTower

AT, QUERIES = 100, 512
"""Largest k, the number of nearest items that are compared, and most rows whose users are queries."""
_LARGEST_SHARE = 10  # k is at most a tenth of the items: if k were all items, any tower would find them


@dataclass(frozen=True)
class TowerRecall:
    """Recall of exported towers against the trained ones.

    Attributes:
        recall: Share of the k nearest items by the trained towers that are among the k nearest by the exported ones.
        at: k, at most `AT` and a tenth of the items.
        queries: Number of users.
        items: Number of distinct items.
    """

    recall: float
    at: int
    queries: int
    items: int


@dataclass(frozen=True)
class TowerScores:
    """Scores of items for users by the towers of one model.

    Attributes:
        scores: Dot products, float32 [Q, L].
    """

    scores: torch.Tensor

    @classmethod
    @torch.no_grad()  # not inference_mode, which bypasses the autograd key that FBGEMM's CPU kernels need
    def of(cls, model: nn.Module, batch: Batch) -> TowerScores | None:
        """Score the L distinct items of a batch for the users of its first Q rows.

        Args:
            model: Any model, in eval mode.
            batch: B rows, in random order. An item is as in the first of its rows.

        Returns:
            The scores; None if the model is not a two-tower model.
        """
        if not isinstance(model, TwoTower):
            return None
        users, items = model.embeddings(batch.dense, batch.sparse)  # [B, E]
        ids = batch.sparse[model.item_id].values()  # [B]
        _, numbers, counts = ids.unique(return_inverse=True, return_counts=True)
        first = numbers.argsort(stable=True)[counts.cumsum(0) - counts]  # [L], the first row of each item
        return cls(users[:QUERIES] @ items[first].T)

    def recall(self, exported: TowerScores) -> TowerRecall | None:
        """Compare exported towers with these, on the same rows. Items of equal score are equally near.

        Returns:
            The recall; None if there are fewer than `_LARGEST_SHARE` items.
        """
        queries, items = self.scores.shape
        k = min(AT, items // _LARGEST_SHARE)
        if not k:
            return None
        least = self.scores.topk(k).values[:, -1:]  # [Q, 1], the score of the k-th item
        found = self.scores.gather(1, exported.scores.topk(k).indices) >= least  # [Q, k]
        return TowerRecall(float(found.float().mean()), k, queries, items)
