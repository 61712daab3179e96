"""Ingests one day of a log: its rows go into the lake in time order, and its bad lines into a quarantine beside them.

Tasks read ranges of blocks. If the log's blocks are already in time order, each task writes parts of the day. Otherwise tasks
write sorted runs, which further tasks merge into parts by ranges of event time. The bytes are the same on every runner.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner, Runner
from ml.lake import Lake
from ml.logs.absent_keys import absent_everywhere, check_keys
from ml.logs.block_ranges import TASK_BYTES, BlockRange, pack_tasks, split_file
from ml.logs.clock import day_index
from ml.logs.external_sort import plan_parts, write_parquet, write_part
from ml.logs.index import LogIndex
from ml.logs.ingest_task import IngestJob, IngestTask, TaskResult, ingest_task, part_path, raw_schema
from ml.logs.quarantine import SCHEMA
from ml.logs.sources import NoLogs, file_day
from ml.parquet import read_parquet

PART_ROWS = 1 << 18


class LogChanged(RuntimeError):
    """The files of a log changed while a day was read from them. A rerun reads their new content."""


@dataclass(frozen=True)
class IngestedDay:
    """What a day contained.

    Attributes:
        rows: Good rows.
        quarantined: Bad lines.
        reasons: Bad lines by reason.
        out_of_range: On the log's first day, lines before it; on its last day, lines after it.
        files: Number of files that were opened.
        seconds: Wall time.
    """

    rows: int
    quarantined: int
    reasons: dict[str, int]
    out_of_range: int
    files: int
    seconds: float


def ingest_day(
    log: LogSpec,
    day: str,
    folder: str | UPath,
    lake: Lake,
    runner: Runner,
    *,
    task_bytes: int = TASK_BYTES,
    part_rows: int = PART_ROWS,
) -> IngestedDay:
    """Writes the partition of a day to the log's stage: `rows/part-*.parquet`, `quarantine.parquet` and the manifest.

    Parts, in the order of their names, hold rows in the order of (event time, file, line).

    Args:
        log: The log.
        day: The partition key.
        folder: The landing folder, local or any fsspec URL.
        lake: Where the partition is written.
        runner: Runs the tasks.
        task_bytes: Approximate number of unpacked bytes that one task reads.
        part_rows: Approximate number of rows of one part.

    Raises:
        NoLogs: There are no files; with dated paths, no file of that day.
        WrongFile: A file lacks a column; or JSON lines lack a key, in the whole log as far as it was looked at.
        LogChanged: A file was rewritten in the meantime.
        ValueError: The day is not one of the log's days.
    """
    started = time.perf_counter()
    index = LogIndex.build(log, folder, lake, runner, day)
    landed = not log.source.dated or any(file_day(log, f.file) == day_index(log, day) for f in index.files)
    if not landed and log.partitions.missing_days == "error":
        raise NoLogs(
            f"{folder}: no file of {day} matches {log.source.files!r}; check that the day has landed, then run again. "
            f"If days can lack a file, set partitions.missing_days: skip in the catalog"
        )
    wanted = index.blocks_of(day)
    ranges = [part for n, blocks in wanted for part in split_file(index.files[n].file, n, blocks)]
    with lake.write(log.stage, log.dataset, day) as staging:
        scratch = staging / "scratch"
        for subfolder in (staging / "rows", scratch):
            subfolder.mkdir(parents=True)
        by_line = index.parts if log.time.by_position else None
        job = IngestJob(log, day_index(log, day), staging, index.in_order(day), by_line, part_rows, index.cache)
        tasks = [_task(index, number, group) for number, group in enumerate(pack_tasks(ranges, task_bytes))]
        done = runner.map(partial(ingest_task, job), tasks)
        parts = plan_parts([run for one in done for run in one.runs], part_rows)
        runner.map(write_part, [(part_path(staging, n), part) for n, part in enumerate(parts)])
        # If no line has the key of an exploded list, no day has rows. The index then says which keys are absent.
        blocks = done if wanted else [block for of_file in index.files for block in of_file.blocks or ()]
        if absent := absent_everywhere(block.absent for block in blocks):
            check_keys(log, index, folder, [index.files[n].file for n, _ in wanted] or [index.files[0].file], absent)
        rows = sum(one.rows for one in done)
        if not rows:
            write_parquet([], raw_schema(log), part_path(staging, 0))
        reasons: Counter[str] = Counter()
        quarantined = _quarantined(done, _first_lines(index, done), reasons)
        write_parquet(quarantined, SCHEMA, str(staging / "quarantine.parquet"))
        lines, expected = rows + reasons.total(), sum(of.get(day, 0) for of in index.lines.values())
        if index.placements and lines != expected:
            raise LogChanged(
                f"{folder}: read {lines} lines of {day}, but the index has {expected}; a file was rewritten in the meantime. "
                f"Wait until the files are complete, then run the day again"
            )
        scratch.fs.rm(scratch.path, recursive=True)
        reasons = Counter(dict(sorted(reasons.items())))
        out_of_range = index.out_of_range(day)
        manifest = {
            "dataset": log.dataset,
            "day": day,
            "rows": rows,
            "quarantined": reasons.total(),
            "reasons": dict(reasons),
            "out_of_range": out_of_range,
            "fingerprint": log.fingerprint,
            "signature": index.signature(day),
            "files": [{"name": index.files[n].file.name, "stamp": index.files[n].file.stamp} for n, _ in wanted],
        }
        lake.write_manifest(staging, manifest)
    return IngestedDay(rows, reasons.total(), dict(reasons), out_of_range, len(wanted), time.perf_counter() - started)


def is_current(log: LogSpec, day: str, folder: str | UPath, lake: Lake, runner: Runner | None = None) -> bool:
    """Returns whether the day in the lake was made from the current files under the current `LogSpec`.

    New and changed files of a log without dated paths are indexed to find out.

    Args:
        log: The log.
        day: The partition key.
        folder: The landing folder.
        lake: Where the partition is.
        runner: Runs the tasks that index files; local by default.
    """
    if not lake.has(log.stage, log.dataset, day):
        return False
    try:
        index = LogIndex.build(log, folder, lake, runner or LocalRunner(), day)
    except NoLogs:
        return False
    return lake.manifest(log.stage, log.dataset, day)["signature"] == index.signature(day)


def _task(index: LogIndex, number: int, ranges: list[BlockRange]) -> IngestTask:
    placements = {
        (part.file_number, block): placement
        for part in ranges
        for block, placement in index.placements.get(part.file.name, {}).items()
        if part.wanted is None or block in part.wanted
    }
    return IngestTask(number, ranges, placements)


def _first_lines(index: LogIndex, done: Sequence[TaskResult]) -> dict[tuple[int, int], int]:
    """(file number, block) -> number in the file of the block's first line, from 1; counted here for files not indexed."""
    known = {
        (n, block): placement.first_line
        for n, of_file in enumerate(index.files)
        for block, placement in index.placements.get(of_file.file.name, {}).items()
    }
    line, current = 1, -1
    for file_number, block, lines in sorted(block_lines for one in done for block_lines in one.block_lines):
        line = line if file_number == current else 1
        known.setdefault((file_number, block), line)
        line, current = line + lines, file_number
    return known


def _quarantined(done: Sequence[TaskResult], first: dict[tuple[int, int], int], reasons: Counter[str]) -> Iterator[pa.Table]:
    """Quarantined lines of all tasks, numbered as in their files, and counts them by reason."""
    for one in done:
        if one.bad is None:
            continue
        table = read_parquet(one.bad)
        blocks = zip(table.column("file_number").to_pylist(), table.column("block").to_pylist(), strict=True)
        line = np.array([first[at] for at in blocks], np.int64) + table.column("line").to_numpy()
        reasons.update(table.column("reason").to_pylist())
        yield pa.table([table.column("file"), pa.array(line), table.column("reason"), table.column("text")], schema=SCHEMA)
