"""Recently seen items with their features, from which uniform negatives are drawn.

Source: Yang et al., 2020, "Mixed negative sampling for learning two-tower neural networks in recommendations".
"""

from __future__ import annotations

import torch
from torch import nn

from ml.embeddings.fixed.id_to_row import fmix64


class ItemBank(nn.Module):
    """Keeps the last features of recently seen items.

    An item replaces the previous item of its slot. If there are more items than slots, new items replace old ones; otherwise
    most items stay. The bank is kept in buffers, which are part of a snapshot.

    Args:
        sparse: Number Fi of sparse features of an item, with one id each.
        dense: Number Ii of dense features of an item.
        slots: Largest number of items.

    Example:
        >>> bank = ItemBank(sparse=1, dense=1)
        >>> bank.observe(torch.tensor([5, 6, 5]), torch.tensor([[50], [60], [51]]), torch.zeros(3, 1))
        >>> len(bank)
        2
        >>> sparse, dense = bank.draw(count=4)
        >>> sparse.shape, dense.shape
        (torch.Size([4, 1]), torch.Size([4, 1]))
    """

    held: torch.Tensor
    sparse: torch.Tensor
    dense: torch.Tensor

    def __init__(self, sparse: int, dense: int, slots: int = 1 << 13) -> None:
        super().__init__()
        self.register_buffer("held", torch.zeros(slots, dtype=torch.bool))
        self.register_buffer("sparse", torch.zeros(slots, sparse, dtype=torch.int64))
        self.register_buffer("dense", torch.zeros(slots, dense))

    def observe(self, ids: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor) -> None:
        """Store the items of a batch. If an item is in several rows, its last row is stored.

        Args:
            ids: int64 [B].
            sparse: int64 [B, Fi].
            dense: float32 [B, Ii].
        """
        slot = fmix64(ids).remainder(len(self.held))
        order = torch.arange(len(ids), device=ids.device)
        last = torch.full_like(self.held, -1, dtype=torch.int64).scatter_reduce(0, slot, order, "amax")
        kept = last[slot.unique()]
        self.held[slot[kept]], self.sparse[slot[kept]], self.dense[slot[kept]] = True, sparse[kept], dense[kept]

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw `count` items uniformly. Returns their features: sparse, int64 [count, Fi], and dense, float32 [count, Ii]."""
        there = self.held.nonzero().squeeze(1)
        chosen = there[torch.randint(len(there), (count,), device=there.device)]
        return self.sparse[chosen], self.dense[chosen]

    def __len__(self) -> int:
        """Number of items in the bank."""
        return int(self.held.sum())
