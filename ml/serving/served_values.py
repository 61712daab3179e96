"""Compares the values of feature tables that requests were served with values that are computed again from the lake.

Each answered item of the log of served features is looked up again as of the instant of its request, in the events that
`feature_tables` of the lake holds. A served value may differ because the service did not know an event yet: a new event counts
from the next refresh on, and one that was not sent to the service counts when its day is loaded. The lag explains a difference
if the events that the service did know, which its log has, give the served value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_SECOND, day_bounds
from ml.features.event_days import event_parts, read_events
from ml.features.online_store.differences import QUANTILES, Differences, compare_rows, compare_value
from ml.features.point_in_time.event_log import ARRIVED, EventLog, event_schema, table_days
from ml.features.point_in_time.feature_tables import EntityQueries, TableEvents
from ml.lake import Lake, is_local
from ml.schema import EVENT_TIME
from ml.serving.served_log import FOLDER, LOADED_UNTIL, PROCESS, REFRESHED_AT, REQUEST_ID
from ml.stages import FEATURE_TABLES

MOST_REFRESHES = 200
"""Refreshes that are computed by themselves to explain differences. Rows of others that differ are unexplained."""


@dataclass(frozen=True)
class ServedComparison:
    """The comparison of a day.

    Attributes:
        differences: For each value.
        rows: Number of answered items.
        requests: Number of requests.
        lag_seconds: Quantiles of the time from an event to the refresh that counted it, of the day's received events.
    """

    differences: list[Differences]
    rows: int
    requests: int
    lag_seconds: dict[float, float]

    @property
    def unexplained(self) -> int:
        """Values that do not follow from the events that the service knew."""
        return sum(found.unexplained for found in self.differences)


def compare_served(spec: DatasetSpec, day: str, lake: Lake, stream: UPath) -> ServedComparison | None:
    """Compare the values that requests of a day were served with values from the lake.

    Args:
        spec: A dataset with feature tables and an item.
        day: `YYYY-MM-DD`.
        lake: Where `feature_tables` of the day and of the days that its windows reach are stored.
        stream: The dataset's stream folder.

    Returns:
        The comparison; None if the day has no served requests.

    Raises:
        MissingPartition: The events of the day are not in the lake.
    """
    start, end = day_bounds(day, spec.zone)
    since = start - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR)
    rows = _read(stream, "rows", (pc.field(EVENT_TIME) >= start) & (pc.field(EVENT_TIME) < end))
    if rows is None or not len(rows):
        return None
    rows = rows.sort_by([(PROCESS, "ascending"), (EVENT_TIME, "ascending")])
    held = [other for other in table_days(spec, day) if lake.has(FEATURE_TABLES, spec.name, other)]
    lake.require(FEATURE_TABLES, spec.name, day)
    log = read_events(spec, [p for other in (*held, day) for p in event_parts(lake, spec.name, other)], since, end)
    received = _read(stream, "events", pc.field(EVENT_TIME) >= since)
    if received is None:
        received = _marked(event_schema(spec)).empty_table()
    known = [_known_values(spec, part, *of) for part, of in _by_process(spec, rows, log, received)]
    differences = []
    for name, offline in _values(spec, rows, log).items():
        explained = pa.chunked_array([of[name] for of in known]).combine_chunks()
        differences.append(compare_value(name, rows[name].combine_chunks(), offline, explained))
    today = received.filter(pa.array(received[EVENT_TIME].to_numpy() >= start))
    lag = (today[REFRESHED_AT].to_numpy() - today[EVENT_TIME].to_numpy()) / MICROSECONDS_PER_SECOND
    quantiles = {q: float(np.quantile(lag, q)) for q in QUANTILES} if len(lag) else {}
    return ServedComparison(differences, len(rows), len(rows[REQUEST_ID].unique()), quantiles)


def _read(stream: UPath, kind: str, kept: pc.Expression) -> pa.Table | None:
    if not is_local(stream):  # a service writes to a local folder
        return None
    paths = sorted(map(str, Path(stream.path, FOLDER).glob(f"{kind}-*.parquet")))
    return ds.dataset(paths, format="parquet").to_table(filter=kept).combine_chunks() if paths else None


def _marked(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field(REFRESHED_AT, pa.int64())).append(pa.field(PROCESS, pa.string()))


def _by_process(
    spec: DatasetSpec, rows: pa.Table, log: EventLog, received: pa.Table
) -> Iterator[tuple[pa.Table, tuple[EventLog, NDArray[np.int64]]]]:
    """Yield the rows that each process has served, with the events that it knew and the refresh that took each of them."""
    for process in dict.fromkeys(rows[PROCESS].to_pylist()):
        own = rows.filter(pc.call_function("equal", [rows[PROCESS], process]))
        end = own[LOADED_UNTIL][0].as_py()
        loaded = log.as_of(end).rows.filter(pc.field(EVENT_TIME) < end)
        sent = received.filter(pc.field(PROCESS) == process)
        events = pa.concat_tables([loaded, EventLog.of(spec, sent).rows])
        taken = np.concatenate([np.zeros(len(loaded), np.int64), sent[REFRESHED_AT].to_numpy()])
        order = np.argsort(events[EVENT_TIME].to_numpy(), kind="stable")
        yield own, (EventLog(events.take(pa.array(order)).combine_chunks()), taken[order])


def _known_values(spec: DatasetSpec, rows: pa.Table, log: EventLog, taken: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Compute the values of rows from the events that the refresh of each row, and those before it, had taken.

    A refresh is nearly always the newest one before the instants of its rows. So the events are first known from the time of
    their refresh on, for all rows at once. Only rows that differ then are computed for each refresh by itself.

    Args:
        spec: The dataset.
        rows: N rows of one process.
        log: E events.
        taken: int64 [E], the refresh that took each event.

    Returns:
        An array [N] for each column.
    """
    arrived = pa.array(np.maximum(log.rows[ARRIVED].to_numpy(), taken))
    found = _values(spec, rows, EventLog(log.rows.set_column(log.rows.column_names.index(ARRIVED), ARRIVED, arrived)))
    differs = np.any([compare_rows(rows[name].combine_chunks(), values) for name, values in found.items()], axis=0)
    refreshed, place = rows[REFRESHED_AT].to_numpy(), np.arange(len(rows))
    parts, more = [found], len(rows)
    for at in np.unique(refreshed[differs]).tolist()[:MOST_REFRESHES]:
        own = np.flatnonzero(differs & (refreshed == at))
        parts.append(_values(spec, rows.take(pa.array(own)), EventLog(log.rows.filter(pa.array(taken <= at)))))
        place[own] = more + np.arange(len(own))
        more += len(own)
    return {name: pa.concat_arrays([part[name] for part in parts]).take(pa.array(place)) for name in found}


def _values(spec: DatasetSpec, rows: pa.Table, log: EventLog) -> dict[str, pa.Array]:
    """Compute the values of rows as of their instants, by column."""
    found = {}
    for table in spec.feature_tables:
        for name, values in TableEvents(table, spec, log).columns(EntityQueries.of(rows, table)):
            found[name] = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return found
