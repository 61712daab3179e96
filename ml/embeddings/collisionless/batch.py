"""The ids of a batch, grouped into bags, in the layout that the kernels read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_WEIGHTS = np.empty(0, np.float32)


class Occurrences(NamedTuple):
    """The ids of B examples for F features, ordered by feature and then by example.

    Args:
        ids: Ids, int64 [N].
        offsets: Offsets of the bags, int64 [F * B + 1]. Bag f * B + b, of feature f and example b, has the ids from its offset
            to the next offset.
        weights: Weight of each id in its bag, float32 [N]; empty if all weights are 1.

    Example:
        >>> batch = Occurrences(np.array([7, 8, 9]), np.array([0, 2, 2, 3, 3]))  # two features, two examples
        >>> batch.check(features=2)
        >>> batch.per_feature(features=2).tolist()
        [2, 1]
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] = _NO_WEIGHTS

    def check(self, features: int) -> None:
        """Check offsets and weights, because the kernels do not check bounds.

        Args:
            features: Number of features, F.

        Raises:
            ValueError: If offsets or weights do not match the ids, or the bags cannot be divided among the features.
        """
        n, offsets, weights = len(self.ids), self.offsets, len(self.weights)
        if not features or (len(offsets) - 1) % features or len(offsets) == 0:
            raise ValueError(f"{len(offsets) - 1} bags cannot be divided evenly among {features} features")
        if offsets[0] != 0 or offsets[-1] != n or not (offsets[1:] >= offsets[:-1]).all():
            raise ValueError(f"expected bags of non-negative lengths that add up to {n} ids, found a sum of {offsets[-1]}")
        if weights not in (0, n):
            raise ValueError(f"expected one weight per id, found {weights} weights for {n} ids")

    def per_feature(self, features: int) -> NDArray[np.int64]:
        """Return the number of ids of each feature, int64 [F]."""
        examples = (len(self.offsets) - 1) // features
        return np.diff(self.offsets[::examples]) if examples else np.zeros(features, np.int64)
