"""Sketches, from which profiles are computed. Sketches of parts and of days merge without reading their rows again.

Counts are exact up to the limits of `id_counts` and `value_counts`, and their errors are stated beyond. Merging sketches gives
the same sketch as measuring all rows at once, except for the last digits of means and for `IdCounts.heavy_counts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import sqrt
from operator import add

import numpy as np
import numpy.typing as npt

from ml.advisor.profiles.crosses import best_crosses
from ml.advisor.profiles.frequency import frequencies, zipf_exponent
from ml.advisor.profiles.id_counts import IdCounts, merge_counts
from ml.advisor.profiles.profile import HOURS, QUANTILES, DenseProfile, FeatureProfile, SparseProfile
from ml.advisor.profiles.row_sample import RowSample, merge_samples
from ml.advisor.profiles.value_counts import ValueCounts, merge_values
from ml.quality.histogram import BUCKETS, Histogram


@dataclass(frozen=True, eq=False)
class DenseSketch:
    """One dense feature of N rows.

    Attributes:
        values: Counts of its values.
        missing: Rows with the value of a missing input.
        integers: Whether all values are whole numbers.
        mean: Mean of the values; 0.0 without rows.
        squares: Sum of squared distances from the mean.
    """

    values: ValueCounts = field(default_factory=ValueCounts)
    missing: int = 0
    integers: bool = True
    mean: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, eq=False)
class SparseSketch:
    """One sparse feature.

    Attributes:
        ids: Counts of its ids, without those missing or out of vocabulary.
        histogram: Counts of all its ids by bucket.
        empty: Rows without an id.
        ids_by_day: Number of distinct ids up to each day; empty for a part of a day.
    """

    ids: IdCounts = field(default_factory=IdCounts)
    histogram: Histogram = field(default_factory=lambda: Histogram(0, 0, (0,) * BUCKETS))
    empty: int = 0
    ids_by_day: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sketch of a part of a day, of a day, or of several days.

    Attributes:
        dataset: Name of the dataset.
        days: The days, in order.
        rows: Rows by hour of the day, int64 [24].
        positives: Rows with label 1 by hour, int64 [24].
        bytes: Size of the features' files.
        dense: Sketch by dense feature.
        sparse: Sketch by sparse feature.
        sample: Sample of the rows.
    """

    dataset: str
    days: tuple[str, ...]
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HOURS, np.int64))
    positives: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(HOURS, np.int64))
    bytes: int = 0
    dense: Mapping[str, DenseSketch] = field(default_factory=dict)
    sparse: Mapping[str, SparseSketch] = field(default_factory=dict)
    sample: RowSample = field(default_factory=RowSample)


def merge_parts(parts: Sequence[Sketch]) -> Sketch:
    """Merges sketches of disjoint parts of the same day, in the order of the rows."""
    first = parts[0]
    return Sketch(
        dataset=first.dataset,
        days=first.days,
        rows=sum_arrays([part.rows for part in parts]),
        positives=sum_arrays([part.positives for part in parts]),
        bytes=sum(part.bytes for part in parts),
        dense={name: _merge_dense([(part.dense[name], int(part.rows.sum())) for part in parts]) for name in first.dense},
        sparse={name: _merge_sparse([part.sparse[name] for part in parts]) for name in first.sparse},
        sample=merge_samples([part.sample for part in parts]),
    )


def merge_days(sketches: Sequence[Sketch]) -> Sketch:
    """Merges sketches of days.

    Args:
        sketches: Sketches of a dataset, in the order of their days. All except the first are of one day each, so that the
            number of ids up to each day is known.

    Raises:
        ValueError: There is no sketch, days are not in order, or a later sketch has several days.
    """
    if not sketches:
        raise ValueError("no feature profile to merge; expected at least one")
    days = [day for sketch in sketches for day in sketch.days]
    if days != sorted(set(days)) or any(len(sketch.days) > 1 for sketch in sketches[1:]):
        raise ValueError(f"feature profiles merge day by day in the order of their days, found {days}")
    return reduce(_next_day, sketches)


def _next_day(before: Sketch, day: Sketch) -> Sketch:
    merged = merge_parts([before, day])
    sparse = {
        name: SparseSketch(s.ids, s.histogram, s.empty, (*before.sparse[name].ids_by_day, s.ids.distinct))
        for name, s in merged.sparse.items()
    }
    return Sketch(
        merged.dataset,
        before.days + day.days,
        merged.rows,
        merged.positives,
        merged.bytes,
        merged.dense,
        sparse,
        merged.sample,
    )


def sum_arrays(arrays: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Adds arrays of the same shape."""
    return np.sum(arrays, axis=0)


def _merge_sparse(parts: Sequence[SparseSketch]) -> SparseSketch:
    return SparseSketch(
        merge_counts([part.ids for part in parts]),
        reduce(add, (part.histogram for part in parts)),
        sum(part.empty for part in parts),
    )


def _merge_dense(parts: Sequence[tuple[DenseSketch, int]]) -> DenseSketch:
    mean, squares, rows = 0.0, 0.0, 0
    for part, count in parts:  # Chan, Golub and LeVeque (1979)
        if count:
            distance, rows = part.mean - mean, rows + count
            squares += part.squares + distance * distance * (rows - count) * count / rows
            mean += distance * count / rows
    return DenseSketch(
        merge_values([part.values for part, _ in parts]),
        sum(part.missing for part, _ in parts),
        all(part.integers for part, _ in parts),
        mean,
        squares,
    )


def summarise(sketch: Sketch, drift: Mapping[str, float | None]) -> FeatureProfile:
    """Computes the profile of a sketch.

    Args:
        sketch: Sketch of one or more days.
        drift: Drift of each feature; see `ml.advisor.profiles.drift`.
    """
    rows = int(sketch.rows.sum())
    by_hour = zip(sketch.rows.tolist(), sketch.positives.tolist(), strict=True)
    return FeatureProfile(
        dataset=sketch.dataset,
        days=sketch.days,
        rows=rows,
        positives=int(sketch.positives.sum()),
        label_rate_by_hour=tuple(positives / count if count else None for count, positives in by_hour),
        bytes=sketch.bytes,
        dense={name: _dense_profile(dense, rows) for name, dense in sketch.dense.items()},
        sparse={name: _sparse_profile(sparse, rows) for name, sparse in sketch.sparse.items()},
        crosses=best_crosses(sketch.sample, rows),
        drift=drift,
    )


def _dense_profile(dense: DenseSketch, rows: int) -> DenseProfile:
    values = dense.values
    return DenseProfile(
        missing=dense.missing / max(rows, 1),
        mean=dense.mean,
        std=sqrt(dense.squares / max(rows, 1)),
        quantiles=dict(zip(QUANTILES, values.quantiles(QUANTILES).tolist(), strict=True)) if rows else {},
        integers=dense.integers,
        distinct=values.distinct,
        quantiles_error=values.error,
        distinct_error=values.distinct_error,
    )


def _sparse_profile(sparse: SparseSketch, rows: int) -> SparseProfile:
    ids, histogram = sparse.ids, sparse.histogram
    occurrences, known = histogram.known, histogram.known + histogram.out_of_vocabulary
    top = int(ids.frequent[1].max(initial=0))
    return SparseProfile(
        ids=ids.distinct,
        ids_error=ids.error,
        ids_by_day=sparse.ids_by_day,
        occurrences=occurrences,
        missing=sparse.empty / max(rows, 1),
        mean_length=known / max(rows, 1),
        singles=float(np.count_nonzero(ids.counts == 1)) / max(len(ids.counts), 1),
        frequency=frequencies(ids),
        zipf=zipf_exponent(ids),
        top_share=top / max(occurrences, 1),
        top_error=ids.heavy_error / max(occurrences, 1),
        out_of_vocabulary=histogram.out_of_vocabulary / max(known, 1),
    )
