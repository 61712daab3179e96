"""Slices of a scored day: by hour, by the most frequent values of a column, by new and known items and users.

This module assigns rows to slices and computes the metrics of each value. The values of a slice cover the whole day.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.evaluation.rows import chunks
from ml.lake import Lake
from ml.metrics import ClickSums, auc_of_sorted, count_clicks, metrics_of
from ml.schema import EVENT_TIME, ITEM_KEY, SLICE_PREFIX, USER_KEY

TOP_VALUES = 12
OTHER, MISSING = "(all others)", "(missing)"
PARTS = 24


@dataclass(frozen=True)
class Slice:
    """One way to partition N rows: `code` [N] is the index of each row's value in `values`."""

    name: str
    title: str
    values: tuple[str, ...]
    code: NDArray[np.int64]


def key_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of the feature table that define slices."""
    keys = [ITEM_KEY] * (spec.item is not None) + [USER_KEY] * (spec.user is not None)
    return [EVENT_TIME, *keys, *(SLICE_PREFIX + name for name in spec.slices)]


def known_keys(lake: Lake, spec: DatasetSpec, days: Iterable[str]) -> dict[str, NDArray[np.int64]]:
    """Return the sorted distinct item and user keys in the features of some days, by column."""
    columns = [name for name in (ITEM_KEY, USER_KEY) if name in key_columns(spec)]
    seen: dict[str, list[pa.Array]] = {name: [pa.array([], pa.int64())] for name in columns}
    for day in days if columns else ():
        for chunk in chunks(lake, spec, day, columns):
            for name in columns:
                seen[name].append(chunk.column(name).unique())
    return {name: np.unique(pa.chunked_array(found).to_numpy()) for name, found in seen.items()}


def slices_of(spec: DatasetSpec, keys: pa.Table, known: dict[str, NDArray[np.int64]]) -> list[Slice]:
    """Return every slice of a day.

    Args:
        spec: The dataset.
        keys: The columns `key_columns` of N rows.
        known: The result of `known_keys`; empty on a first day.
    """
    slices = [_by_hour(spec, keys.column(EVENT_TIME))]
    for column, what in ((ITEM_KEY, "item"), (USER_KEY, "user")):
        if column in known:
            code = np.isin(keys.column(column).to_numpy(), known[column]).astype(np.int64)
            title = f"New and known {what}s"
            slices.append(Slice(f"known_{what}", title, (f"new {what}", f"known {what}"), code))
    slices += [_most_frequent(name, keys.column(SLICE_PREFIX + name)) for name in spec.slices]
    return slices


def score_slices(
    slices: list[Slice],
    labels: NDArray[Any],
    model: NDArray[Any] | None,
    baseline: NDArray[Any] | None,
    ranks_only: bool = False,
) -> list[dict[str, Any]]:
    """Compute the metrics of each value of each slice that has rows, for `metrics.json`.

    Args:
        slices: Ways to partition the N rows.
        labels: Labels [N].
        model: Probabilities [N]; without a model, only rows and clicks are counted.
        baseline: Probabilities [N] of the logistic regression, whose AUC on the same rows is added.
        ranks_only: True if the model's predictions only order rows.

    Returns:
        One entry per slice: `name`, `title` and `values`.
    """
    # Rows are sorted by score once. The rows of each value are then in order too, and no slice has to sort floats.
    by_model, by_baseline = (None if scores is None else np.argsort(scores, kind="stable") for scores in (model, baseline))
    scored = []
    for part in slices:
        count = len(part.values)
        of_model = _rows_by_value(part.code, count, by_model if by_model is not None else np.arange(len(labels)))
        of_baseline = None if by_baseline is None else _rows_by_value(part.code, count, by_baseline)
        values = []
        for number, (value, rows) in enumerate(zip(part.values, of_model, strict=True)):
            if not len(rows):
                continue
            found = count_clicks(labels[rows])
            if model is None:
                found |= metrics_of(None, None)
            else:
                sums = None if ranks_only else ClickSums.of(labels[rows], model[rows])
                found |= metrics_of(sums, auc_of_sorted(labels[rows] > 0.5, model[rows]), ranks_only)
            beside = None
            if baseline is not None and of_baseline is not None:
                beside = auc_of_sorted(labels[of_baseline[number]] > 0.5, baseline[of_baseline[number]])
            values.append({"value": value, **found, "logistic_regression_auc": beside})
        scored.append({"name": part.name, "title": part.title, "values": values})
    return scored


def _rows_by_value(code: NDArray[np.int64], count: int, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each of `count` values, in the order of `order` [N]."""
    # numpy's stable sort of 16-bit integers is a radix sort.
    grouped = order[np.argsort(code[order].astype(np.int16), kind="stable")]
    return np.split(grouped, np.cumsum(np.bincount(code, minlength=count))[:-1])


def _by_hour(spec: DatasetSpec, event_time: pa.ChunkedArray) -> Slice:
    if spec.time.by_position:
        title = "By part of the day (the log has no times; parts are equal, by position)"
        n = len(event_time)
        code = np.arange(n) * PARTS // max(n, 1)
        return Slice("part_of_day", title, tuple(f"{part + 1} of {PARTS}" for part in range(PARTS)), code)
    local = pc.call_function("hour", [event_time.cast(pa.timestamp("us", tz=spec.time.timezone))])
    title = f"By hour of the day ({spec.time.timezone})"
    return Slice("hour", title, tuple(f"{hour:02d}:00" for hour in range(24)), local.to_numpy().astype(np.int64))


def _most_frequent(name: str, column: pa.ChunkedArray) -> Slice:
    """Slice by the `TOP_VALUES` most frequent values (ties by value), all other values, and missing values."""
    held = column.combine_chunks().dictionary_encode()
    values = [*held.dictionary.to_pylist(), MISSING]
    code = held.indices.fill_null(len(values) - 1).to_numpy().astype(np.int64)
    counts = np.bincount(code, minlength=len(values)).tolist()
    top = sorted(range(len(values) - 1), key=lambda i: (-counts[i], values[i]))[:TOP_VALUES]
    place = np.full(len(values), len(top), np.int64)
    place[top] = np.arange(len(top))
    place[-1] = len(top) + 1
    return Slice(name, f"By {name}", (*(values[i] for i in top), OTHER, MISSING), place[code])
