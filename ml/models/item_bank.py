"""Items that came by, with their features: what uniform negatives are drawn from (Yang et al., 2020, "Mixed negative
sampling for learning two-tower neural networks in recommendations").
"""

from __future__ import annotations

import torch
from torch import nn

from ml.embeddings.fixed.id_to_row import mix


class ItemBank(nn.Module):
    """slots: at most so many items; of two that fall into a slot the one that came last is there. So old ones make way for new
    where a catalogue is larger than that; in a smaller one they stay. sparse, dense: how many features of each kind.

    Its tables are buffers, and part of a snapshot.
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
        """Remember a batch's items: ids int64 [B], sparse int64 [B, Fi], dense float32 [B, Ii]; of an item, the last row's."""
        slot = mix(ids).remainder(len(self.held))
        order = torch.arange(len(ids), device=ids.device)
        last = torch.full_like(self.held, -1, dtype=torch.int64).scatter_reduce(0, slot, order, "amax")
        kept = last[slot.unique()]
        self.held[slot[kept]], self.sparse[slot[kept]], self.dense[slot[kept]] = True, sparse[kept], dense[kept]

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of `count` items drawn with equal chances: sparse int64 [count, Fi], dense float32 [count, Ii]."""
        there = self.held.nonzero().squeeze(1)
        chosen = there[torch.randint(len(there), (count,), device=there.device)]
        return self.sparse[chosen], self.dense[chosen]

    def __len__(self) -> int:
        return int(self.held.sum())
