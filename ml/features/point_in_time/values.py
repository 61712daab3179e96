"""Rules that turn counts, sums and last events into values of feature tables, for daily features and the online store.

If negatives are sampled, every sampled item has an event in the sampling window. A value that showed that an item has no event
in that window, or in a longer one, would therefore mark a positive.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.feature_tables import FeatureTable, RateValue
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_SECOND

SECONDS_PER_HOUR = MICROSECONDS_PER_HOUR // MICROSECONDS_PER_SECOND


def span_of(hours: float) -> int:
    """Returns the length of a window in microseconds."""
    return round(hours * MICROSECONDS_PER_HOUR)


def sampling_hours(spec: DatasetSpec, table: FeatureTable) -> float | None:
    """Returns the length of the sampling window if the table's events are those that negatives are sampled from, else None."""
    negatives = spec.label.negatives
    return negatives.window_hours if negatives and not table.where and table.entity == (spec.item,) else None


def count_value(counts: NDArray[np.int64], hours: float, sampling: float | None) -> NDArray[np.int64]:
    """Returns counts (int64 [N]); at least 1 in a window that would reveal the label."""
    return np.maximum(counts, 1) if sampling is not None and hours >= sampling else counts


def rate_numbers(values: pa.Array | pa.ChunkedArray, at_least: float | None) -> NDArray[np.float64]:
    """Returns the numbers whose mean a rate is (float64 [N]); NaN for values that are missing, which infinities are.

    Args:
        values: Numbers or booleans, [N].
        at_least: Replaces values by 1 where they are at or above this, and by 0 elsewhere.
    """
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if at_least is None:
        return np.where(np.isfinite(numbers), numbers, np.nan)
    return np.where(np.isnan(numbers), np.nan, (numbers >= at_least).astype(np.float64))


def rate_value(total: NDArray[np.float64], count: NDArray[np.int64], rate: RateValue) -> NDArray[np.float64]:
    """Returns the smoothed means (float64 [N]) of sums over numbers of values."""
    return (total + rate.prior * rate.strength) / (count + rate.strength)


def recency_value(elapsed: NDArray[np.float64], hours: float, sampling: float | None) -> NDArray[np.float64]:
    """Returns recencies in seconds (float64 [N]).

    Args:
        elapsed: float64 [N], microseconds since the last event; NaN without one.
        hours: Length of the window.
        sampling: Length of the sampling window, see `sampling_hours`. A longer recency is shortened to it.
    """
    seconds = elapsed / MICROSECONDS_PER_SECOND
    return np.fmin(seconds, sampling * SECONDS_PER_HOUR) if sampling is not None and hours >= sampling else seconds
