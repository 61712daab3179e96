"""Features of pairs of a click and a live item: crosses of both, and values of feature tables as of the click's instant.

A feature of the user or the session is read from the row of the click, and a feature of the item from the item's last row. The
features of this module depend on both, or on the instant, so they are computed for each pair. Events, kernels and transforms
are the same as for the rows of the day.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec, FeatureTable
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.evaluation.rows import chunks
from ml.features.event_days import event_parts, read_events
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import column_keys, table_days
from ml.features.point_in_time.feature_tables import EntityQueries, TableEvents
from ml.features.point_in_time.windows import EVER, Timeline
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.logs.ingest_task import raw_schema
from ml.logs.read import raw_parts
from ml.parquet import read_parquet
from ml.retrieval.items import item_column, logged_columns
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL
from ml.stages import CLEANED_FEATURES

RAW = "raw:"
"""Prefix of the columns of the log in the rows of requests."""


class PairFeatures:
    """Computes features of pairs of a click of a day and an item.

    Args:
        spec: A dataset with an item.
        day: The day of the clicks, `YYYY-MM-DD`.
        lake: Where logs, events of feature tables and vocabularies are stored.
        earlier: Days before `day` whose rows make items live, ascending.
        since: First event time at which a row makes its item live, in microseconds.
        names: The features to compute, as `pair_features` of `ItemScorer` names them.

    Raises:
        MissingPartition: The log, or the events of feature tables, of a day are not in the lake.
        ValueError: The features of the day belong to another state of its log.
    """

    def __init__(
        self, spec: DatasetSpec, day: str, lake: Lake, earlier: Sequence[str], since: int, names: Sequence[str]
    ) -> None:
        self.names, self._spec = tuple(names), spec
        inputs = {column for name in names for column in feature_inputs(spec)[name]}
        self._tables = [table for table in spec.feature_tables if inputs & {value.name for value in table.values}]
        self._values = inputs & set(spec.table_values)
        self._plain = sorted(inputs - self._values)
        used = {*self._plain, *(column for table in self._tables for column in table.row_columns)}
        self._of_item = sorted(used & set(logged_columns(spec)))
        self._of_request = sorted(used - set(self._of_item))
        columns = list(dict.fromkeys([EVENT_TIME, item_column(spec), *self._of_item, *self._of_request]))
        before, of_day = (_read(spec, lake, days, columns) for days in (earlier, [day]))
        self._requests = of_day.filter(pa.array(_clicked(spec, day, lake, len(of_day))))
        rows = pa.concat_tables([before, of_day])
        self._rows = rows.slice(int(np.searchsorted(rows[EVENT_TIME].to_numpy(), since))).combine_chunks()
        items = hash_values(ITEM_KEY, self._rows[item_column(spec)].combine_chunks())
        self._by_item = Timeline.of(items, self._rows[EVENT_TIME].to_numpy())
        self._events = _table_events(spec, day, lake, self._tables)
        transform = compile_transforms(spec, _vocabularies(spec, day, lake, self.names), with_label=False)
        self._makers = {name: transform.makers[transform.schema.get_field_index(name)] for name in self.names}
        self._items = self._rows.slice(0, 0)

    def with_columns(self, requests: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
        """Append the columns of the log that describe requests.

        Args:
            requests: B rows of the feature table.
            numbers: int64 [B], numbers of these clicks in the day.
        """
        held = self._requests.take(pa.array(numbers))
        if not np.array_equal(held[EVENT_TIME].to_numpy(), requests[EVENT_TIME].to_numpy()):
            raise ValueError(f"{self._spec.name}: the clicks of the features are not those of the log; make the features again")
        for name in self._of_request:
            requests = requests.append_column(RAW + name, held[name])
        return requests

    def index(self, now: int, ids: NDArray[np.int64]) -> None:
        """Take items as of a point in time.

        Args:
            now: Microseconds since 1970 UTC.
            ids: int64 [L], items (`ITEM_KEY`), each of which has a row before `now`.
        """
        offsets, places = self._by_item.last(ids, np.full(len(ids), now), EVER, 1)
        if (np.diff(offsets) == 0).any():
            raise ValueError(f"{self._spec.name}: a live item has no row in the log; make the features again")
        self._items = self._rows.take(pa.array(self._by_item.place[places]))

    def __call__(self, requests: pa.Table) -> pa.Table:
        """Compute the features of each pair.

        Args:
            requests: B rows, as `with_columns` returns them.

        Returns:
            B * L rows with the columns `names`: all items of the first request, then all items of the second, and so on.
        """
        row = np.repeat(np.arange(len(requests)), len(self._items))
        place = np.tile(np.arange(len(self._items)), len(requests))
        at = requests[EVENT_TIME].to_numpy()[row]
        columns: dict[str, pa.Array] = {EVENT_TIME: pa.array(at)}
        for name in self._plain:
            held, where = (self._items[name], place) if name in self._of_item else (requests[RAW + name], row)
            columns[name] = held.combine_chunks().take(pa.array(where))

        def keys(seed: str, column: str) -> NDArray[np.int64]:
            if column in self._of_item:
                return column_keys(self._items, seed, column)[place]
            return column_keys(requests.select([RAW + column]).rename_columns([column]), seed, column)[row]

        for table, events in zip(self._tables, self._events, strict=True):
            columns |= events.columns(EntityQueries.of_keys(table, keys, at, self._values), self._values)
        batch = pa.RecordBatch.from_pydict(columns)
        return pa.table({name: make(batch) for name, make in self._makers.items()})


def feature_inputs(spec: DatasetSpec) -> dict[str, tuple[str, ...]]:
    """Return the columns, or values of feature tables, that each feature reads; by feature."""
    dense = {feature.name: (feature.column,) for feature in spec.dense}
    return dense | {f.name: (f.history,) if isinstance(f.history, str) else tuple(f.inputs) for f in spec.sparse}


def _read(spec: DatasetSpec, lake: Lake, days: Sequence[str], columns: list[str]) -> pa.Table:
    log = spec.examples_log
    parts = [part for day in days for part in raw_parts(lake, spec.name, day, log.stage)]
    schema = pa.schema([raw_schema(log).field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *(read_parquet(UPath(part), columns) for part in parts)])


def _clicked(spec: DatasetSpec, day: str, lake: Lake, rows: int) -> NDArray[np.bool_]:
    """Return which rows of a day's log are clicks. All are if negatives are sampled."""
    if spec.label.negatives:
        return np.ones(rows, np.bool_)
    found = [np.zeros(0, np.bool_), *(part[LABEL].to_numpy() > 0.5 for part in chunks(lake, spec, day, [LABEL]))]
    clicked = np.concatenate(found)
    if len(clicked) != rows:
        raise ValueError(
            f"{spec.name} {day}: {len(clicked)} rows of features for {rows} rows of the log; make the features again"
        )
    return clicked


def _table_events(spec: DatasetSpec, day: str, lake: Lake, tables: Sequence[FeatureTable]) -> list[TableEvents]:
    if not tables:
        return []
    begin, end = day_bounds(day, spec.zone)
    parts = [part for other in (*table_days(spec, day), day) for part in event_parts(lake, spec.name, other)]
    log = read_events(spec, parts, begin - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR), end)
    return [TableEvents(table, spec, log) for table in tables]


def _vocabularies(spec: DatasetSpec, day: str, lake: Lake, names: Sequence[str]) -> dict[str, Vocabulary]:
    """Return the vocabularies before a day; empty ones for features that are not computed."""
    found = {feature.name: Vocabulary.empty() for feature in spec.sparse if feature.vocabulary}
    before = spec.previous_day(day)
    for name in set(found) & set(names) if before else ():
        folder = lake.require(CLEANED_FEATURES, spec.name, before or "", fingerprint=spec.fingerprint)
        found[name] = Vocabulary.read(folder / "vocabulary" / f"{name}.parquet")
    return found
