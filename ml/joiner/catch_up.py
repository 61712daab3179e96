"""The daily catch-up: joins the raw impressions of a day with the raw actions of complete days into `joined_examples`.

Rows are divided by the hash of their key. Each task joins one partition of the keys in memory with `ml.joiner.join`, and writes
a sorted run; further tasks merge runs into parts by ranges of event time. Rows never enter the JVM.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.actions import Actions, delay_column
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.days import day_bounds
from ml.joiner.days import days_of_actions, earlier_impressions
from ml.joiner.join import join, look_back, match_rate
from ml.joiner.keys import partition_of, without_nulls
from ml.lake import Lake
from ml.logs.external_sort import SortedRun, plan_parts, write_parquet, write_part, write_run
from ml.logs.ingest import PART_ROWS
from ml.logs.ingest_task import part_path, raw_schema
from ml.logs.read import raw_parts
from ml.parquet import read_parquet
from ml.schema import EVENT_TIME
from ml.stages import JOINED_EXAMPLES, RAW_ACTIONS, RAW_LOGS

TASK_ROWS = 1 << 20
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class JoinedDay:
    """The result of joining a day.

    Attributes:
        rows: Examples.
        repeated: Impressions that repeat another one.
        without_key: Impressions in which a column of the key is missing. They are not among the examples.
        actions: Actions of the day by outcome: `matched`, `repeated`, or the reason why they did not count.
        positives: Examples with each label.
        delays: Quantiles of the delay of each label, in seconds, by name such as `p50`.
        seconds: Wall time.
    """

    rows: int
    repeated: int
    without_key: int
    actions: dict[str, int]
    positives: dict[str, int]
    delays: dict[str, dict[str, float]]
    seconds: float

    @property
    def match_rate(self) -> float | None:
        """Share of the day's actions that counted for an example; None without actions."""
        return match_rate(self.actions)


def join_day(spec: DatasetSpec, day: str, lake: Lake, runner: Runner, task_rows: int = TASK_ROWS) -> JoinedDay:
    """Writes the partition of `joined_examples` of a day: `rows/part-*.parquet`, `unmatched.parquet` and the manifest.

    Parts hold the impressions in time order, with the label columns. `unmatched.parquet` holds the actions of the day that
    did not count, with the reason.

    Args:
        spec: A dataset with `actions`.
        day: The partition key.
        lake: Where the raw logs are, and the examples are written.
        runner: Runs the tasks.
        task_rows: Approximate number of rows that one task joins.

    Raises:
        MissingPartition: The impressions of the day or of a day that it looks back to, or the actions of the day or of a
            later day that its wait reaches, are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
    """
    started = time.perf_counter()
    if spec.actions is None or spec.actions_log is None:
        raise ValueError(f"{spec.name} has one log: without `actions` there is nothing to join")
    earlier, later = earlier_impressions(spec, day), days_of_actions(spec, day)
    inputs = [*((RAW_LOGS, d) for d in [*earlier, day]), *((RAW_ACTIONS, d) for d in later)]
    for stage, read in inputs:
        lake.require(stage, spec.name, read, fingerprint=spec.fingerprint_of(stage))
    rows = sum(lake.manifest(stage, spec.name, read)["rows"] for stage, read in inputs)
    lineage = lake.lineage(spec.name, inputs)
    start, end = day_bounds(day, spec.zone)
    with lake.write(JOINED_EXAMPLES, spec.name, day) as staging:
        scratch = staging / "scratch"
        scratch.mkdir()
        (staging / "rows").mkdir()
        job = _Job(spec, start, end, str(scratch), max(1, -(-rows // task_rows)))
        parts = [
            *(_Part(RAW_LOGS, n, path) for n, path in enumerate(_parts(spec, lake, RAW_LOGS, [*earlier, day]))),
            *(_Part(RAW_ACTIONS, n, path) for n, path in enumerate(_parts(spec, lake, RAW_ACTIONS, later))),
        ]
        runner.map(partial(_divide, job), parts)
        done = runner.map(partial(_join_partition, job, parts), list(range(job.partitions)))
        plans = plan_parts([one.run for one in done if one.run], PART_ROWS)
        runner.map(write_part, [(part_path(staging, n), part) for n, part in enumerate(plans)])
        if not plans:
            write_parquet([], raw_schema(spec.examples_log), part_path(staging, 0))
        unmatched = pa.concat_tables([read_parquet(one.unmatched) for one in done])
        unmatched = unmatched.take(pa.array(np.argsort(unmatched[EVENT_TIME].to_numpy(), kind="stable")))
        write_parquet([unmatched], unmatched.schema, str(staging / "unmatched.parquet"))
        scratch.fs.rm(scratch.path, recursive=True)
        result = _sum(spec.actions, done, time.perf_counter() - started)
        lake.write_manifest(staging, manifest_of(spec, day, result) | lineage)
    return result


def manifest_of(spec: DatasetSpec, day: str, result: JoinedDay) -> dict[str, Any]:
    """Returns the manifest of a day, without its lineage."""
    return {
        "dataset": spec.name,
        "day": day,
        "rows": result.rows,
        "fingerprint": spec.fingerprint_of(JOINED_EXAMPLES),
        "repeated": result.repeated,
        "without_key": result.without_key,
        "actions": result.actions,
        "match_rate": result.match_rate,
        "positives": result.positives,
        "delays": result.delays,
    }


@dataclass(frozen=True)
class _Job:
    spec: DatasetSpec
    start: int
    end: int
    scratch: str
    partitions: int

    @property
    def actions(self) -> Actions:
        assert self.spec.actions is not None
        return self.spec.actions


@dataclass(frozen=True)
class _Part:
    """A Parquet file of raw rows; `number` is its index among the files of its stage."""

    stage: str
    number: int
    path: str


@dataclass(frozen=True)
class _Done:
    run: SortedRun | None
    unmatched: str
    rows: int
    repeated: int
    without_key: int
    actions: Counter[str]
    delays: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def _parts(spec: DatasetSpec, lake: Lake, stage: str, days: list[str]) -> list[str]:
    return [path for day in days for path in raw_parts(lake, spec.name, day, stage)]


def _divide(job: _Job, part: _Part) -> None:
    """Writes the rows of a part that the day needs to one file for each partition of the keys."""
    table = read_parquet(part.path)
    first = job.start - look_back(job.actions) if part.stage == RAW_LOGS else job.start
    last = job.end if part.stage == RAW_LOGS else job.end + job.actions.wait
    table = table.filter((pc.field(EVENT_TIME) >= first) & (pc.field(EVENT_TIME) < last)).combine_chunks()
    place = partition_of(table, job.actions.key, job.partitions)
    order = np.argsort(place, kind="stable")
    edges = np.searchsorted(place[order], np.arange(job.partitions + 1))
    table = table.take(pa.array(order))
    for n in range(job.partitions):
        with UPath(_divided(job, part, n)).open("wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.slice(edges[n], edges[n + 1] - edges[n]))


def _divided(job: _Job, part: _Part, partition: int) -> str:
    return f"{job.scratch}/{part.stage}-{part.number:05d}-{partition:05d}.arrow"


def _read(job: _Job, parts: list[_Part], stage: str, partition: int) -> pa.Table:
    tables = []
    for part in parts:
        if part.stage == stage:
            with UPath(_divided(job, part, partition)).open("rb") as file, pa.ipc.open_file(file) as reader:
                tables.append(reader.read_all())
    return pa.concat_tables(tables)


def _join_partition(job: _Job, parts: list[_Part], partition: int) -> _Done:
    """Joins one partition of the keys."""
    rules, schema = job.actions, raw_schema(job.spec.examples_log)
    impressions, actions = (_read(job, parts, stage, partition) for stage in (RAW_LOGS, RAW_ACTIONS))
    is_earlier = pc.field(EVENT_TIME) < job.start
    earlier, _ = without_nulls(impressions.filter(is_earlier), rules.key)
    found = join(rules, impressions.filter(~is_earlier), actions, job.end, earlier)
    run = None
    if len(found.examples):
        run = write_run(found.examples.cast(schema), f"{job.scratch}/run-{partition:05d}.arrow")
    unmatched = f"{job.scratch}/unmatched-{partition:05d}.parquet"
    write_parquet([found.unmatched], found.unmatched.schema, unmatched)
    delays = {name: found.examples[delay_column(name)].drop_null().to_numpy() for name in rules.labels}
    counts = (len(found.examples), found.repeated, found.without_key)
    return _Done(run, unmatched, *counts, found.actions, delays)


def _sum(rules: Actions, done: list[_Done], seconds: float) -> JoinedDay:
    delays = {name: np.concatenate([one.delays[name] for one in done]) for name in rules.labels}
    actions = sum((one.actions for one in done), Counter[str]())
    return JoinedDay(
        rows=sum(one.rows for one in done),
        repeated=sum(one.repeated for one in done),
        without_key=sum(one.without_key for one in done),
        actions={what: count for what, count in sorted(actions.items()) if count},
        positives={name: len(of) for name, of in delays.items()},
        delays={name: delay_quantiles(of) for name, of in delays.items()},
        seconds=seconds,
    )


def delay_quantiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Returns quantiles of delays by name, such as `p50`; empty without delays."""
    if not len(seconds):
        return {}
    return {f"p{q * 100:g}": float(value) for q, value in zip(QUANTILES, np.quantile(seconds, QUANTILES), strict=True)}
