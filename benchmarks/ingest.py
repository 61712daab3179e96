"""Reading lines of Criteo's shape into typed, checked columns, and ingesting days of them, compared with Python loops.

The unit is rows per second of CPU time in one process. The baseline loop splits each line, converts its numbers and finds the
reason why a line is malformed. For a log without dated paths, the baseline parses every line twice: once for the index and once
for its day.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.block_cache import MAX_BYTES
from ml.logs.index import LogIndex
from ml.logs.ingest import ingest_day
from ml.logs.text.layout import Layout
from ml.logs.text.parse import parse_block

ROWS, LOOP_ROWS, ROUNDS = 200_000, 20_000, 5
START, DAY = 1_388_534_400, 86_400  # the first instant of Criteo's days, and the length of a day, in seconds


def criteo_like(rows: int, seed: int = 0) -> list[bytes]:
    """Generate lines with the columns, lengths and missing values of Criteo's log: label, 13 counts, 26 hashed categories."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 2, rows).astype("S1")]
    for _ in range(13):
        numbers = rng.geometric(10.0 ** -rng.uniform(0.3, 3.5), rows).astype("S8")
        columns.append(np.where(rng.random(rows) < 0.22, b"", numbers))
    for _ in range(26):
        known = np.array([b"%08x" % v for v in rng.integers(0, 2**32, 20_000).tolist()])
        values = known[np.minimum(rng.zipf(1.3, rows), 20_000) - 1]
        columns.append(np.where(rng.random(rows) < 0.11, b"", values))
    return [b"\t".join(fields) for fields in zip(*(column.tolist() for column in columns), strict=True)]


def run() -> list[Result]:
    criteo = load_catalog()["criteo"]
    layout = Layout.declared(criteo.source)
    lines = criteo_like(ROWS)
    clean, loop = b"\n".join(lines[: ROWS // 4]) + b"\n", lines[:LOOP_ROWS]
    looped = LOOP_ROWS / _processor_seconds(lambda: _loop(loop, criteo), 2)
    bare = (ROWS // 4) / _processor_seconds(lambda: _arrow(clean, layout))
    name, unit, of = "parse Criteo-shaped TSV", "rows/CPU-s", "Python loop over lines"
    results = [_parsed(name, clean, layout, looped, of, bare)]
    rng = np.random.default_rng(1)
    for share in (0.001, 0.2):
        spoiled = lines[: ROWS // 4]
        for n, row in enumerate(np.flatnonzero(rng.random(len(spoiled)) < share).tolist()):
            line = spoiled[row]
            spoiled[row] = [line[: len(line) // 2], line.replace(b"\t", b"\tx", 1), line + b"\xff", b""][n % 4]
        looped_bad = LOOP_ROWS / _processor_seconds(lambda some=spoiled[:LOOP_ROWS]: _loop(some, criteo), 2)
        text = b"\n".join(spoiled) + b"\n"
        results.append(_parsed(f"{name}, {share:.1%} of lines bad", text, layout, looped_bad, of))
    results.append(
        Result("raw_logs: TSV to a day in the lake", unit, _ingested(lines, criteo.log), looped, f"{of}, without writing")
    )
    cached, parsed = (_indexed(lines, criteo.log, cache_bytes) for cache_bytes in (MAX_BYTES, 0))
    results.append(
        Result("raw_logs: undated TSV, index and days", unit, cached, parsed, "parsing for the index and for the day")
    )
    return results


def _parsed(name: str, text: bytes, layout: Layout, baseline: float, of: str, floor: float | None = None) -> Result:
    rows = text.count(b"\n")
    ours = rows / _processor_seconds(lambda: parse_block(layout, text))
    note = "floor: Arrow's CSV reader alone, unchecked" if floor else ""
    return Result(name, "rows/CPU-s", ours, baseline, of, floor, note)


def _timed(criteo: LogSpec, files: str) -> LogSpec:
    """Return Criteo's log with a time as its first column."""
    source = criteo.source.model_copy(update={"files": files, "columns": {"time": "int", **criteo.source.columns}})
    clock = criteo.time.model_copy(update={"column": "time", "by_position": False})
    return criteo.model_copy(update={"source": source, "time": clock})


def _ingested(lines: list[bytes], criteo: LogSpec) -> float:
    """Return rows per second from a dated file, which needs no index, to Parquet in time order."""
    log = _timed(criteo, "%Y-%m-%d.tsv")
    day = log.days()[0]
    times = np.random.default_rng(2).integers(START, START + DAY, len(lines)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{day}.tsv").write_bytes(b"".join(b"%d\t%s\n" % pair for pair in zip(times, lines, strict=True)))
        lake, runner = Lake.at(Path(folder) / "lake"), LocalRunner()
        return len(lines) / _processor_seconds(lambda: ingest_day(log, day, folder, lake, runner), 2)


def _indexed(lines: list[bytes], criteo: LogSpec, cache_bytes: int) -> float:
    """Return rows per second from one undated file in time order, through the index, to Parquet of all its days."""
    log, runner = _timed(criteo, "log.tsv"), LocalRunner()
    days = log.days()
    times = (START + np.arange(len(lines)) * len(days) * DAY // len(lines)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.tsv"
        file.write_bytes(b"".join(b"%d\t%s\n" % pair for pair in zip(times, lines, strict=True)))
        os.utime(file, (START, START))  # blocks of a file that was modified recently are not cached

        def work() -> None:
            with tempfile.TemporaryDirectory() as root:
                lake = Lake.at(root)
                LogIndex.build(log, folder, lake, runner, cache_bytes=cache_bytes)
                for day in days:
                    ingest_day(log, day, folder, lake, runner)

        return len(lines) / _processor_seconds(work, 2)


def _arrow(text: bytes, layout: Layout) -> pa.Table:
    schema = layout.schema
    return pa_csv.read_csv(
        pa.BufferReader(text),
        pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=schema.names),
        pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        pa_csv.ConvertOptions(column_types=schema, null_values=[""], strings_can_be_null=True, check_utf8=False),
    )


def _loop(lines: list[bytes], criteo: DatasetSpec) -> tuple[dict[str, list[object]], dict[int, str]]:
    columns: dict[str, list[object]] = {name: [] for name in criteo.source.columns}
    bad: dict[int, str] = {}
    for number, line in enumerate(lines):
        try:
            fields = line.decode().split("\t")
        except UnicodeDecodeError:
            bad[number] = "not UTF-8"
            continue
        if len(fields) != len(columns):
            bad[number] = "wrong number of fields"
            continue
        row: list[object] = []
        for (name, kind), field in zip(criteo.source.columns.items(), fields, strict=True):
            try:
                row.append((int(field) if kind == "int" else field) if field else None)
            except ValueError:
                bad[number] = f"bad number in column {name}"
                break
        else:
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    return columns, bad


def _processor_seconds(work, rounds: int = ROUNDS) -> float:
    """Return the CPU time of the fastest of several rounds, after one warm-up round."""
    work()
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)
