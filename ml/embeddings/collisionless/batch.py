"""What a batch looks up: ids in bags, as the kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_WEIGHTS = np.empty(0, np.float32)


class Occurrences(NamedTuple):
    """The ids of B examples for F features, ordered by feature, then by example.

    Args:
        ids: int64 [N].
        offsets: int64 [F * B + 1]; bag f * B + b, of feature f and example b, holds the ids from its offset to the next.
        weights: float32 [N], the weight of each id in its bag; empty if all are 1.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] = _NO_WEIGHTS

    def check(self, features: int) -> None:
        """Checks what the kernels rely on, because they check no bounds.

        Raises:
            ValueError: The lengths are not those of bags of `features` features.
        """
        n, offsets, weights = len(self.ids), self.offsets, len(self.weights)
        if not features or (len(offsets) - 1) % features or len(offsets) == 0:
            raise ValueError(f"{len(offsets) - 1} bags cannot be split evenly over {features} features")
        if offsets[0] != 0 or offsets[-1] != n or not (offsets[1:] >= offsets[:-1]).all():
            raise ValueError(f"the lengths of the bags do not belong to {n} ids: they add up to {offsets[-1]}")
        if weights not in (0, n):
            raise ValueError(f"{n} ids have {weights} weights")

    def per_feature(self, features: int) -> NDArray[np.int64]:
        """Number of ids of each feature, int64 [F]."""
        examples = (len(self.offsets) - 1) // features
        return np.diff(self.offsets[::examples]) if examples else np.zeros(features, np.int64)
