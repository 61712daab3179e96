"""Rows that were touched since recent deltas, so that the next delta does not read the step of every row.

Recording begins with the first delta. It stops once reading all steps is cheaper than the record, which is the case for about a
quarter of the rows. Snapshots do not contain the record: the first delta after a restore reads all steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOTHING = -1
"""Value of `mark` while nothing is recorded: no row has a step this early."""
_LEAST = 1024


@dataclass(frozen=True)
class _Span:
    """Rows that were touched after a step, until the next span begins."""

    after: int
    rows: list[NDArray[np.int64]]


class TouchedRows:
    """Lists of the rows that were updated or admitted, divided at the steps at which deltas were created.

    A row is recorded when its step rises above `mark`, so the lists have each row about once per span.

    Example:
        >>> touched = TouchedRows()
        >>> touched.since(3) is None, touched.mark
        (True, -1)
        >>> touched.begin(3, np.empty(0, np.int64))
        >>> touched.add(np.array([7, 5]), used=100)
        >>> touched.since(3).tolist(), touched.since(2) is None, touched.mark
        ([5, 7], True, 3)
    """

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._recorded = 0

    @property
    def mark(self) -> int:
        """Rows whose step is later are recorded already; `NOTHING` while nothing is recorded."""
        return self._spans[-1].after if self._spans else NOTHING

    def begin(self, step: int, rows: NDArray[np.int64]) -> None:
        """Begin a new span.

        Args:
            step: The current step.
            rows: Rows that have a later step already, because they were admitted and await an update, int64 [N].
        """
        if self.mark != step:
            self._spans.append(_Span(step, [rows]))
            self._recorded += len(rows)

    def add(self, rows: NDArray[np.int64], used: int) -> None:
        """Record rows, int64 [N]. `used` is the number of rows that a delta would read instead."""
        if self._spans and len(rows):
            self._spans[-1].rows.append(rows)
            self._recorded += len(rows)
            if self._recorded > max(used // 4, _LEAST):
                self.clear()

    def since(self, step: int) -> NDArray[np.int64] | None:
        """Return all rows that were touched after a step, int64 [N], in ascending order.

        Rows that were touched between the beginning of a span and the step, or were deleted, may be among them.

        Returns:
            The rows; None if they were not recorded.
        """
        if not self._spans or self._spans[0].after > step:
            return None
        first = max(number for number, span in enumerate(self._spans) if span.after <= step)
        return np.unique(np.concatenate([part for span in self._spans[first:] for part in span.rows]))

    def trim(self, step: int) -> None:
        """Delete what only deltas since an earlier step than this need."""
        while len(self._spans) > 1 and self._spans[1].after <= step:
            self._recorded -= sum(map(len, self._spans.pop(0).rows))

    def clear(self) -> None:
        """Delete all, and record nothing until the next span begins."""
        self._spans.clear()
        self._recorded = 0
