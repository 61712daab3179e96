"""Sampling noise of shares: whether a share is further from its band than chance explains.

A single malformed line is 2 % of a day of 51 lines. A day that has the largest allowed rate of 1 % has such a line, or more of
them, with a probability of 40 %, so this says nothing about the feed. Five malformed lines of 51 have a probability of 0.02 %.
"""

from __future__ import annotations

from scipy.special import bdtr, bdtrc

BLOCKS_BELOW = 1e-3
"""A share beyond its band blocks if a rate at the bound would give it, or a more extreme one, with a smaller probability."""


class Share(float):
    """A share of rows or lines, which knows its counts.

    Args:
        count: Number of rows that are counted.
        of: Number of all rows. A share of none is 0.

    Example:
        >>> found = Share(1, 51)
        >>> round(found, 3), found.is_noise(high=0.01), Share(5, 51).is_noise(high=0.01), Share(1, 51).is_noise(high=0.0)
        (0.02, True, False, False)
    """

    count: int
    of: int

    def __new__(cls, count: int, of: int) -> Share:
        found = super().__new__(cls, count / of if of else 0.0)
        found.count, found.of = count, of
        return found

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return self.count, self.of

    def is_noise(self, low: float | None = None, high: float | None = None) -> bool:
        """Whether sampling explains that the share is outside a band, by a one-sided binomial test at the bound.

        Args:
            low: Smallest allowed rate.
            high: Largest allowed rate.
        """
        if high is not None and self > high:
            return float(bdtrc(self.count - 1, self.of, min(max(high, 0.0), 1.0))) >= BLOCKS_BELOW
        if low is not None and self < low:
            return float(bdtr(self.count, self.of, min(max(low, 0.0), 1.0))) >= BLOCKS_BELOW
        return True
