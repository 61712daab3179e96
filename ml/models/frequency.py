"""A streaming estimate of how often an item occurs in a batch, which corrects the logits of in-batch negatives.

Yi et al. (2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", algorithm 2) estimate the mean
gap between two batches that contain an item. On a news site the newest items are read most, and a mean of gaps adapts to them
too slowly. This module lets each occurrence decay exponentially instead. An item that has occurred only once is treated as
rare, as most such items are.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ml.embeddings.fixed.id_to_row import fmix64
from ml.hashing import GOLDEN

_HASHES = 2  # a collision only adds mass, so the smaller of two estimates is correct unless both collide
_STEP = GOLDEN - (1 << 64)  # as a signed number, which int64 tensors need


class BatchFrequency(nn.Module):
    """Estimates expected occurrences per batch with a decaying count-min sketch.

    The sketch is kept in buffers, which are part of a snapshot.

    Args:
        slots: Number of slots of each hash. Ten times the number of live items makes collisions rare.
        memory: Number of batches over which an occurrence decays by a factor of e.

    Example:
        >>> frequency = BatchFrequency()
        >>> for _ in range(500):
        ...     frequency.observe(torch.tensor([1, 1, 2]))
        >>> frequency.expected(torch.tensor([1, 2, 3])).round()
        tensor([2., 1., 0.])
    """

    mass: torch.Tensor
    last: torch.Tensor
    batches: torch.Tensor

    def __init__(self, slots: int = 1 << 16, memory: float = 50.0) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mass", torch.zeros(_HASHES, slots))
        self.register_buffer("last", torch.zeros(_HASHES, slots, dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def observe(self, ids: torch.Tensor) -> None:
        """Count the ids of a batch, int64 [B]."""
        distinct, count = ids.unique(return_counts=True)
        for number, slot in enumerate(self._slots(distinct)):
            fresh = torch.zeros_like(self.mass[number]).index_add_(0, slot, count.float())[slot]
            self.mass[number, slot], self.last[number, slot] = self._decayed(number, slot) + fresh, self.batches
        self.batches += 1

    def expected(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the expected occurrences per batch of ids, int64 [N], as float32 [N]; 0 for an id that never occurred."""
        masses = [self._decayed(number, slot) for number, slot in enumerate(self._slots(ids))]
        return torch.stack(masses).amin(0) / self._mass_of_one_per_batch()

    def _slots(self, ids: torch.Tensor) -> list[torch.Tensor]:
        return [fmix64(ids + number * _STEP).remainder(self.mass.shape[1]) for number in range(_HASHES)]

    def _decayed(self, number: int, slot: torch.Tensor) -> torch.Tensor:
        """Return the masses of slots, decayed to the next batch."""
        return self.mass[number, slot] * torch.exp((self.last[number, slot] - self.batches) / self.memory)

    def _mass_of_one_per_batch(self) -> float:
        """Return the mass of an id that occurred once in every batch: the sum of a geometric series, at least 1."""
        fade = math.exp(-1 / self.memory)
        return max(1.0, fade * (1 - fade ** int(self.batches)) / (1 - fade))
