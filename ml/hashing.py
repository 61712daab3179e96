"""Hash functions and seeds that all packages share: SplitMix64 for kernels and arrays, and derived seeds.

`ml.features.hashing` computes ids of feature values, and `ml.embeddings.fixed.id_to_row` hashes torch tensors.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, the increment of SplitMix64. Its multiples are spread evenly over all 64-bit numbers."""


def _finalise(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


mix64 = jit(inline="always")(_finalise)
"""Kernel: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), a bijection of uint64 in which every input bit affects
every output bit. Call it from other kernels; `mix64_array` applies the same function to an array."""


def mix64_array(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Applies `mix64` to each element.

    Args:
        x: uint64, of any shape.

    Returns:
        uint64, of the same shape.

    Example:
        >>> mix64_array(np.array([0, 1], np.uint64)).tolist()
        [0, 6238072747940578789]
    """
    return _finalise(x)


def derive_seed(*parts: str | int) -> int:
    """Returns a seed for a named purpose. The same parts give the same seed on every machine.

    Args:
        *parts: What the seed is for, such as a recipe's seed, a day and a slice.

    Returns:
        An integer in [0, 2^64).

    Example:
        >>> derive_seed(7, "shards", 0) == derive_seed(7, "shards", 0) != derive_seed(7, "shards", 1)
        True
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
