"""Labels that become known some time after their example: when a slice is trained on, and when its rows are scored.

A day in the lake has final labels. A trainer that follows the events does not have them before the user has had time to act.
With a label wait, a slice is trained on once the labels of all of its rows are known. The scores of a slice are those of the
rows whose labels become known during it, positive and negative alike, by the predictions that were made when they were shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Part = TypeVar("Part")
Span = tuple[int, int]


class WaitingSlices(Generic[Part]):
    """Slices that were predicted, and wait for their labels.

    Args:
        wait: Time from an event until its label is known, in microseconds.

    Example:
        >>> waiting = WaitingSlices(wait=5)
        >>> waiting.add("first", (10, 19))
        >>> waiting.add("second", (20, 29))
        >>> waiting.known(now=29)
        [('first', (10, 19))]
        >>> waiting.rest()
        [('second', (20, 29))]
    """

    def __init__(self, wait: int) -> None:
        self.wait = wait
        self._parts: deque[tuple[Part, Span]] = deque()

    def add(self, part: Part, events: Span) -> None:
        """Add a slice. events: its first and last event time."""
        self._parts.append((part, events))

    def known(self, now: int) -> list[tuple[Part, Span]]:
        """Remove and return the slices all of whose labels are known at a time."""
        found = []
        while self._parts and self._parts[0][1][1] + self.wait <= now:
            found.append(self._parts.popleft())
        return found

    def rest(self) -> list[tuple[Part, Span]]:
        """Remove and return all slices."""
        found = list(self._parts)
        self._parts.clear()
        return found


class HeldBackRows:
    """Rows that were predicted and whose labels are not known yet.

    Args:
        wait: Time from an event until its label is known, in microseconds.

    Attributes:
        times: Event times of the rows, int64 [N], ascending.

    Example:
        >>> held = HeldBackRows(wait=5)
        >>> shown, labels = np.array([10, 14, 18]), np.array([0.0, 1.0, 1.0], np.float32)
        >>> held.reveal(shown, labels, {"online": np.array([0.1, 0.2, 0.3], np.float32)})[0]
        array([0.], dtype=float32)
        >>> held.times
        array([14, 18])
    """

    def __init__(self, wait: int) -> None:
        self.wait, self.times = wait, np.empty(0, np.int64)
        self._labels: Floats = np.empty(0, np.float32)
        self._predictions: Mapping[str, Floats] = {}

    def reveal(self, times: Ints, labels: Floats, predictions: Mapping[str, Floats]) -> tuple[Floats, Mapping[str, Floats]]:
        """Add the rows of a slice, and return the rows whose labels are known at its end and were not known before.

        Args:
            times: Event times of the slice, int64 [N], ascending; not read without a wait.
            labels: Final labels, float32 [N].
            predictions: Probabilities by name of the model, float32 [N] each.

        Returns:
            Labels and predictions of the R revealed rows, float32 [R].
        """
        if not self.wait:
            return labels, predictions
        if len(self.times):
            times, labels = np.concatenate([self.times, times]), np.concatenate([self._labels, labels])
            predictions = {name: np.concatenate([self._predictions[name], of]) for name, of in predictions.items()}
        count = int(np.searchsorted(times, times[-1] - self.wait, side="right"))
        self.restore(times[count:], labels[count:], {name: of[count:] for name, of in predictions.items()})
        return labels[:count], {name: of[:count] for name, of in predictions.items()}

    def restore(self, times: Ints, labels: Floats, predictions: Mapping[str, Floats]) -> None:
        """Hold back the rows of a checkpoint instead."""
        self.times, self._labels, self._predictions = times, labels, predictions
