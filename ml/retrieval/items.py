"""The live items of a dataset with the columns that describe them: logged columns, joined columns and trailing counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, day_bounds, trailing_days
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.features.point_in_time.trailing_counts import recent_counts
from ml.features.side_join import index_join
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.retrieval.catalogue import Catalogue, LiveItems
from ml.schema import EVENT_TIME
from ml.stages import RAW_LOGS


def logged_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of the log that describe the item: the item itself, and `item_columns` of the entry."""
    return list(dict.fromkeys([item_column(spec), *spec.item_columns]))


def item_columns(spec: DatasetSpec) -> list[str]:
    """Return all columns that describe the item: of the log, of tables that are joined on these, and trailing counts."""
    columns = logged_columns(spec)
    for side in spec.join:
        if side.log_key in columns:
            columns += [name for name in side.columns if name not in columns]
    return columns + list(spec.label.negatives.recent if spec.label.negatives else ())


def item_column(spec: DatasetSpec) -> str:
    """Return the column that identifies the item.

    Raises:
        ValueError: The dataset declares none.
    """
    if spec.item is None:
        raise ValueError(f"{spec.name}: the catalog entry has no `item`, so there are no items to recommend")
    return spec.item


def read_catalogue(spec: DatasetSpec, day: str, lake: Lake) -> Catalogue:
    """Read the rows that make items live at the end of a day.

    Args:
        spec: A dataset with an item.
        day: `YYYY-MM-DD`.
        lake: Where raw logs are stored.

    Returns:
        The catalogue, whose features are the columns of `logged_columns`.

    Raises:
        MissingPartition: The day has not been ingested.
    """
    window = round(spec.live_hours * MICROSECONDS_PER_HOUR)
    since = day_bounds(day, spec.zone)[1] - window
    columns, item = logged_columns(spec), item_column(spec)
    catalogue = Catalogue(window)
    for other in days_since(spec, day, lake, since):
        for part in map(UPath, raw_parts(lake, spec.name, other)):
            rows = pq.read_table(part.path, columns=[EVENT_TIME, *columns], filesystem=part.fs)
            rows = rows.slice(int(np.searchsorted(rows[EVENT_TIME].to_numpy(), since)))
            if len(rows):
                ids = hash_values("item", rows[item].combine_chunks())
                catalogue.add(rows[EVENT_TIME].to_numpy(), ids, rows.select(columns))
    return catalogue


def days_since(spec: DatasetSpec, day: str, lake: Lake, since: int, stage: str = RAW_LOGS) -> list[str]:
    """Return the days that a stage has from `since` to a day, ascending; the day itself even if the lake lacks it."""
    earlier = [other for other in trailing_days(day, 8) if day_bounds(other, spec.zone)[1] > since]
    return [*(other for other in earlier if other >= spec.first_day and lake.has(stage, spec.name, other)), day]


def described(
    spec: DatasetSpec, live: LiveItems, sides: Sequence[pa.Table], now: int, events: Events | None = None
) -> pa.Table:
    """Add joined columns and trailing counts to live items.

    Args:
        spec: The dataset.
        live: L items with the columns of `logged_columns`.
        sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.
        now: Microseconds since 1970 UTC, as of which events are counted.
        events: The log, from the longest window before `now` on; only needed if the dataset counts events.

    Returns:
        L rows with the columns of `item_columns`, in the order of the items.
    """
    table = live.features
    for side, held in zip(spec.join, sides, strict=True):
        if side.log_key in table.column_names:
            table, _ = index_join(table, side.log_key, held, side.table_key, side.columns)
    negatives = spec.label.negatives
    if negatives and negatives.recent and events is not None:
        for name, counts in recent_counts(events, live.ids, np.full(len(live), now), negatives).items():
            table = table.append_column(name, pa.array(counts))
    return table.select(item_columns(spec))
