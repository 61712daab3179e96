"""One good mixer of 64 bits, for kernels: every bit of what goes in sways every bit of what comes out."""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: steps by it visit all numbers, evenly


@jit(inline="always")
def mix64(x):  # type: ignore[no-untyped-def]
    """A bijection of uint64: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
