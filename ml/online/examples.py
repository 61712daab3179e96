"""Makes training examples of arriving rows with the functions of the daily features.

Where a dataset samples negatives or has feature tables, features depend on earlier events: the events of the day so far and of
the window before the day are held in memory, as in a task of the daily features.

Features equal `cleaned_features` of the day, with three exceptions:

- The daily features exclude as negatives the items of a user's whole day. An item that the user chooses after a slice is not
  known yet, so it can be a negative, and it changes which items are drawn for that event. Other events are not affected.
- Vocabularies change at the end of a day, when `cleaned_features` is made. A day that begins before that reads the newest
  state that there is. Ids are never renumbered, so values that are new since then are out of vocabulary.
- Rows that the stream has quarantined as late are in the log of the day, but do not count as events here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.datasets.slices import DaySlice
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.clean_task import dictionary_columns, expand_rows, one_batch, read_columns
from ml.features.point_in_time.event_log import EventLog
from ml.features.point_in_time.feature_tables import with_feature_tables
from ml.features.point_in_time.negatives import Events
from ml.features.side_files import check_whole
from ml.features.side_join import index_join, prepare
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.logs.ingest_task import raw_schema
from ml.logs.source_table import read_table
from ml.schema import EVENT_TIME, FeatureSchema, arrow_schema
from ml.stages import CLEANED_FEATURES


class UnorderedRows(ValueError):
    """Rows do not continue the rows before them."""


class DayExamples:
    """The examples of one day, slice by slice.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        vocabularies: The vocabulary of each feature that declares one, from a day before.
        sides: The joined columns of each side table, in the order of `spec.join`, as `read_side_tables` returns them.
        before: Events before the day, in time order, with `event_columns(spec)`. Only used if negatives are sampled; those
            outside the window are ignored.
        known: Events of earlier days for feature tables, as `known_before` returns them; None without any.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        day: str,
        vocabularies: Mapping[str, Vocabulary] | None = None,
        sides: tuple[pa.Table, ...] = (),
        before: pa.Table | None = None,
        known: EventLog | None = None,
    ) -> None:
        self.day, self.rows, self.without = day, 0, 0
        self._spec, self._sides, self._before = spec, sides, before
        self._schema = FeatureSchema.of(spec)
        self._transform = compile_transforms(spec, vocabularies)
        self._events: Events | None = None
        self._earlier = 0  # events before the day
        self._known = known or EventLog.empty(spec)  # events for feature tables

    def skip(self, rows: pa.Table) -> None:
        """Take rows without making examples of them, as when a run resumes."""
        if self._spec.label.negatives and len(rows):
            self._append(rows)
        if self._spec.feature_tables and len(rows):
            self._learn(rows)
        self.rows += len(rows)

    def features(self, rows: pa.Table) -> pa.Table:
        """Compute the features of the next rows of the day.

        Args:
            rows: N rows of `raw_schema(spec.examples_log)`, in time order.

        Returns:
            The examples of `arrow_schema(spec)` in the order of the rows, with the negatives of each row after it.

        Raises:
            UnorderedRows: Features depend on earlier events, and a row is earlier than the rows before it.
        """
        if not len(rows):
            return arrow_schema(self._spec).empty_table()
        return pa.Table.from_batches([self._transform(one_batch(self.columns(rows)))])

    def columns(self, rows: pa.Table) -> pa.Table:
        """Return the columns that features of the next rows of the day are computed from.

        Args:
            rows: N rows of `raw_schema(spec.examples_log)`, at least one, in time order.

        Returns:
            One row for each example of `features`, in the same order: columns of the log, trailing counts, values of feature
            tables, joined columns, and histories as lists of ids.

        Raises:
            UnorderedRows: See `features`.
        """
        spec, start, number = self._spec, self._earlier + self.rows, self.rows
        table = rows.select(read_columns(spec))
        for name in dictionary_columns(spec):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, table[name].dictionary_encode())
        if spec.label.negatives:
            events = self._append(rows)
            start = self._earlier + number
            table, without = expand_rows(table.combine_chunks(), spec, self.day, events, start, number)
            self.without += without
        if spec.feature_tables:
            table = with_feature_tables(table, spec, self._learn(rows))
        for side, held in zip(spec.join, self._sides, strict=True):
            table, _ = index_join(table, side.log_key, held, side.table_key, side.columns)
        self.rows += len(rows)
        return table

    def slice(self, rows: pa.Table, number: int, batch_size: int) -> DaySlice:
        """Make a slice of the next rows of the day.

        Args:
            rows: As for `features`.
            number: Index of the slice in its day.
            batch_size: Rows of a batch of training.
        """
        examples = Rows.from_table(self.features(rows), self._schema)
        examples = examples.take(np.arange(len(examples)))  # a copy, because Arrow's buffers are read-only
        batch = partial(batch_from_rows, schema=self._schema)
        return DaySlice(number, 0, len(examples), examples.between, batch, batch_size, 0, 1)

    def _learn(self, rows: pa.Table) -> EventLog:
        """Add rows to the events for feature tables, and return all of these."""
        spec, new = self._spec, EventLog.of(self._spec, rows)
        if not self.rows:  # the first rows of the day
            since = rows[EVENT_TIME][0].as_py() - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR)
            self._known = EventLog(self._known.rows.filter(pc.field(EVENT_TIME) >= since))
        times = pa.concat_tables([self._known.rows.slice(max(len(self._known.rows) - 1, 0)), new.rows])[EVENT_TIME].to_numpy()
        if (np.diff(times) < 0).any():
            raise UnorderedRows(f"{spec.name}: a row of {self.day} is earlier than the rows before it")
        self._known = EventLog.join([self._known, new])
        return self._known

    def _append(self, rows: pa.Table) -> Events:
        """Add rows to the events, and return all events."""
        spec = self._spec
        if spec.user is None or spec.item is None:
            raise ValueError(f"{spec.name}: sampling negatives needs user and item")
        new = Events.of(rows.select(event_columns(spec)), spec.user, spec.item)
        if self._events is None:
            before = self._window_before(int(new.time[0]))
            self._events = Events.of(before, spec.user, spec.item)
            self._earlier = len(before)
        known = self._events
        times = np.concatenate([known.time, new.time])
        if (np.diff(times[max(len(known.time) - 1, 0) :]) < 0).any():
            raise UnorderedRows(f"{spec.name}: a row of {self.day} is earlier than the rows before it")
        self._events = Events(
            times,
            np.concatenate([known.user, new.user]),
            np.concatenate([known.item, new.item]),
            pa.concat_arrays([known.values, new.values]),
        )
        return self._events

    def _window_before(self, first: int) -> pa.Table:
        """Return the events before the day that the window of its first event reaches."""
        spec = self._spec
        assert spec.label.negatives is not None
        if self._before is None:
            return raw_schema(spec.log).empty_table().select(event_columns(spec))
        since = first - round(spec.label.negatives.look_back_hours * MICROSECONDS_PER_HOUR)
        held = self._before.slice(int(np.searchsorted(self._before[EVENT_TIME].to_numpy(), since)))
        self._before = None
        return held


def event_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of a log from which negatives are drawn: `event_time`, the user and the item."""
    return [EVENT_TIME, *dict.fromkeys(name for name in (spec.user, spec.item) if name)]


def read_side_tables(spec: DatasetSpec, logs: str | UPath) -> tuple[pa.Table, ...]:
    """Read the side tables of a dataset, as the daily features join them.

    Args:
        spec: The dataset.
        logs: The landing folder.

    Raises:
        DamagedSideTable: A file is truncated or corrupt.
        RepeatedKey: A table has two rows with the same key.
        NoLogs: A table has no file.
    """
    tables = []
    for side in spec.join:
        table, quarantine = read_table(side.source, logs)
        check_whole(quarantine)
        tables.append(prepare(side, table, spec.column_types[side.log_key]))
    return tuple(tables)


def vocabulary_day(spec: DatasetSpec, day: str, lake: Lake) -> str | None:
    """Return the day of the newest vocabularies from before a day; None without any, as on the first day of a log."""
    if not any(column.vocabulary for column in spec.sparse):
        return None
    stored = [d for d in lake.days(CLEANED_FEATURES, spec.name) if spec.first_day <= d < day]
    current = [d for d in stored if lake.is_current(CLEANED_FEATURES, spec.name, d, spec.fingerprint)]
    return current[-1] if current else None


def read_vocabularies(spec: DatasetSpec, day: str | None, lake: Lake) -> dict[str, Vocabulary]:
    """Read the vocabulary of each feature that declares one, as it was at the end of a day; empty ones if `day` is None."""
    names = [column.name for column in spec.sparse if column.vocabulary]
    if day is None:
        return {name: Vocabulary.empty() for name in names}
    folder = lake.partition(CLEANED_FEATURES, spec.name, day) / "vocabulary"
    return {name: Vocabulary.read(folder / f"{name}.parquet") for name in names}
