"""Quality of recommendations: the click probability of the recommended items, as a share of the best possible.

The probabilities are the true ones of the simulation, so clicks add no noise. Errors come only from the sample of users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.compare import Estimate
from ml.loop.records import ACKNOWLEDGED, REQUESTS, SERVED, read_records
from ml.loop.settings import Settings

Floats = NDArray[np.float64]
RECOVERED = 0.9
"""An arm has recovered when its quality is this share of its quality before the change."""


@dataclass(frozen=True)
class Requests:
    """N requests of an arm in time order.

    Attributes:
        time: Simulated time in microseconds since 1970 UTC, int64 [N].
        user: Id of the user, int64 [N].
        recommended: Mean chance of a click of the items that were recommended, float64 [N].
        best: The same of the items with the largest chances, float64 [N].
        any: The same of all items, float64 [N].
        failed: Requests that were not answered.
    """

    time: NDArray[np.int64]
    user: NDArray[np.int64]
    recommended: Floats
    best: Floats
    any: Floats
    failed: int = 0

    def __len__(self) -> int:
        """Number N of requests."""
        return len(self.time)

    def between(self, first: float, end: float) -> Requests:
        """Return the requests of a span of simulated time, from `first` until before `end`."""
        at = slice(*np.searchsorted(self.time, [first, end]))
        return Requests(self.time[at], self.user[at], self.recommended[at], self.best[at], self.any[at])

    @property
    def quality(self) -> float:
        """Chance of a click of what was recommended, as a share of the best; NaN without requests."""
        return float(self.recommended.sum() / self.best.sum()) if len(self) else float("nan")

    def log_quality(self) -> Estimate:
        """Estimate the logarithm of the quality. Requests of a user are not independent."""
        residual = self.recommended - self.quality * self.best
        users, place = np.unique(self.user, return_inverse=True)
        by_user = np.bincount(place, residual) / self.recommended.sum()
        count = len(users)
        error = float(np.sqrt(count / (count - 1) * np.square(by_user).sum())) if count > 1 else None
        return Estimate(float(np.log(self.quality)), error, count - 1)


def read_requests(folder: Path, arm: str) -> Requests:
    """Read the requests of an arm."""
    rows: list[list[float]] = []
    failed = 0
    for line in read_records(folder, f"{REQUESTS}-{arm}"):
        rows += line["rows"]
        failed += line["failed"]
    table = np.array(sorted(rows), np.float64).reshape(-1, 5)
    return Requests(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), *table[:, 2:].T, failed=failed)


@dataclass(frozen=True)
class Curve:
    """Quality of an arm over time: simulated times in microseconds, and the quality of the bin around each, [B] each."""

    time: NDArray[np.int64]
    quality: Floats


def curve(requests: Requests, settings: Settings, bins_per_day: int = 24) -> Curve:
    """Return the quality of an arm in bins of equal width. Bins without requests are left out."""
    width = 86_400_000_000 // bins_per_day
    edges = settings.start + width * np.arange(settings.days * bins_per_day + 1)
    of_bins = [requests.between(first, first + width) for first in edges[:-1]]
    held = [(int(first) + width // 2, of.quality) for first, of in zip(edges, of_bins, strict=False) if len(of)]
    table = np.array(held, np.float64).reshape(-1, 2)
    return Curve(table[:, 0].astype(np.int64), table[:, 1])


@dataclass(frozen=True)
class Recovery:
    """What a change of taste did to an arm.

    Attributes:
        before: Quality in the six hours before the change.
        after: Quality in the first two hours after it.
        end: Quality in the last six hours of the loop.
        hours: Simulated hours from the change until the quality of three hours was again `RECOVERED` of that before; None if
            it never was.
    """

    before: float
    after: float
    end: float
    hours: float | None


def recovery(requests: Requests, settings: Settings) -> Recovery:
    """Measure how an arm recovers from the change of taste.

    Args:
        requests: The requests of the arm.
        settings: A loop with a change.
    """
    hour, change = 3_600_000_000, settings.change
    assert change is not None
    end = settings.start + settings.days * 24 * hour
    before = requests.between(change - 6 * hour, change).quality
    hours = None
    for first in range(change, end - 3 * hour + 1, hour // 2):
        if requests.between(first, first + 3 * hour).quality >= RECOVERED * before:
            hours = (first - change) / hour
            break
    after, last = requests.between(change, change + 2 * hour), requests.between(end - 6 * hour, end)
    return Recovery(before, after.quality, last.quality, hours)


@dataclass(frozen=True)
class Improvement:
    """Relative improvement of one arm's quality over another's, in per cent, with its 95 % interval; None if unknown."""

    percent: float
    interval: tuple[float, float] | None


def improvement(one: Requests, other: Requests) -> Improvement | None:
    """Compare two arms with different users; None if one of them has no requests."""
    if not len(one) or not len(other):
        return None
    a, b = one.log_quality(), other.log_quality()
    errors = None if a.error is None or b.error is None else float(np.hypot(a.error, b.error))
    difference = Estimate(a.value - b.value, errors, min(a.df, b.df))
    interval = difference.interval()
    bounds = None if interval is None else (float(100 * np.expm1(interval[0])), float(100 * np.expm1(interval[1])))
    return Improvement(float(100 * np.expm1(difference.value)), bounds)


@dataclass(frozen=True)
class Freshness:
    """Wall-clock seconds from an event until the service ranks with weights that were trained on it.

    Attributes:
        seconds: One for each impression, float64 [N].
        waiting: Seconds of these for which each waits for its clicks.
        unreached: Number of impressions that have not reached the served weights. Those of the last seconds never have.
    """

    seconds: Floats
    waiting: float
    unreached: int = 0

    def quantiles(self, shares: Sequence[float] = (0.5, 0.9)) -> tuple[list[float], list[float]]:
        """Return quantiles of the whole time, and of the time apart from waiting for clicks; NaN without impressions."""
        if not len(self.seconds):
            return [float("nan")] * len(shares), [float("nan")] * len(shares)
        whole = np.quantile(self.seconds, shares).tolist()
        return whole, [value - self.waiting for value in whole]


def freshness(folder: Path, settings: Settings) -> Freshness:
    """Measure when impressions reach the served weights.

    Args:
        folder: The records.
        settings: The loop.
    """
    shown = [
        (line["time"], line["at"], len(line["impressions"]))
        for arm in settings.arms
        for line in read_records(folder, f"{ACKNOWLEDGED}-{arm}")
        if "impressions" in line
    ]
    served = [(line["at"], line["event_to"] or 0) for line in read_records(folder, SERVED)]
    if not shown or not served:
        return Freshness(np.zeros(0), settings.waiting_seconds, sum(count for _, _, count in shown))
    known = np.maximum.accumulate(np.array([event_to for _, event_to in served]))
    times, acknowledged, counts = (np.array(of) for of in zip(*shown, strict=True))
    at = np.searchsorted(known, times)  # the first version that knows the event
    found = at < len(served)
    seconds = np.array([when for when, _ in served])[at[found]] - acknowledged[found]
    return Freshness(np.repeat(seconds, counts[found]), settings.waiting_seconds, int(counts[~found].sum()))
