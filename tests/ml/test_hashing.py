from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.hashing import GOLDEN, derive_seed, mix64, mix64_array


@jit
def mixed_by_kernel(x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = mix64(x[i])
    return out


def test_it_is_splitmix64() -> None:
    """The first numbers that Vigna's splitmix64.c gives for the seed 0."""
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN)
    assert [hex(x) for x in mix64_array(states).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_kernel_and_array_form_agree() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64, endpoint=False)
    assert np.array_equal(mixed_by_kernel(numbers), mix64_array(numbers))
    assert np.unique(mix64_array(np.arange(100_000, dtype=np.uint64))).size == 100_000


def test_seeds_differ_by_every_part_and_stay_what_they_were() -> None:
    seeds = {derive_seed(*parts) for parts in [(0, "order"), (1, "order"), (0, "split"), ("0", "order", 1)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**64 for seed in seeds)
    assert derive_seed(7, "shards", 0) == 18095283350466528522
