"""Writes one day of `cleaned_features`: the feature table and the state of the vocabularies after the day.

This module plans the tasks of a day, runs them, extends the vocabularies and commits the partition. What a task does with its
rows is implemented in `ml.features.clean_task`. The partition holds `rows/part-*.parquet` (schema `arrow_schema(spec)`; rows
are in event-time order if the parts are read in the order of their names), `vocabulary/<feature>.parquet` (the state after the
day) and the manifest. The bytes of the Parquet files depend only on the raw logs, the side tables, the spec, the state of the
day before and the number of rows per task. They do not depend on the runner.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.days import day_before
from ml.features.clean_task import Done, Job, Task, clean_task, earlier_days, expand_task, plan
from ml.features.column_profile import ColumnProfile
from ml.features.event_days import event_parts
from ml.features.point_in_time.event_log import table_days
from ml.features.side_files import side_files
from ml.features.side_join import BROADCAST_BYTES, Matches, sort_merge_join
from ml.features.side_tables import JoinedTable, prepare_tables
from ml.features.vocabulary import StateFile
from ml.features.vocabulary_counts import ARROW_ROWS, Merge, VocabularySize, merge_in_arrow, merge_on_spark, pack
from ml.lake import Lake
from ml.logs.quarantine import Quarantine
from ml.logs.read import raw_parts
from ml.parquet import write_table
from ml.schema import arrow_schema
from ml.stages import CLEANED_FEATURES, FEATURE_TABLES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS_PER_TASK = 200_000


@dataclass(frozen=True)
class Limits:
    """Sizes above which Spark shuffles instead of a task's memory being used, and the size of a task.

    Args:
        broadcast_bytes: Largest side table, in bytes, that every task holds in memory.
        arrow_rows: Largest number of rows of a vocabulary merge that is done in Arrow.
        rows_per_task: Number of raw rows of a task, rounded up to whole row groups.
    """

    broadcast_bytes: int = BROADCAST_BYTES
    arrow_rows: int = ARROW_ROWS
    rows_per_task: int = ROWS_PER_TASK


@dataclass(frozen=True)
class CleanedDay:
    """Statistics of a written day.

    Attributes:
        rows: Number of rows.
        positives: Number of rows with label 1.
        negatives: Number of rows with label 0.
        without_candidate: Number of logged events for which no negative could be drawn.
        label_rate: Share of positives; 0.0 without rows.
        further_rates: The same of each further label, by name.
        mean_sample_rate: Mean of sample_rate; 1.0 without rows.
        parts: Number of Parquet files.
        joins: How each side table was joined, and how many rows it has a match for.
        vocabularies: Size of each feature's vocabulary after the day.
        seconds: Wall time.
    """

    rows: int
    positives: int
    negatives: int
    without_candidate: int
    label_rate: float
    further_rates: dict[str, float]
    mean_sample_rate: float
    parts: int
    joins: dict[str, JoinedTable]
    vocabularies: dict[str, VocabularySize]
    seconds: float


def clean_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    logs: str | UPath,
    runner: Runner,
    spark: SparkSession | None = None,
    limits: Limits = Limits(),
) -> CleanedDay:
    """Writes `cleaned_features` of a day into the lake.

    Args:
        spec: The dataset.
        day: The partition key.
        lake: Where the raw logs are stored and the features are written.
        logs: The landing folder, which holds the side tables.
        runner: Runs the tasks.
        spark: A session for large joins and merges; without it they are done in memory.
        limits: When work moves to Spark, and the size of a task.

    Returns:
        Statistics of the day.

    Raises:
        MissingPartition: The raw logs of the day, or of an earlier day from which negatives are drawn, or the events of a day
            that feature tables need, or the vocabularies of the day before are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
        DamagedSideTable: A file of a side table is truncated or corrupt.
        RepeatedKey: A side table has two rows with the same key.
        LabelError: A row has no usable label.
    """
    started = time.perf_counter()
    raw = spec.examples_log.stage
    parts = raw_parts(lake, spec.name, day, raw)
    earlier = earlier_days(spec, day)
    for read in [*earlier, day]:
        lake.require(raw, spec.name, read, fingerprint=spec.fingerprint_of(raw))
    before = [(CLEANED_FEATURES, day_before(day))] if _needs_state(spec, day) else []
    tables = [(FEATURE_TABLES, d) for d in [*table_days(spec, day), *([day] if spec.feature_tables else [])]]
    for stage, read in tables:
        lake.require(stage, spec.name, read, fingerprint=spec.fingerprint_of(stage))
    made_from = lake.lineage(spec.name, [*before, *((raw, d) for d in [*earlier, day]), *tables])
    states, names = _previous_states(spec, day, lake), [s.name for s in spec.sparse if s.vocabulary]
    with lake.write(CLEANED_FEATURES, spec.name, day) as staging:
        scratch = staging / "scratch"
        joined_files = side_files(spec, logs)
        sides = prepare_tables(spec, logs, scratch / "side", limits.broadcast_bytes, spark)
        job = Job(
            spec=spec,
            day=day,
            vocabularies={name: states.get(name) for name in names},
            events=tuple(p for d in earlier for p in raw_parts(lake, spec.name, d, raw)) + tuple(parts),
            tables=tuple(p for _, d in tables for p in event_parts(lake, spec.name, d)),
            joins=tuple(table.joined for table in sides.values()),
            output=str(staging / "rows"),
            counts=str(scratch / "counts"),
        )
        tasks = plan(job, parts, limits.rows_per_task)
        without = 0
        if tasks and spark is not None and any(side.strategy == "sort_merge" for side in job.joins):
            tasks, without = _join_on_spark(tasks, job, runner, spark, scratch)
        done = runner.map(clean_task, tasks)
        if not done:
            write_table(arrow_schema(spec).empty_table(), staging / "rows" / "part-00000.parquet")
        sizes = _extend(job, tasks, done, staging, runner, spark, limits)
        if scratch.exists():
            scratch.fs.rm(scratch.path, recursive=True)
        if spec.join:
            lines = Quarantine.concat(table.quarantine for table in sides.values())
            write_table(lines.table, staging / "quarantine.parquet")
        joins = {
            name: table.statistics(sum((one.matches[n] for one in done), Matches()))
            for n, (name, table) in enumerate(sides.items())
        }
        result = _sum(spec, done, without, joins, sizes, time.perf_counter() - started)
        manifest: dict[str, Any] = {
            "rows": result.rows,
            "parts": result.parts,
            "fingerprint": spec.fingerprint,
            "positives": result.positives,
            "negatives": result.negatives,
            "without_candidate": result.without_candidate,
            "label_rate": result.label_rate,
            **({"further_rates": result.further_rates} if spec.labels else {}),
            "mean_sample_rate": result.mean_sample_rate,
            "vocabularies": {
                name: {"values": s.values, "ids": s.ids, "digest": _file_digest(staging / "vocabulary" / f"{name}.parquet")}
                for name, s in sizes.items()
            },
            "joins": {name: table.facts for name, table in joins.items()},
            "joined_columns": {name: asdict(profile) for name, profile in _joined_columns(done).items()},
            "side_files": joined_files,
        } | made_from
        lake.write_manifest(staging, manifest)
    return result


def _file_digest(path: UPath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _previous_states(spec: DatasetSpec, day: str, lake: Lake) -> dict[str, StateFile]:
    """Returns the state of each feature's vocabulary after the day before; empty on the first day."""
    if not _needs_state(spec, day):
        return {}
    before = day_before(day)
    folder = (
        lake.require(CLEANED_FEATURES, spec.name, before, fingerprint=spec.fingerprint, since=spec.first_day) / "vocabulary"
    )
    manifest = lake.manifest(CLEANED_FEATURES, spec.name, before)
    digest = lake.digest(CLEANED_FEATURES, spec.name, before)
    names = [s.name for s in spec.sparse if s.vocabulary]
    return {n: StateFile(str(folder / f"{n}.parquet"), manifest["vocabularies"][n]["values"], digest) for n in names}


def _needs_state(spec: DatasetSpec, day: str) -> bool:
    return any(s.vocabulary for s in spec.sparse) and day > spec.first_day


def _join_on_spark(tasks: list[Task], job: Job, runner: Runner, spark: SparkSession, scratch: UPath) -> tuple[list[Task], int]:
    expanded = runner.map(expand_task, tasks)
    files = [task.expanded for task, _ in expanded if task.expanded]
    joins = tuple(
        sort_merge_join(spark, files, side, side.path, str(scratch / "joined" / str(n)))
        if side.strategy == "sort_merge"
        else side
        for n, side in enumerate(job.joins)
    )
    job = replace(job, joins=joins)
    return [replace(task, job=job) for task, _ in expanded], sum(without for _, without in expanded)


def _extend(
    job: Job,
    tasks: list[Task],
    done: list[Done],
    staging: UPath,
    runner: Runner,
    spark: SparkSession | None,
    limits: Limits,
) -> dict[str, VocabularySize]:
    """Writes the states of the vocabularies after the day, and returns their sizes."""
    columns = {column.name: column.vocabulary for column in job.spec.sparse if column.vocabulary}
    merges = [
        Merge(
            feature=name,
            position=position,
            limits=columns[name],
            previous=before.path if before else None,
            partial=tuple(task.counts for task in tasks),
            target=str(staging / "vocabulary" / f"{name}.parquet"),
            rows=sum(d.counted[position] for d in done) + (before.values if before else 0),
        )
        for position, (name, before) in enumerate(job.vocabularies.items())
    ]
    large = [merge for merge in merges if spark is not None and tasks and merge.rows > limits.arrow_rows]
    packs = pack(merge for merge in merges if merge not in large)
    sizes = {
        merge.feature: size
        for packed, found in zip(packs, runner.map(merge_in_arrow, packs), strict=True)
        for merge, size in zip(packed, found, strict=True)
    }
    if spark is not None:
        sizes |= {merge.feature: merge_on_spark(merge, spark, staging / "scratch" / "merged") for merge in large}
    return {merge.feature: sizes[merge.feature] for merge in merges}


def _joined_columns(done: list[Done]) -> dict[str, ColumnProfile]:
    """Adds up the tasks' statistics of joined columns. Without tasks there are none."""
    return {name: sum((d.joined[name] for d in done[1:]), profile) for name, profile in done[0].joined.items()} if done else {}


def _sum(
    spec: DatasetSpec,
    done: list[Done],
    without: int,
    joins: dict[str, JoinedTable],
    sizes: dict[str, VocabularySize],
    seconds: float,
) -> CleanedDay:
    rows, positives = sum(d.rows for d in done), sum(d.positives for d in done)
    return CleanedDay(
        rows=rows,
        positives=positives,
        negatives=rows - positives,
        without_candidate=without + sum(d.without for d in done),
        label_rate=positives / rows if rows else 0.0,
        further_rates={
            name: sum(d.further[number] for d in done) / rows if rows else 0.0 for number, name in enumerate(spec.labels)
        },
        mean_sample_rate=sum(d.rates for d in done) / rows if rows else 1.0,
        parts=max(1, len(done)),
        joins=joins,
        vocabularies=sizes,
        seconds=seconds,
    )
