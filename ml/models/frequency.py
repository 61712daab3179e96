"""How often an item comes up in a batch, estimated as batches go by: what in-batch negatives are drawn with.

Yi et al. (2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", algorithm 2) keep the mean gap
between two batches that hold an item. On a news site what is new is what is read, and a mean of gaps learns of it too late:
here it is the occurrences that fade. An item that has only just come up counts as rare, as most of those are that do.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ml.embeddings.fixed.id_to_row import mix
from ml.hashing import GOLDEN

_HASHES = 2  # collisions add up, so the smaller of two is right unless both collide
_STEP = GOLDEN - (1 << 64)  # as a signed number, which int64 tensors need


class BatchFrequency(nn.Module):
    """slots: of each hash; about ten times the items that are alive make collisions rare. memory: batches after which an
    occurrence counts e times less.

    Its tables are buffers, and part of a snapshot.
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
        """Take note of a batch's ids, int64 [B]."""
        distinct, count = ids.unique(return_counts=True)
        for number, slot in enumerate(self._slots(distinct)):
            fresh = torch.zeros_like(self.mass[number]).index_add_(0, slot, count.float())[slot]
            self.mass[number, slot], self.last[number, slot] = self._faded(number, slot) + fresh, self.batches
        self.batches += 1

    def expected(self, ids: torch.Tensor) -> torch.Tensor:
        """Occurrences of each id, int64 [N], in a batch as they have been of late, float32 [N]; 0 of one that never came up."""
        masses = [self._faded(number, slot) for number, slot in enumerate(self._slots(ids))]
        return torch.stack(masses).amin(0) / self._of_one()

    def _slots(self, ids: torch.Tensor) -> list[torch.Tensor]:
        return [mix(ids + number * _STEP).remainder(self.mass.shape[1]) for number in range(_HASHES)]

    def _faded(self, number: int, slot: torch.Tensor) -> torch.Tensor:
        """Masses as of the next batch."""
        return self.mass[number, slot] * torch.exp((self.last[number, slot] - self.batches) / self.memory)

    def _of_one(self) -> float:
        """The mass of what came up once in every batch so far: the sum of a geometric series, of 1 at least."""
        fade = math.exp(-1 / self.memory)
        return max(1.0, fade * (1 - fade ** int(self.batches)) / (1 - fade))
