"""Tasks of `cleaned_features`: each reads row groups of the day's raw logs and writes one part of the feature table.

A task opens its input and writes its output itself, on a Spark worker or in this process, and returns only counts.
`ml.features.clean` plans the tasks of a day and commits the partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec, Negatives
from ml.days import MICROSECONDS_PER_HOUR, trailing_days
from ml.features.column_profile import ColumnProfile, column_profile
from ml.features.event_days import read_events
from ml.features.point_in_time.feature_tables import with_feature_tables
from ml.features.point_in_time.history import with_history
from ml.features.point_in_time.negatives import Events, sample, with_negatives
from ml.features.point_in_time.trailing_counts import with_recent
from ml.features.side_join import ROW, TASK_SHIFT, Joined, Matches, join_all
from ml.features.transforms import SAMPLED_LABEL, compile_transforms, sparse_features
from ml.features.vocabulary import StateFile, Vocabulary
from ml.features.vocabulary_counts import write_counts
from ml.parquet import read_parquet, write_table
from ml.schema import EVENT_TIME, HISTORY_PREFIX, LABEL, LABEL_PREFIX, SAMPLE_RATE


@dataclass(frozen=True)
class Job:
    """Settings that all tasks of a day share.

    Attributes:
        spec: The dataset.
        day: The partition key.
        vocabularies: State of each feature's vocabulary before the day; None on the first day.
        events: Raw parts of earlier days and of this day, from which negatives are drawn.
        tables: Files of the events of earlier days and of this day that feature tables are computed from.
        joins: Side tables.
        output: Folder for the parts of the feature table.
        counts: Folder for the tasks' counts of values.
    """

    spec: DatasetSpec
    day: str
    vocabularies: dict[str, StateFile | None]
    events: tuple[str, ...]
    joins: tuple[Joined, ...]
    output: str
    counts: str
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task: row groups [start, stop) of one raw part.

    Attributes:
        job: Settings of the day.
        index: Index of the task in the day.
        part: Path of the raw part.
        start: First row group.
        stop: The row group after the last one.
        number: Position in the day of the task's first row.
        expanded: File of the task's rows with their negatives, if a join on Spark needed one.
    """

    job: Job
    index: int
    part: str
    start: int
    stop: int
    number: int
    expanded: str | None = None

    @property
    def counts(self) -> str:
        """Path of the file of the task's counts."""
        return f"{self.job.counts}/part-{self.index:05d}.parquet"


@dataclass(frozen=True)
class Done:
    """Counts of what a task wrote.

    Attributes:
        rows: Number of rows.
        positives: Number of rows with label 1.
        rates: Sum of the sample rates.
        without: Number of logged events for which no negative could be drawn.
        counted: Number of distinct values of each feature with a vocabulary, in the job's order.
        matches: Number of rows that each side table has a match for, in the job's order.
        joined: Statistics of each joined column, by name.
        further: Number of rows with label 1 of each further label, in the order of the catalog entry.
    """

    rows: int
    positives: int
    rates: float
    without: int
    counted: tuple[int, ...]
    matches: tuple[Matches, ...] = ()
    joined: dict[str, ColumnProfile] = field(default_factory=dict)
    further: tuple[int, ...] = ()


def plan(job: Job, parts: list[str], rows_per_task: int) -> list[Task]:
    """Divides the raw parts of a day into tasks, in the order of the rows. The result does not depend on the machine.

    Args:
        job: Settings of the day.
        parts: Raw parts of the day, in order.
        rows_per_task: A task takes row groups of one part until it has at least this many rows.

    Returns:
        The tasks. A part without rows has none.
    """
    tasks: list[Task] = []
    number = 0
    for part in parts:
        path = UPath(part)
        with path.fs.open(path.path, "rb") as file:
            footer = pq.read_metadata(file)
        start = rows = 0
        for group in range(footer.num_row_groups):
            rows += footer.row_group(group).num_rows
            if rows >= rows_per_task or (rows and group + 1 == footer.num_row_groups):
                tasks.append(Task(job, len(tasks), part, start, group + 1, number))
                start, number, rows = group + 1, number + rows, 0
    return tasks


def clean_task(task: Task) -> Done:
    """Writes one part of the feature table, and the counts of its values for each vocabulary."""
    job, spec = task.job, task.job.spec
    rows, without = (read_parquet(UPath(task.expanded)), 0) if task.expanded else _expanded(task)
    joined, matches = join_all(rows, job.joins, task.index)
    batch = one_batch(joined)
    vocabularies = {name: _vocabulary(state) if state else Vocabulary.empty() for name, state in job.vocabularies.items()}
    features = compile_transforms(spec, vocabularies)(batch)
    write_table(pa.Table.from_batches([features]), UPath(job.output) / f"part-{task.index:05d}.parquet")
    logged = batch.filter(batch[SAMPLED_LABEL].cast(pa.bool_())) if spec.label.negatives else batch
    sparse = sparse_features(spec)
    counting = [sparse[name] for name in job.vocabularies]
    counted = write_counts(counting, logged, UPath(task.counts)) if counting else ()
    profiles = {name: column_profile(batch[name]) for side in job.joins for name in side.columns}
    positives, *further = (
        int(features[name].to_numpy().sum(dtype=np.float64)) for name in (LABEL, *(LABEL_PREFIX + name for name in spec.labels))
    )
    rates = float(features[SAMPLE_RATE].to_numpy().sum(dtype=np.float64))
    return Done(len(features), positives, rates, without, counted, matches, profiles, tuple(further))


def expand_task(task: Task) -> tuple[Task, int]:
    """Writes a task's rows, with their negatives and row numbers, to a file for a join on Spark.

    Returns:
        The task with the path of the file, and the number of logged events for which no negative could be drawn.
    """
    rows, without = _expanded(task)
    numbers = np.arange(len(rows), dtype=np.int64) + (task.index << TASK_SHIFT)
    target = UPath(task.job.counts).parent / "expanded" / f"part-{task.index:05d}.parquet"
    write_table(rows.append_column(ROW, pa.array(numbers)), target)
    return replace(task, expanded=str(target)), without


def _expanded(task: Task) -> tuple[pa.Table, int]:
    """Returns the task's rows, with values of earlier events, and with negatives if the spec samples any.

    The second result is the number of rows without a candidate.
    """
    rows, without = _sampled(task)
    spec = task.job.spec
    if not spec.feature_tables:
        return rows, without
    times = rows[EVENT_TIME]
    first, last = (times[0].as_py(), times[-1].as_py()) if len(rows) else (0, 0)
    since = first - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR)
    return with_feature_tables(rows, spec, read_events(spec, task.job.tables, since, last)), without


def _sampled(task: Task) -> tuple[pa.Table, int]:
    """Returns the task's rows, with negatives if the spec samples any, and the number of rows without a candidate."""
    spec, negatives = task.job.spec, task.job.spec.label.negatives
    rows = read_parquet(UPath(task.part), read_columns(spec), range(task.start, task.stop), dictionary_columns(spec))
    if negatives is None or not len(rows):
        return _with_label(rows, spec, negatives) if negatives else rows, 0
    if spec.user is None or spec.item is None:
        raise ValueError(f"{spec.name}: sampling negatives needs user and item")
    events, before = _events(task.job, spec.user, spec.item)
    return expand_rows(rows, spec, task.job.day, events, before + task.number, task.number)


def expand_rows(rows: pa.Table, spec: DatasetSpec, day: str, events: Events, start: int, number: int) -> tuple[pa.Table, int]:
    """Adds negatives, trailing counts and histories to consecutive rows of a log of positives.

    Args:
        rows: N rows, at least one, with the columns of `read_columns(spec)`.
        spec: A dataset that samples negatives.
        day: The day of the rows.
        events: The log, from the longest window before the day on.
        start: Index in `events` of the first row.
        number: Position in the day of the first row.

    Returns:
        The rows with their negatives, and the number of rows without a candidate.
    """
    negatives, item = spec.label.negatives, spec.item
    if negatives is None or item is None:
        raise ValueError(f"{spec.name}: no negatives declared")
    sampled = sample(events, start, start + len(rows), number, negatives, day)
    expanded = with_recent(with_negatives(rows, item, events, sampled), item, events, negatives)
    return with_history(expanded, spec, events), sampled.without


def _with_label(rows: pa.Table, spec: DatasetSpec, negatives: Negatives) -> pa.Table:
    for column in spec.sparse:
        if isinstance(column.history, int):
            rows = rows.append_column(HISTORY_PREFIX + column.name, pa.array([], pa.list_(pa.int64())))
    for name in negatives.recent:
        rows = rows.append_column(name, pa.array([], pa.int64()))
    return rows.append_column(SAMPLED_LABEL, pa.array([], pa.float32())).append_column(SAMPLE_RATE, pa.array([], pa.float32()))


def _events(job: Job, user: str, item: str) -> tuple[Events, int]:
    """Returns the events from the longest window before the day to its end, and the number of events of earlier days."""
    negatives = job.spec.label.negatives
    if negatives is None:
        raise ValueError(f"{job.spec.name}: no negatives declared")
    columns = [EVENT_TIME, *dict.fromkeys((user, item))]
    today = _dataset(p for p in job.events if day_of(p) == job.day).to_table(columns=columns)
    earlier = [p for p in job.events if day_of(p) != job.day]
    if not earlier:
        return Events.of(today, user, item), 0
    since = today[EVENT_TIME][0].as_py() - round(negatives.look_back_hours * MICROSECONDS_PER_HOUR)
    kept = _dataset(earlier).to_table(columns=columns, filter=pc.field(EVENT_TIME) >= since)
    return Events.of(pa.concat_tables([kept, today]), user, item), len(kept)


def _dataset(parts: Iterable[str]) -> ds.Dataset:
    paths = [UPath(part) for part in parts]
    return ds.dataset([path.path for path in paths], filesystem=paths[0].fs, format="parquet")


def day_of(part: str) -> str:
    """Returns the day of a raw part, whose path is `<stage>/<dataset>/<day>/rows/<part>`."""
    return UPath(part).parent.parent.name


def earlier_days(spec: DatasetSpec, day: str) -> list[str]:
    """Returns the earlier days of the log, in order, that the window before the day's first event may reach."""
    if spec.label.negatives is None:
        return []
    # A day of the log's zone may be an hour longer or shorter than 24.
    count = int(spec.label.negatives.look_back_hours // 23) + 1
    return [other for other in trailing_days(day, count) if other >= spec.first_day]


def read_columns(spec: DatasetSpec) -> list[str]:
    """Returns the columns of the raw logs that features, keys, slices, joins or the oracle need."""
    used = [d.column for d in spec.dense] + [c for s in spec.sparse for c in s.inputs]
    used += [rule.column for rule in spec.label_rules]
    used += [c for c in (spec.label.weight, spec.user, spec.item, spec.oracle) if c]
    used += [spec.session.column] if spec.session else []
    used += [column for table in spec.feature_tables for column in table.row_columns]
    used += [*spec.slices, *(side.log_key for side in spec.join)]
    return [EVENT_TIME, *(c for c in spec.examples_log.source.columns if c in set(used))]


def dictionary_columns(spec: DatasetSpec) -> list[str]:
    """Returns the string columns that are not split. Dictionary encoded, each of their distinct values is hashed once."""
    split = {s.column for s in spec.sparse if s.split}
    return [c for c in read_columns(spec) if spec.examples_log.source.columns.get(c) == "string" and c not in split]


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """Returns the rows of a table as one batch."""
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


@lru_cache(maxsize=64)
def _vocabulary(state: StateFile) -> Vocabulary:
    """Reads a vocabulary once per process, for all its tasks."""
    return Vocabulary.read(UPath(state.path))
