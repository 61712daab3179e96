"""Late labels: how a trainer uses an example whose label is not known yet.

A click arrives some time after the impression. Each choice says which rows are trained on at the end of a slice, and with which
labels; `CHOICES` has them by name:

| choice          | trained on                                             | label                                      |
|-----------------|--------------------------------------------------------|--------------------------------------------|
| `oracle`        | the rows of the slice                                  | the final one, which nobody knows yet      |
| `wait`          | rows whose wait has ended                              | a click within the wait                    |
| `ignore`        | the rows of the slice                                  | a click until the end of the slice         |
| `fake_negative` | the rows of the slice, then rows clicked during it     | 0, then 1: clicked rows come twice         |

`fake_negative` needs a loss that knows that unclicked rows may still be clicked (Ktena et al., 2019, arXiv 1907.06558, "FNW"):
recipe key `fake_negative_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""Time of the click of a row that is not clicked."""


@dataclass(frozen=True)
class Events:
    """N impressions in time order, and when they were clicked.

    Attributes:
        shown: Event times, int64 [N], ascending, in microseconds since 1970 UTC.
        clicked: Times at which clicks become known, int64 [N]; `NEVER` without a click.
        wait: How long `wait` waits, in microseconds.
    """

    shown: Ints
    clicked: Ints
    wait: int = 0

    def known(self, rows: Ints, now: int) -> NDArray[np.float32]:
        """Return the labels of rows that are known at a time, float32 [R]."""
        return (self.clicked[rows] <= now).astype(np.float32)


@dataclass(frozen=True)
class Lesson:
    """What is trained on at the end of a slice.

    Attributes:
        rows: Indexes of R rows, int64 [R], in the order in which they are trained on. A row may come again in a later slice.
        labels: Their labels, float32 [R].
    """

    rows: Ints
    labels: NDArray[np.float32]


Choice = Callable[[Events, int, int, int, int], Lesson]
"""Takes events, the first row of the slice and the row after its last one, and the ends of the slice before and of the slice.

Returns the lesson."""


def lessons(choice: str, events: Events, bounds: Ints) -> Iterator[Lesson]:
    """Yield the lesson at the end of each slice.

    Args:
        choice: One of `CHOICES`.
        events: The impressions.
        bounds: First row of each slice, then N. A slice ends with the time of its last row.

    Raises:
        ValueError: There is no such choice.

    Example:
        >>> events = Events(shown=np.array([10, 20, 30]), clicked=np.array([25, NEVER, 31]), wait=12)
        >>> for lesson in lessons("fake_negative", events, np.array([0, 2, 3])):
        ...     print(lesson.rows, lesson.labels)
        [0 1] [0. 0.]
        [0 2] [1. 0.]
    """
    if choice not in CHOICES:
        raise ValueError(f"late labels: expected one of {sorted(CHOICES)}, found {choice!r}")
    before = int(events.shown[0]) - 1 if len(events.shown) else 0
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        now = int(events.shown[end - 1]) if end > begin else before
        yield CHOICES[choice](events, begin, end, before, now)
        before = now


def _oracle(events: Events, begin: int, end: int, before: int, now: int) -> Lesson:
    rows = np.arange(begin, end)
    return Lesson(rows, events.known(rows, NEVER - 1))


def _wait(events: Events, begin: int, end: int, before: int, now: int) -> Lesson:
    first, last = np.searchsorted(events.shown, [before - events.wait, now - events.wait], side="right")
    rows = np.arange(first, last)
    return Lesson(rows, (events.clicked[rows] - events.shown[rows] <= events.wait).astype(np.float32))


def _ignore(events: Events, begin: int, end: int, before: int, now: int) -> Lesson:
    rows = np.arange(begin, end)
    return Lesson(rows, events.known(rows, now))


def _fake_negative(events: Events, begin: int, end: int, before: int, now: int) -> Lesson:
    clicked = events.clicked[:end]
    late = np.flatnonzero((clicked > before) & (clicked <= now))
    labels = np.concatenate([np.zeros(end - begin, np.float32), np.ones(len(late), np.float32)])
    arrived = np.concatenate([events.shown[begin:end], clicked[late]])
    order = np.argsort(
        arrived, kind="stable"
    )  # clicked rows between the others, because a batch of clicks alone sets rows back
    return Lesson(np.concatenate([np.arange(begin, end), late])[order], labels[order])


CHOICES: Mapping[str, Choice] = {"oracle": _oracle, "wait": _wait, "ignore": _ignore, "fake_negative": _fake_negative}
