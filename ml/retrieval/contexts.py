"""The context of a request: the items that its session clicked before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.schema import MISSING_ID

NOT_LIVE = -1


@dataclass(frozen=True)
class Contexts:
    """The items that each of B requests can use, newest first.

    Attributes:
        offsets: int64 [B + 1]; request b has `items[offsets[b] : offsets[b + 1]]`.
        items: int64, ids of items.

    Example:
        >>> Contexts.of([[7, 5], [], [7]]).offsets.tolist()
        [0, 2, 2, 3]
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]

    @classmethod
    def of(cls, items: Sequence[Sequence[int]]) -> Contexts:
        """Build contexts from the items of each request, newest first."""
        lengths = np.array([0, *map(len, items)], np.int64)
        return cls(np.cumsum(lengths), np.fromiter(chain.from_iterable(items), np.int64))

    @classmethod
    def empty(cls, count: int) -> Contexts:
        """Return contexts without items for `count` requests."""
        return cls(np.zeros(count + 1, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Number B of requests."""
        return len(self.offsets) - 1

    def rows(self, start: int, stop: int) -> Contexts:
        """Return the contexts of requests `[start, stop)`."""
        offsets = self.offsets[start : stop + 1]
        return Contexts(offsets - offsets[0], self.items[offsets[0] : offsets[-1]])

    def take(self, rows: NDArray[np.int64]) -> Contexts:
        """Return the contexts of some requests, in the order of `rows`."""
        starts, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Contexts(offsets, self.items[at])

    def first(self, count: int | NDArray[np.int64]) -> Contexts:
        """Return the contexts without all but their newest `count` items: one number, or int64 [B]."""
        lengths = np.minimum(np.diff(self.offsets), count)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1] - offsets[:-1], lengths)
        return Contexts(offsets, self.items[at])

    def places(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each item of the contexts in `items` (ascending, [L]), or `NOT_LIVE`."""
        return places(self.items, items)


def places(wanted: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each wanted item in `items` (ascending, [L]), or `NOT_LIVE`. int64, in the shape of `wanted`."""
    if not len(items):
        return np.full(len(wanted), NOT_LIVE)
    at = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    return np.where(items[at] == wanted, at, NOT_LIVE)


@dataclass(frozen=True)
class SessionContexts:
    """Contexts of N events, and the time since the event before.

    Attributes:
        contexts: of the N events.
        gap: int64 [N], microseconds since the newest earlier event of the session; -1 for the first events of a session.
    """

    contexts: Contexts
    gap: NDArray[np.int64]


def session_contexts(
    whose: NDArray[np.int64],
    time: NDArray[np.int64],
    item: NDArray[np.int64],
    most: int,
    idle: int | None = None,
) -> SessionContexts:
    """Compute the context of each event: the items of its session at strictly earlier times.

    Args:
        whose: int64 [N], id of the session or of the user. `MISSING_ID` gives an event a session of its own.
        time: int64 [N], ascending, microseconds.
        item: int64 [N].
        most: largest number of items of a context; the newest are kept.
        idle: microseconds without an event after which a session ends; by default it does not end.
    """
    order = np.argsort(whose, kind="stable")  # events stay in time order within a session
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    past, length, gap = _sessions(whose[order], time[order], np.iinfo(np.int64).max if idle is None else idle, most)
    past, length = past[place], length[place]
    offsets = np.concatenate([[0], np.cumsum(length)])
    return SessionContexts(Contexts(offsets, _gather(past, offsets, item[order])), gap[place])


@jit(nogil=True)
def _sessions(whose, time, idle, most):  # type: ignore[no-untyped-def]
    # Rows are sorted by session. The rows [begin, past) belong to the session and are before the row's time.
    pasts, lengths = np.zeros(len(whose), np.int64), np.zeros(len(whose), np.int64)
    gaps = np.full(len(whose), -1, np.int64)
    begin = past = 0
    for i in range(len(whose)):
        if i == 0 or whose[i] == MISSING_ID or whose[i] != whose[i - 1] or time[i] - time[i - 1] > idle:
            begin = past = i
        elif time[i] > time[i - 1]:  # among events at one time, none is before another
            past = i
        pasts[i], lengths[i] = past, min(most, past - begin)
        if past > begin:
            gaps[i] = time[i] - time[past - 1]
    return pasts, lengths, gaps


@jit(nogil=True)
def _gather(pasts, offsets, items):  # type: ignore[no-untyped-def]
    out = np.empty(offsets[-1], np.int64)
    for i in range(len(pasts)):
        for n in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + n] = items[pasts[i] - 1 - n]
    return out
