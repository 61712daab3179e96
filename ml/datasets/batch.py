"""The batch: what a reader yields and a model takes. Nothing here reads or writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Batch:
    """B examples, D dense and F sparse features.

    dense: float32 [B, D]. sparse: KeyedJaggedTensor of F keys, int64 ids, key-major, stride B.
    labels: float32 [B], 0 or 1. sample_rate: float32 [B], the probability with which such a
    row, unclicked, came in; 1.0 where nothing was down-sampled.
    event_time: int64 [B], microseconds since 1970-01-01 UTC.
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    sample_rate: torch.Tensor
    event_time: torch.Tensor

    def __len__(self) -> int:
        return self.labels.numel()

    def rows(self, kept: torch.Tensor) -> Batch:
        """The rows of a mask, bool [B], in their order."""
        lengths = self.sparse.lengths().view(len(self.sparse.keys()), len(self))
        of_values = torch.repeat_interleave(kept.repeat(len(lengths)), lengths.reshape(-1).long())
        sparse = KeyedJaggedTensor(
            self.sparse.keys(),
            self.sparse.values()[of_values],
            lengths=lengths[:, kept].reshape(-1),
            stride=int(kept.sum()),
        )
        return Batch(self.dense[kept], sparse, self.labels[kept], self.sample_rate[kept], self.event_time[kept])
