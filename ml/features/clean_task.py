"""What one task does: its row groups of the day's raw logs in, its part of the feature table out.

A task opens its own input and writes its own output, on Spark's workers as in this process; what it gives back is small.
Planning the tasks and committing the partition is `ml.features.clean`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec, Negatives
from ml.days import MICROSECONDS_PER_HOUR, trailing_days
from ml.features.point_in_time.history import with_history
from ml.features.point_in_time.negatives import Events, sample, with_negatives
from ml.features.point_in_time.trailing_counts import with_recent
from ml.features.side_join import ROW, TASK_SHIFT, Joined, join_all
from ml.features.transforms import SAMPLED_LABEL, compile_transforms, sparse_features
from ml.features.vocabulary import StateFile, Vocabulary
from ml.features.vocabulary_counts import write_counts
from ml.parquet import read_parquet, write_table
from ml.schema import EVENT_TIME, HISTORY_PREFIX, LABEL, SAMPLE_RATE


@dataclass(frozen=True)
class Job:
    """What all tasks of a day share.

    vocabularies: feature -> its state before the day, None on the first day. events: raw parts, of earlier days and of this
    one, that negatives are drawn from. output, counts: folders that tasks write to.
    """

    spec: DatasetSpec
    day: str
    vocabularies: dict[str, StateFile | None]
    events: tuple[str, ...]
    joins: tuple[Joined, ...]
    output: str
    counts: str


@dataclass(frozen=True)
class Task:
    """Row groups [start, stop) of one raw part. number: of its first row, counted from the day's first; index: its own.

    expanded: where its rows already lie with their negatives, if a join on Spark needed them written down.
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
        """Where the task's counts lie."""
        return f"{self.job.counts}/part-{self.index:05d}.parquet"


@dataclass(frozen=True)
class Done:
    """What a task wrote. rates: sum of the sample rates; without: logged events for which there was no negative.

    counted: distinct values of each feature with a vocabulary, in the job's order.
    """

    rows: int
    positives: int
    rates: float
    without: int
    counted: tuple[int, ...]


def plan(job: Job, parts: list[str], rows_per_task: int) -> list[Task]:
    """Tasks of about as many rows, in the rows' order: they follow from the raw parts alone, never from the machine."""
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
    """Write one part of the feature table, and the counts of its values for each vocabulary."""
    job, spec = task.job, task.job.spec
    rows, without = (read_parquet(UPath(task.expanded)), 0) if task.expanded else _expanded(task)
    batch = _one_batch(join_all(rows, job.joins, task.index))
    vocabularies = {name: _vocabulary(state) if state else Vocabulary.empty() for name, state in job.vocabularies.items()}
    features = compile_transforms(spec, vocabularies)(batch)
    write_table(pa.Table.from_batches([features]), UPath(job.output) / f"part-{task.index:05d}.parquet")
    logged = batch.filter(batch[SAMPLED_LABEL].cast(pa.bool_())) if spec.label.negatives else batch
    counting = [sparse_features(spec)[name] for name in job.vocabularies]
    counted = write_counts(counting, logged, UPath(task.counts)) if counting else ()
    label, rate = features[LABEL].to_numpy(), features[SAMPLE_RATE].to_numpy()
    return Done(len(features), int(label.sum(dtype=np.float64)), float(rate.sum(dtype=np.float64)), without, counted)


def expand_task(task: Task) -> tuple[Task, int]:
    """Write a task's rows down, with their negatives and numbers, for a join on Spark."""
    rows, without = _expanded(task)
    numbers = np.arange(len(rows), dtype=np.int64) + (task.index << TASK_SHIFT)
    target = UPath(task.job.counts).parent / "expanded" / f"part-{task.index:05d}.parquet"
    write_table(rows.append_column(ROW, pa.array(numbers)), target)
    return replace(task, expanded=str(target)), without


def _expanded(task: Task) -> tuple[pa.Table, int]:
    """The task's rows with their negatives, if the spec samples any, and how many rows had no candidate."""
    spec, negatives = task.job.spec, task.job.spec.label.negatives
    rows = read_parquet(UPath(task.part), _columns(spec), range(task.start, task.stop), _dictionaries(spec))
    if negatives is None or not len(rows):
        return _with_label(rows, spec, negatives) if negatives else rows, 0
    if spec.user is None or spec.item is None:
        raise ValueError(f"{spec.name}: sampling negatives needs user and item")
    events, before = _events(task.job, spec.user, spec.item)
    start = before + task.number
    sampled = sample(events, start, start + len(rows), task.number, negatives, task.job.day)
    expanded = with_recent(with_negatives(rows, spec.item, events, sampled), spec.item, events, negatives)
    return with_history(expanded, spec, events), sampled.without


def _with_label(rows: pa.Table, spec: DatasetSpec, negatives: Negatives) -> pa.Table:
    for column in spec.sparse:
        if column.history:
            rows = rows.append_column(HISTORY_PREFIX + column.name, pa.array([], pa.list_(pa.int64())))
    for name in negatives.recent:
        rows = rows.append_column(name, pa.array([], pa.int64()))
    return rows.append_column(SAMPLED_LABEL, pa.array([], pa.float32())).append_column(SAMPLE_RATE, pa.array([], pa.float32()))


def _events(job: Job, user: str, item: str) -> tuple[Events, int]:
    """Events from the longest window before the day's first event to the day's end, and how many are of earlier days."""
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
    """Day of a raw part, `<stage>/<dataset>/<day>/rows/<part>`."""
    return UPath(part).parent.parent.name


def earlier_days(spec: DatasetSpec, day: str) -> list[str]:
    """Days before `day`, from the log's first on and in order, in which the window of its first event may begin."""
    if spec.label.negatives is None:
        return []
    # A day of the log's zone may be an hour longer or shorter than 24.
    count = int(spec.label.negatives.look_back_hours // 23) + 1
    return [other for other in trailing_days(day, count) if other >= spec.partitions.start.isoformat()]


def _columns(spec: DatasetSpec) -> list[str]:
    """Columns of the raw logs that features, keys, slices or joins need."""
    used = [c for d in spec.dense for c in (d.column,)] + [c for s in spec.sparse for c in s.inputs]
    used += [c for c in (spec.label.column, spec.user, spec.item, spec.oracle) if c]
    used += [*spec.slices, *(side.log_key for side in spec.join)]
    return [EVENT_TIME, *(c for c in spec.source.columns if c in set(used))]


def _dictionaries(spec: DatasetSpec) -> list[str]:
    """String columns that are hashed whole: kept dictionary encoded, each distinct value is read and hashed once."""
    split = {s.column for s in spec.sparse if s.split}
    return [c for c in _columns(spec) if spec.source.columns.get(c) == "string" and c not in split]


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


@lru_cache(maxsize=64)
def _vocabulary(state: StateFile) -> Vocabulary:
    """Loaded once per process for all its tasks."""
    return Vocabulary.read(UPath(state.path))
