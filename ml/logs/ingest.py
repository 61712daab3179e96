"""`raw_logs`: one day's rows out of the log into the lake, in time order, beside the day's quarantined lines.

Tasks read slices of the day's files. Where the log's blocks are in order already, each writes parts of the day; else sorted
runs aside, which more tasks merge into parts by ranges of event time. What is written is the same bytes whatever the runner.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner, Runner
from ml.lake import Lake
from ml.logs.clock import day_bounds, day_index, position_times
from ml.logs.external_sort import Run, in_time_order, plan_parts, write_parquet, write_part, write_run
from ml.logs.index import BlockPlan, LogIndex, place_bad
from ml.logs.quarantine import SCHEMA
from ml.logs.read import read_parquet
from ml.logs.scan import TASK_BYTES, Scanned, Slice, cut, file_day, pack, scan
from ml.logs.sources import NoLogs
from ml.logs.text.layout import Layout
from ml.logs.validate_rows import UNPLACED
from ml.schema import EVENT_TIME

PART_ROWS = 1 << 18
_BAD_SCHEMA = pa.schema([pa.field("order", pa.int64()), pa.field("block", pa.int64()), *SCHEMA])


class LogChanged(RuntimeError):
    """The files of a log changed while a day was read out of them; a rerun reads them as they are then."""


@dataclass(frozen=True)
class IngestedDay:
    """What a day came to. rows, quarantined: lines; reasons: quarantined lines by reason; files: how many were opened."""

    rows: int
    quarantined: int
    reasons: dict[str, int]
    files: int
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What every reading task knows. staging: of the partition; in_order: whether its rows are parts as they come; parts: where
    days begin by line, in a log without a clock."""

    log: LogSpec
    day: int
    staging: UPath
    in_order: bool
    parts: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Task:
    number: int
    slices: list[Slice]
    plans: dict[tuple[int, int], BlockPlan]


@dataclass(frozen=True)
class _Done:
    """rows of the day; runs in file and line order; bad: path of the quarantined lines, if any; extents: (file, block, lines)
    read."""

    rows: int
    runs: list[Run]
    bad: str | None
    extents: list[tuple[int, int, int]]


def raw_schema(log: LogSpec) -> pa.Schema:
    """Arrow schema of a day's rows: event_time (int64, microseconds since 1970 UTC), then the source's columns."""
    return pa.schema([pa.field(EVENT_TIME, pa.int64()), *Layout.declared(log.source).schema])


def ingest_day(
    log: LogSpec,
    day: str,
    logs: str | UPath,
    lake: Lake,
    runner: Runner,
    *,
    task_bytes: int = TASK_BYTES,
    part_rows: int = PART_ROWS,
) -> IngestedDay:
    """Write partition `raw_logs` of a day: `rows/part-00000.parquet` and on, `quarantine.parquet`, manifest.

    Parts by name, one after the other, are in order of (event time, file, line). task_bytes, part_rows: how much, unpacked, one
    task reads and one part holds, about. Raises `NoLogs` where there are no files (with dated
    paths: none of that day), `WrongFile` where a file lacks a column, `ValueError` for a day that is none of the log's.
    """
    started = time.perf_counter()
    index = LogIndex.build(log, logs, lake, runner, day)
    if log.source.dated and not any(file_day(log, f.file) == day_index(log, day) for f in index.files):
        raise NoLogs(f"{logs}: no file of {day} matches {log.source.files!r}; has the day landed?")
    wanted = index.wanted(day)
    slices = [one for n, blocks in wanted for one in cut(index.files[n].file, n, blocks)]
    with lake.write(log.stage, log.dataset, day) as staging:
        aside = staging / "aside"
        for folder in (staging / "rows", aside):
            folder.mkdir(parents=True)
        by_line = index.parts if log.time.by_position else None
        job = _Job(log, day_index(log, day), staging, index.in_order(day), by_line)
        tasks = [_task(index, number, group) for number, group in enumerate(pack(slices, task_bytes))]
        done = runner.map(partial(_read, job, part_rows=part_rows), tasks)
        parts = plan_parts([run for one in done for run in one.runs], part_rows)
        runner.map(write_part, [(_part(staging, n), part) for n, part in enumerate(parts)])
        rows = sum(one.rows for one in done)
        if not rows:
            write_parquet([], raw_schema(log), _part(staging, 0))
        reasons: Counter[str] = Counter()
        write_parquet(_quarantined(done, _first_lines(index, done), reasons), SCHEMA, str(staging / "quarantine.parquet"))
        lines, found = rows + reasons.total(), sum(of.get(day, 0) for of in index.lines.values())
        if index.plans and lines != found:
            raise LogChanged(
                f"{logs}: {lines} lines of {day} where the index had found {found}; was a file rewritten? Run again"
            )
        aside.fs.rm(aside.path, recursive=True)
        reasons = Counter(dict(sorted(reasons.items())))
        manifest = {
            "dataset": log.dataset,
            "day": day,
            "rows": rows,
            "quarantined": reasons.total(),
            "reasons": dict(reasons),
            "fingerprint": log.fingerprint,
            "signature": index.signature(day),
            "files": [{"name": index.files[n].file.name, "stamp": index.files[n].file.stamp} for n, _ in wanted],
        }
        lake.write_manifest(staging, manifest)
    return IngestedDay(rows, reasons.total(), dict(reasons), len(wanted), time.perf_counter() - started)


def is_current(log: LogSpec, day: str, logs: str | UPath, lake: Lake, runner: Runner | None = None) -> bool:
    """Whether the day in the lake was read in today's way from today's files. New or changed files of a log without dated
    paths are looked into for it."""
    if not lake.has(log.stage, log.dataset, day):
        return False
    try:
        index = LogIndex.build(log, logs, lake, runner or LocalRunner(), day)
    except NoLogs:
        return False
    return lake.manifest(log.stage, log.dataset, day)["signature"] == index.signature(day)


def _task(index: LogIndex, number: int, slices: list[Slice]) -> _Task:
    plans = {
        (one.order, block): plan
        for one in slices
        for block, plan in index.plans.get(one.file.name, {}).items()
        if one.wanted is None or block in one.wanted
    }
    return _Task(number, slices, plans)


def _part(staging: UPath, *number: int) -> str:
    return str(staging / "rows" / f"part-{'-'.join(f'{n:05d}' for n in number)}.parquet")


def _read(job: _Job, task: _Task, part_rows: int) -> _Done:
    """Read slices, and write the day's rows as parts or sorted runs, and its bad lines beside them."""
    schema = raw_schema(job.log)
    runs: list[Run] = []
    held: list[pa.Table] = []
    bad: list[pa.Table] = []
    extents: list[tuple[int, int, int]] = []
    rows = written = 0

    def flush() -> None:
        nonlocal rows, written
        if not held:
            return
        table = in_time_order(pa.concat_tables(held))
        if job.in_order:
            write_parquet([table], schema, _part(job.staging, task.number, written))
        else:
            runs.append(write_run(table, str(job.staging / "aside" / f"rows-{task.number:05d}-{written:05d}.arrow")))
        rows, written = rows + table.num_rows, written + 1
        held.clear()

    for one in task.slices:
        for block in scan(job.log, one):
            plan = task.plans.get((one.order, block.records.index))
            times, days, bad_days = _placed(job, one, block, plan)
            mine = days == job.day
            if mine.any():
                table = block.table.add_column(0, schema.field(0), pa.array(times)).cast(schema)
                held.append(table if mine.all() else table.filter(pa.array(mine)))
            bad.append(_bad_lines(one, block, np.flatnonzero(bad_days == job.day)))
            extents.append((one.order, block.records.index, block.records.extent))
            if sum(table.num_rows for table in held) >= part_rows:
                flush()
    flush()
    lines = pa.concat_tables([_BAD_SCHEMA.empty_table(), *bad])
    if not lines.num_rows:
        return _Done(rows, runs, None, extents)
    path = str(job.staging / "aside" / f"bad-{task.number:05d}.parquet")
    write_parquet([lines], _BAD_SCHEMA, path)
    return _Done(rows, runs, path, extents)


def _placed(
    job: _Job, one: Slice, block: Scanned, plan: BlockPlan | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | NDArray[np.int32], NDArray[np.int64] | NDArray[np.int32]]:
    """Event times and days of a block's good rows, days of its bad lines."""
    if job.parts is not None and plan is not None:
        lines, bad = plan.position + block.lines, plan.position + block.bad
        days, bad_days = (np.searchsorted(job.parts, of, side="right") - 1 for of in (lines, bad))
        return position_times(lines, job.parts, day_bounds(job.log)), days, bad_days
    inherited = plan.inherited if plan else file_day(job.log, one.file) or 0
    bad_days = place_bad(block)
    return block.times, block.day, np.where(bad_days == UNPLACED, inherited, bad_days)


def _bad_lines(one: Slice, block: Scanned, which: NDArray[np.int64]) -> pa.Table:
    columns = [
        [one.order] * len(which),
        [block.records.index] * len(which),
        [one.file.name] * len(which),
        block.bad[which].tolist(),
        [block.reasons[i] for i in which.tolist()],
        [block.records.text_of(line) for line in block.bad[which].tolist()],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _BAD_SCHEMA, strict=True)], schema=_BAD_SCHEMA)


def _first_lines(index: LogIndex, done: Sequence[_Done]) -> dict[tuple[int, int], int]:
    """(file, block) -> number of the block's first line, from 1; counted here where the index has not read the file."""
    known = {
        (n, block): plan.first_line
        for n, of_file in enumerate(index.files)
        for block, plan in index.plans.get(of_file.file.name, {}).items()
    }
    line, current = 1, -1
    for order, block, extent in sorted(extent for one in done for extent in one.extents):
        line = line if order == current else 1
        known.setdefault((order, block), line)
        line, current = line + extent, order
    return known


def _quarantined(done: Sequence[_Done], first: dict[tuple[int, int], int], reasons: Counter[str]) -> Iterator[pa.Table]:
    """Quarantined lines of all tasks, numbered as in their files; counts them by reason on the way."""
    for one in done:
        if one.bad is None:
            continue
        table = read_parquet(one.bad)
        blocks = zip(table.column("order").to_pylist(), table.column("block").to_pylist(), strict=True)
        line = np.array([first[at] for at in blocks], np.int64) + table.column("line").to_numpy()
        reasons.update(table.column("reason").to_pylist())
        yield pa.table([table.column("file"), pa.array(line), table.column("reason"), table.column("text")], schema=SCHEMA)
