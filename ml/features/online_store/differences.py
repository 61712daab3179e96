"""Differences of served values from values that are computed from the log, with the metrics that Chronon publishes.

For each value: rows in which both are present and differ, rows that were served without a value, rows that were served with a
value too many, and the distribution of the differences. Lists are compared by edit distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

RELATIVE = 1e-9
"""Largest relative difference of floats that are equal. Sums of fractions depend on the order of their terms."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Differences:
    """Served values of one kind, compared with values computed from the log.

    Attributes:
        value: Name of the value.
        rows: Number of rows.
        mismatches: Rows in which both have a value, and the values differ.
        missing: Rows in which only the log gives a value.
        extra: Rows in which only a value was served.
        unexplained: Rows that differ also from the values of the events that the store had received.
        smape: Symmetric mean absolute percentage error of numbers, 0 to 2; None for lists.
        distance: Mean edit distance of lists; None for numbers.
        quantiles: Quantiles of the absolute differences of numbers, or of the edit distances; over rows in which both have a
            value.
    """

    value: str
    rows: int
    mismatches: int
    missing: int
    extra: int
    unexplained: int
    smape: float | None
    distance: float | None
    quantiles: dict[float, float]

    @property
    def differing(self) -> int:
        """Rows that differ in any way."""
        return self.mismatches + self.missing + self.extra


def compare_value(value: str, served: pa.Array, offline: pa.Array, explained: pa.Array | None = None) -> Differences:
    """Compare the values of N rows.

    Args:
        value: Name of the value.
        served: Values that the store answered: numbers, or lists.
        offline: Values that are computed from the log, of the same type.
        explained: Values that are computed from the events that the store had received; by default it had all of them.

    Returns:
        Their differences. An empty list counts as no value.

    Example:
        >>> found = compare_value("seen", pa.array([1, 2, None]), pa.array([1, 4, 5]))
        >>> found.mismatches, found.missing, found.quantiles[1.0]
        (1, 1, 2.0)
    """
    here, there = _present(served), _present(offline)
    both = here & there
    distances = _distances(served.filter(pa.array(both)), offline.filter(pa.array(both)))
    differs = np.zeros(len(served), np.bool_)
    differs[both] = distances > 0
    differs |= here != there
    unexplained = differs if explained is None else differs & compare_rows(served, explained)
    is_list = pa.types.is_list(served.type)
    return Differences(
        value=value,
        rows=len(served),
        mismatches=int((distances > 0).sum()),
        missing=int((there & ~here).sum()),
        extra=int((here & ~there).sum()),
        unexplained=int(unexplained.sum()),
        smape=None if is_list else _smape(served, offline, both),
        distance=(float(distances.mean()) if len(distances) else 0.0) if is_list else None,
        quantiles={q: float(np.quantile(distances, q)) if len(distances) else 0.0 for q in QUANTILES},
    )


def compare_rows(served: pa.Array, offline: pa.Array) -> NDArray[np.bool_]:
    """Return whether each of N rows differs, bool [N]."""
    here, there = _present(served), _present(offline)
    both = pa.array(here & there)
    differs = here != there
    differs[here & there] = _distances(served.filter(both), offline.filter(both)) > 0
    return differs


def _present(values: pa.Array) -> NDArray[np.bool_]:
    if pa.types.is_list(values.type):
        return pc.call_function("list_value_length", [values]).fill_null(0).to_numpy(zero_copy_only=False) > 0
    return values.is_valid().to_numpy(zero_copy_only=False)


def _distances(served: pa.Array, offline: pa.Array) -> NDArray[np.float64]:
    """Return absolute differences, 0 within the tolerance, or edit distances, float64 [N]."""
    if pa.types.is_list(served.type):
        pairs = zip(served.to_pylist(), offline.to_pylist(), strict=True)
        return np.array([0 if one == other else _edits(one, other) for one, other in pairs], np.float64)
    a, b = _floats(served), _floats(offline)
    distances = np.abs(a - b)
    return np.where(distances <= RELATIVE * np.maximum(np.abs(a), np.abs(b)), 0.0, distances)


def _smape(served: pa.Array, offline: pa.Array, both: NDArray[np.bool_]) -> float:
    a, b = _floats(served.filter(pa.array(both))), _floats(offline.filter(pa.array(both)))
    size = np.abs(a) + np.abs(b)
    shares = np.divide(2 * np.abs(a - b), size, out=np.zeros(len(a)), where=size > 0)
    return float(shares.mean()) if len(shares) else 0.0


def _floats(values: pa.Array) -> NDArray[np.float64]:
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _edits(one: list, other: list) -> int:
    """Return the number of insertions, deletions and replacements that turn a list into another (Levenshtein, 1966)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
