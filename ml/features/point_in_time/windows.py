"""Kernels of values as of a row's instant: sums over a window of a key's events, and the last events before the row.

An event has an event time and a known-at time. At instant T, an event counts if `T - span <= time < T` and it is known at T.
An event that was replaced by a corrected version stops counting when that version is known.
Nearly all events are known a fixed delay after their time, indefinitely. Sums over these are differences of running sums. The
others, which arrived late or were replaced, are looked at one by one.

Trailing counts, histories and the values of feature tables use these kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.features.hashtable import find, insert, slots_for
from ml.schema import MISSING_ID

EVER = 1 << 62
"""A span that covers all events, and an instant after all others."""
NEVER_REPLACED = np.zeros(0, np.int64)
"""The ends of events none of which was replaced."""


@dataclass(frozen=True)
class Timeline:
    """E events grouped by key, in time order within a key.

    Attributes:
        keys: int64 [E], ascending; no key is missing.
        time: int64 [E], event times in microseconds.
        known: int64 [E], known-at times in microseconds, at least `time + delay`.
        place: int64 [E], index of each event in the arrays that the timeline was made of.
        delay: Microseconds after its time at which an event is known, if it did not arrive late.
        until: int64 [E], instants in microseconds from which events no longer count; [0] if no event was replaced.
    """

    keys: NDArray[np.int64]
    time: NDArray[np.int64]
    known: NDArray[np.int64]
    place: NDArray[np.int64]
    delay: int
    until: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        keys: NDArray[np.int64],
        time: NDArray[np.int64],
        known: NDArray[np.int64] | None = None,
        delay: int = 0,
        until: NDArray[np.int64] = NEVER_REPLACED,
    ) -> Timeline:
        """Groups events.

        Args:
            keys: int64 [E], hashed keys. Events without a key (0) are left out.
            time: int64 [E], ascending event times in microseconds.
            known: int64 [E], known-at times; by default `time + delay`.
            delay: Microseconds after its time at which an event is known.
            until: int64 [E], instants from which events no longer count; [0] if no event was replaced.
        """
        order = np.argsort(keys, kind="stable")  # stable, so the events of a key stay in time order
        order = order[keys[order] != MISSING_ID]
        known = time + delay if known is None else known
        return cls(keys[order], time[order], known[order], order, delay, until[order] if len(until) else until)

    @cached_property
    def irregular(self) -> NDArray[np.int64]:
        """Positions of the events that are known later than `delay` after their time, or were replaced; ascending."""
        is_late = self.known > self.time + self.delay
        return np.flatnonzero(is_late | (self.until < EVER) if len(self.until) else is_late)

    def ranges(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the first position, and the position after the last, of the events of each of N keys."""
        slots, places, edges = self._groups
        group = find(slots, places, keys, len(edges) - 2)
        return edges[group], edges[group + 1]

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """A hash table of the G distinct keys, and the first position of each, int64 [G + 2]; the last group is empty."""
        first = np.flatnonzero(np.diff(self.keys, prepend=MISSING_ID)) if len(self.keys) else np.zeros(0, np.int64)
        slots = np.zeros(slots_for(len(first)), np.int64)
        places = np.zeros(len(slots), np.int64)
        insert(slots, places, self.keys[first])
        return slots, places, np.concatenate((first, [len(self.keys)] * 2))

    def count(self, keys: NDArray[np.int64], at: NDArray[np.int64], span: int) -> NDArray[np.int64]:
        """Counts the events of each key in the window before an instant.

        Args:
            keys: int64 [N], hashed keys. A missing key (0) has no events.
            at: int64 [N], instants in microseconds.
            span: Length of the window in microseconds.

        Returns:
            int64 [N].
        """
        return _counts(*self.ranges(keys), self.time, self.known, self.until, self.irregular, at, span, self.delay)

    def sum(self, keys: NDArray[np.int64], at: NDArray[np.int64], span: int, sums: RunningSums) -> NDArray[np.float64]:
        """Adds up the weights of the events that `count` counts.

        Sums are rounded once, so they do not depend on events outside the window.

        Args:
            keys: int64 [N], hashed keys.
            at: int64 [N], instants in microseconds.
            span: Length of the window in microseconds.
            sums: Running sums of the weights of the events, in the order of the timeline.

        Returns:
            float64 [N].
        """
        of = sums.weights, sums.high, sums.low
        return _sums(*self.ranges(keys), self.time, self.known, self.until, self.irregular, *of, at, span, self.delay)

    def last(
        self, keys: NDArray[np.int64], at: NDArray[np.int64], span: int, most: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the last events of each key in the window before an instant.

        Args:
            keys: int64 [N], hashed keys.
            at: int64 [N], instants in microseconds.
            span: Length of the window in microseconds.
            most: Maximum number of events for each key.

        Returns:
            int32 offsets [N + 1] into the second array, and int64 positions in the timeline, newest first for each key.
        """
        return _last(*self.ranges(keys), self.time, self.known, self.until, at, span, self.delay, most)


@dataclass(frozen=True)
class RunningSums:
    """Sums over the first events of a timeline, each as a sum of two floats.

    Attributes:
        weights: float64 [E].
        high: float64 [E + 1], rounded sums.
        low: float64 [E + 1], what rounding has left out.
    """

    weights: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> RunningSums:
        """Adds up E weights."""
        return cls(weights, *_running(weights))


def bounds(at, span, delay):  # type: ignore[no-untyped-def]
    """Returns the first event time of a window, and the one after its last: `time < at` and `time + delay <= at`.

    Args:
        at: An instant in microseconds, or an array of them.
        span: Length of the window in microseconds.
        delay: Microseconds after its time at which an event is known.
    """
    return at - span, np.minimum(at, at - delay + 1)


_bounds = jit(bounds, inline="always")


@jit(inline="always")
def _window(start, end, time, at, span, delay):  # type: ignore[no-untyped-def]
    # The range of the events that count if none arrived late or was replaced.
    of_key = time[start:end]
    low, high = _bounds(at, span, delay)
    return start + np.searchsorted(of_key, low), start + np.searchsorted(of_key, high)


@jit(inline="always")
def is_known(known, until, n, at):  # type: ignore[no-untyped-def]
    """Returns whether event n is known at an instant, and no other version of it; for use in compiled functions."""
    return known[n] <= at and (len(until) == 0 or until[n] > at)


@jit(nogil=True)
def _counts(starts, ends, time, known, until, irregular, at, span, delay):  # type: ignore[no-untyped-def]
    out = np.zeros(len(at), np.int64)
    for i in range(len(at)):
        first, last = _window(starts[i], ends[i], time, at[i], span, delay)
        if last <= first:
            continue
        out[i] = last - first
        if len(irregular):
            for n in range(np.searchsorted(irregular, first), np.searchsorted(irregular, last)):
                out[i] -= not is_known(known, until, irregular[n], at[i])
    return out


@jit(inline="always")
def _add(high, low, x):  # type: ignore[no-untyped-def]
    # Adds x to a sum of two floats: the rounding error of the first is kept in the second (Knuth's two-sum).
    total = high + x
    rest = total - high
    return total, low + ((high - (total - rest)) + (x - rest))


@jit(nogil=True)
def _running(weights):  # type: ignore[no-untyped-def]
    high, low = np.zeros(len(weights) + 1), np.zeros(len(weights) + 1)
    for i in range(len(weights)):
        high[i + 1], low[i + 1] = _add(high[i], low[i], weights[i])
    return high, low


@jit(nogil=True)
def _sums(starts, ends, time, known, until, irregular, weights, high, low, at, span, delay):  # type: ignore[no-untyped-def]
    out = np.zeros(len(at))
    for i in range(len(at)):
        first, last = _window(starts[i], ends[i], time, at[i], span, delay)
        if last <= first:
            continue
        total, rest = _add(high[last], low[last] - low[first], -high[first])
        if len(irregular):
            for n in range(np.searchsorted(irregular, first), np.searchsorted(irregular, last)):
                if not is_known(known, until, irregular[n], at[i]):
                    total, rest = _add(total, rest, -weights[irregular[n]])
        out[i] = total + rest
    return out


@jit(nogil=True)
def _last(starts, ends, time, known, until, at, span, delay, most):  # type: ignore[no-untyped-def]
    offsets = np.zeros(len(at) + 1, np.int32)
    found = np.empty(len(at) * most, np.int64)
    n = 0
    for i in range(len(at)):
        first, last = _window(starts[i], ends[i], time, at[i], span, delay)
        taken = 0
        while last > first and taken < most:
            last -= 1
            if is_known(known, until, last, at[i]):
                found[n] = last
                n += 1
                taken += 1
        offsets[i + 1] = n
    return offsets, found[:n].copy()
