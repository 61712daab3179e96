"""The number of runs of long trials.

`make test` runs each of them at a small count. `make soak TRIALS=20 SEED=7` runs 20 times as many, from another seed.
"""

from __future__ import annotations

import os

from hypothesis import settings

TRIALS = int(os.environ.get("EVERGREEN_TRIALS", "1"))
"""Factor of every count."""
SEED = int(os.environ.get("EVERGREEN_SEED", "0"))
"""First seed of every sequence of seeds."""


def seeds(count: int) -> range:
    """Seeds of a trial that `make test` runs `count` times."""
    return range(SEED, SEED + count * TRIALS)


def examples(count: int) -> settings:
    """Hypothesis settings of a property that `make test` checks on `count` examples. Kernels compile in the first one."""
    return settings(max_examples=count * TRIALS, deadline=None)
