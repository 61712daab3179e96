"""Sampling noise of shares, counts and drift: whether a value is further from its band than chance explains.

A single malformed line is 2 % of a day of 51 lines. A day that has the largest allowed rate of 1 % has such a line, or more of
them, with a probability of 40 %, so this says nothing about the feed. Five malformed lines of 51 have a probability of 0.02 %.
"""

from __future__ import annotations

from abc import abstractmethod

from scipy.special import bdtr, bdtrc, chndtr

BLOCKS_BELOW = 1e-3
"""A value beyond its band blocks if a truth at the bound would give it, or a more extreme one, with a smaller probability."""


class Sampled(float):
    """A number that was computed from rows, and therefore has sampling noise."""

    @abstractmethod
    def is_noise(self, low: float | None = None, high: float | None = None) -> bool:
        """Whether sampling explains that the value is outside a band."""

    @property
    @abstractmethod
    def counts(self) -> str:
        """The counts behind the value, as text."""


class Share(Sampled):
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

    @property
    def counts(self) -> str:
        return f"{self.count} of {self.of}"

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


class Ratio(Sampled):
    """The number of rows of a day relative to a usual day.

    Args:
        count: Number of rows.
        usual: Number of rows of a usual day. A ratio to 0 is infinite, and 0 / 0 is 0.

    Example:
        >>> Ratio(0, 20).is_noise(low=0.2), Ratio(5, 100).is_noise(low=0.2), Ratio(30, 4).is_noise(high=5.0)
        (True, False, True)
    """

    count: int
    usual: float

    def __new__(cls, count: int, usual: float) -> Ratio:
        found = super().__new__(cls, count / usual if usual else (float("inf") if count else 0.0))
        found.count, found.usual = count, usual
        return found

    def __getnewargs__(self) -> tuple[int, float]:  # type: ignore[override]
        return self.count, self.usual

    @property
    def counts(self) -> str:
        return f"{self.count} rows, usually {self.usual:g}"

    def is_noise(self, low: float | None = None, high: float | None = None) -> bool:
        """Whether sampling explains that the ratio is outside a band.

        Both counts are taken as Poisson counts. Given their sum, the day's count is binomial with probability `r / (1 + r)` if
        the ratio of the rates is `r` (Przyborowski and Wilenski, 1940), so the usual day's own noise is included.

        Args:
            low: Smallest allowed ratio.
            high: Largest allowed ratio.
        """
        both = Share(self.count, self.count + round(self.usual))
        if high is not None and self > high:
            return both.is_noise(high=high / (1 + high)) if both > high / (1 + high) else True
        if low is not None and self < low:
            return both.is_noise(low=low / (1 + low)) if both < low / (1 + low) else True
        return True


class Drift(Sampled):
    """A population stability index of two samples.

    Args:
        index: The index.
        buckets: Number of buckets.
        scale: `1/n + 1/m` for samples of n and m ids.

    Example:
        >>> Drift(0.3, 4, 1 / 200 + 1 / 2000).is_noise(high=0.25), Drift(0.6, 4, 1 / 200 + 1 / 2000).is_noise(high=0.25)
        (True, False)
    """

    buckets: int
    scale: float

    def __new__(cls, index: float, buckets: int, scale: float) -> Drift:
        found = super().__new__(cls, index)
        found.buckets, found.scale = buckets, scale
        return found

    def __getnewargs__(self) -> tuple[float, int, float]:  # type: ignore[override]
        return float(self), self.buckets, self.scale

    @property
    def counts(self) -> str:
        return ""

    def is_noise(self, low: float | None = None, high: float | None = None) -> bool:
        """Whether sampling explains that the index is above a band.

        If the index of the distributions is `d`, the index of the samples is about `scale` times a noncentral chi-square
        variable with `buckets - 1` degrees of freedom and noncentrality `d / scale` (Yurdakul, 2018, for d = 0).

        Args:
            low: Smallest allowed index. Sampling only increases the index, so noise never explains one below.
            high: Largest allowed index.
        """
        if high is not None and self > high:
            centre = max(high, 0.0) / self.scale
            return 1.0 - float(chndtr(self / self.scale, max(self.buckets - 1, 1), centre)) >= BLOCKS_BELOW
        return low is None or self >= low
