"""Loads the past events that the two stages need: the events up to the end of a day, and those of feature tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.features.event_days import event_parts, read_events
from ml.features.point_in_time.event_log import table_days
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.retrieval.items import days_since
from ml.schema import EVENT_TIME
from ml.serving.catalogue import LiveCatalogue
from ml.serving.events import EventWindow
from ml.serving.feature_tables import ServedTables
from ml.serving.recommender import Recommender
from ml.serving.served_log import ServedLog
from ml.stages import FEATURE_TABLES

_log = logging.getLogger("evergreen")


def recommender_at(
    spec: DatasetSpec, lake: Lake, day: str, sides: Sequence[pa.Table] = (), served: ServedLog | None = None
) -> Recommender:
    """Build the two stages with the events up to the end of a day. The live items appear with the first refresh.

    Args:
        spec: A dataset with an item.
        lake: Where logs are stored.
        day: `YYYY-MM-DD`.
        sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.
        served: Where served values of feature tables are logged; None to log none.

    Raises:
        MissingPartition: The day has not been ingested.
    """
    window = EventWindow(spec)
    since = window.reach(day_bounds(day, spec.zone)[1] - 1)
    stage = spec.examples_log.stage
    for other in window_days(spec, lake, day):
        for part in map(UPath, raw_parts(lake, spec.name, other, stage)):
            rows = pq.read_table(part.path, columns=window.columns, filesystem=part.fs)
            window.load(rows.filter(pa.array(rows[EVENT_TIME].to_numpy() >= since)))
    return Recommender(spec, window, LiveCatalogue(spec, window, sides, _tables(spec, lake, day, served)), sides)


def window_days(spec: DatasetSpec, lake: Lake, day: str) -> list[str]:
    """Return the days of the log that `recommender_at` reads, ascending."""
    since = EventWindow(spec).reach(day_bounds(day, spec.zone)[1] - 1)
    return days_since(spec, day, lake, since, spec.examples_log.stage)


def feature_table_days(spec: DatasetSpec, lake: Lake, day: str) -> list[str]:
    """Return the days of `feature_tables` that `recommender_at` reads, ascending."""
    if not spec.feature_tables:
        return []
    return [other for other in (*table_days(spec, day), day) if lake.has(FEATURE_TABLES, spec.name, other)]


def _tables(spec: DatasetSpec, lake: Lake, day: str, served: ServedLog | None) -> ServedTables:
    """Load the events that feature tables need at the end of a day."""
    tables, end = ServedTables(spec, served), day_bounds(day, spec.zone)[1]
    if spec.feature_tables:
        days = feature_table_days(spec, lake, day)
        if day not in days:
            _log.warning("%s has no %s of %s: values of feature tables begin without events", spec.name, FEATURE_TABLES, day)
        parts = [part for other in days for part in event_parts(lake, spec.name, other)]
        tables.load(read_events(spec, parts, end - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR), end))
    return tables
