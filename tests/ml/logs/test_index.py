"""The index accounts for every line, opens only what a day needs, and notices changed files."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs import streams
from ml.logs.index import LogIndex
from ml.logs.ingest import ingest_day, is_current
from ml.logs.landing import landed_days
from ml.logs.read import quarantine_table, raw_table
from ml.logs.sources import NoLogs

RUNNER = LocalRunner()
START = date(2026, 3, 1)
DAYS = [(START + timedelta(days=i)).isoformat() for i in range(4)]
MIDNIGHT = 1772323200  # 2026-03-01 UTC


def spec(files: str = "*.csv", start: date = START, **more: Any) -> LogSpec:
    source = {"files": files, "format": "csv", "columns": {"t": "int", "v": "string", "y": "int"}}
    data: dict[str, Any] = {"dataset": "small", "source": source | more.pop("source", {})}
    data |= {
        "time": {"column": "t"},
        "partitions": {"start": start, "end": START + timedelta(days=3)},
        "label": {"column": "y"},
    }
    return LogSpec.model_validate(data | more)


def line(day: float, value: object = "v", label: int = 1) -> str:
    return f"{MIDNIGHT + int(day * 86400)},{value},{label}\n"


def write(folder: Path, name: str, lines: Sequence[str], header: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(lines))
    return path


def test_a_bad_line_is_of_the_day_of_the_good_line_before_it(tmp_path: Path, lake: Lake) -> None:
    bad = "bad\n"
    write(tmp_path, "a.csv", [bad, bad, line(1), bad, line(2), bad, bad, line(0.5), line(9), "\n", line(3, label=2)])
    write(tmp_path, "b.csv", [bad, bad])
    index = LogIndex.build(spec(), tmp_path, lake, RUNNER)
    # `line(9)` and the blank line behind it are out of range; the line with the unknown label has its own time.
    assert index.lines == {"a.csv": {DAYS[0]: 1, DAYS[1]: 4, DAYS[2]: 3, DAYS[3]: 1}, "b.csv": {DAYS[0]: 2}}
    done = [ingest_day(spec(), day, tmp_path, lake, RUNNER) for day in DAYS]
    assert [(d.rows, d.quarantined) for d in done] == [(1, 2), (1, 3), (1, 2), (0, 1)]
    assert [d.out_of_range for d in done] == [0, 0, 0, 2]
    lines = [(e["file"], e["line"]) for day in DAYS for e in quarantine_table(lake, "small", day).to_pylist()]
    assert sorted(lines) == [("a.csv", n) for n in (1, 2, 4, 6, 7, 11)] + [("b.csv", 1), ("b.csv", 2)]


@pytest.mark.parametrize("by_position", [False, True])
def test_every_line_has_a_day_for_any_block_size(
    by_position: bool, tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    total = 0
    for name in ("a.csv", "b.csv", "c.csv", "d.csv"):
        lines = [line(rng.random() * 4.4 - 0.2, i) if rng.random() < 0.7 else "x,y\n" for i in range(500)]
        write(tmp_path, name, lines if name != "c.csv" else ["bad\n"] * 500, "t,v,y\n")
        total += 500
    time = {"by_position": True} if by_position else {"column": "t"}
    log = spec(source={"header": True}, time=time)
    seen = []
    for block in (300, 1000, 8 << 20):
        for module in ("streams", "block_ranges"):
            monkeypatch.setattr(f"ml.logs.{module}.BLOCK", block)
        apart = Lake(lake.root / str(block))
        index = LogIndex.build(log, tmp_path, apart, RUNNER)
        days = [ingest_day(log, day, tmp_path, apart, RUNNER) for day in DAYS]
        outside = sum(map(index.out_of_range, DAYS))
        assert sum(lines for of in index.lines.values() for lines in of.values()) + outside == total
        assert sum(done.rows + done.quarantined + done.out_of_range for done in days) == total
        assert (outside == 0) == by_position
        tables = [(raw_table(apart, "small", day), quarantine_table(apart, "small", day)) for day in DAYS]
        lines = [(q["file"], q["line"], q["text"]) for _, table in tables for q in table.to_pylist()]
        assert len(set(lines)) == len(lines)
        for file, number, text in lines:
            assert (tmp_path / file).read_bytes().split(b"\n")[number - 1] == text
        seen.append([(rows.to_pylist(), bad.to_pylist(), index.lines) for rows, bad in tables])
        if by_position:
            assert [done.rows + done.quarantined for done in days] == [total // 4] * 4
    assert seen[0] == seen[1] == seen[2]


def test_a_day_opens_only_the_files_that_hold_its_lines(tmp_path: Path, lake: Lake) -> None:
    for i in range(4):
        write(tmp_path, f"{i}.csv", [line(i + 0.1), line(i + 0.2)])
    assert [ingest_day(spec(), day, tmp_path, lake, RUNNER).files for day in DAYS] == [1, 1, 1, 1]


def test_only_new_and_changed_files_are_read_again(tmp_path: Path, lake: Lake) -> None:
    class Counting:
        def __init__(self) -> None:
            self.tasks: list[Any] = []

        def map(self, function: Any, tasks: Sequence[Any]) -> list[Any]:
            self.tasks += [one.file.name for task in tasks for one in task]
            return LocalRunner().map(function, tasks)

    def read() -> tuple[dict[str, str], list[str]]:
        runner = Counting()
        return LogIndex.build(spec(), tmp_path, lake, runner).signatures, runner.tasks

    def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
        return {day for day in {*before, *after} if before.get(day) != after.get(day)}

    paths = [write(tmp_path, f"{i}.csv", [line(i)]) for i in range(3)]
    first, tasks = read()
    assert tasks == ["0.csv", "1.csv", "2.csv"]
    again, tasks = read()
    assert tasks == [] and again == first
    write(tmp_path, "1.csv", [line(1), line(2)])
    longer, tasks = read()
    assert tasks == ["1.csv"] and changed(again, longer) == {DAYS[2]}
    write(tmp_path, "new.csv", [line(3)])
    added, tasks = read()
    assert tasks == ["new.csv"] and changed(longer, added) == {DAYS[3]}
    paths[0].unlink()
    removed, tasks = read()
    assert tasks == [] and changed(added, removed) == {DAYS[0]}
    other = spec(time={"column": "t", "unit": "s", "timezone": "Asia/Tokyo"})
    assert LogIndex.build(other, tmp_path, lake, RUNNER).lines["2.csv"] == {DAYS[2]: 1}


def test_currency_follows_the_files_of_the_day(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path, "a.csv", [line(0), line(1)])
    assert not is_current(spec(), DAYS[0], tmp_path, lake)
    for day in DAYS[:2]:
        ingest_day(spec(), day, tmp_path, lake, RUNNER)
    assert [d.current for d in landed_days(spec(), tmp_path, lake)] == [True, True]
    write(tmp_path, "b.csv", [line(1), line(3)])
    assert is_current(spec(), DAYS[0], tmp_path, lake) and not is_current(spec(), DAYS[1], tmp_path, lake)
    landed = landed_days(spec(), tmp_path, lake)
    assert [(d.key, d.current) for d in landed] == list(zip(DAYS, [True, False, False, False], strict=True))
    assert not is_current(spec(time={"column": "t", "unit": "ms"}), DAYS[0], tmp_path, lake)
    assert landed_days(spec(), tmp_path / "nothing", lake) == []


def test_dated_paths_need_no_reading(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv")
    for i in (0, 1, 3):
        write(tmp_path, f"{DAYS[i]}.csv", [line(i), "bad\n", line(i - 1), line(i + 0.5)])
    write(tmp_path, "2026-02-01.csv", [line(0)])
    assert LogIndex.build(log, tmp_path, lake, RUNNER).placements == {}
    done = ingest_day(log, DAYS[1], tmp_path, lake, RUNNER)
    assert (done.rows, done.reasons, done.files) == (2, {"time far from file's day": 1, "wrong number of fields": 1}, 1)
    assert quarantine_table(lake, "small", DAYS[1]).column("line").to_pylist() == [2, 3]
    assert not (lake.root / "log_index").exists()
    with pytest.raises(NoLogs, match="no file of 2026-03-03"):
        ingest_day(log, DAYS[2], tmp_path, lake, RUNNER)
    assert not lake.has("raw_logs", "small", DAYS[2])
    assert [(d.key, d.current) for d in landed_days(log, tmp_path, lake)] == [
        (DAYS[0], False),
        (DAYS[1], True),
        (DAYS[3], False),
    ]


def test_lines_of_big_dated_files_are_numbered_through(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    log = spec("%Y-%m-%d.csv", source={"header": True})
    lines = [line(i / 1000, i) if i % 7 else f"bad {i}\n" for i in range(900)]
    path = write(tmp_path, f"{DAYS[0]}.csv", lines, "t,v,y\n")
    for module in ("streams", "block_ranges"):
        monkeypatch.setattr(f"ml.logs.{module}.BLOCK", 500)
    monkeypatch.setattr("ml.logs.block_ranges.TASK_BYTES", 1500)
    done = ingest_day(log, DAYS[0], tmp_path, lake, RUNNER, task_bytes=1500)
    assert done.rows + done.quarantined == 900
    text = path.read_bytes().split(b"\n")
    for entry in quarantine_table(lake, "small", DAYS[0]).to_pylist():
        assert text[entry["line"] - 1] == entry["text"]


def test_spilled_rows_of_dated_paths_find_their_day(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv", source={"spill_days": 1})
    for i in range(4):
        write(tmp_path, f"{DAYS[i]}.csv", ["bad\n", line(i - 1), "bad\n", line(i), line(i + 1), line(i + 2)])
    done = [ingest_day(log, day, tmp_path, lake, RUNNER) for day in DAYS]
    assert sum(d.rows + d.quarantined + d.out_of_range for d in done) == 24
    assert [d.out_of_range for d in done] == [3, 0, 0, 1]  # in the first file also the malformed lines beside the row before
    assert [d.rows for d in done] == [2, 3, 3, 2]
    assert [d.files for d in done] == [2, 3, 3, 2]


def test_a_file_rewritten_within_a_tick_of_its_stamp_is_not_half_taken(tmp_path: Path, lake: Lake) -> None:
    path = write(tmp_path, "a.csv", [line(0, "aa"), line(0, "bb")])
    stamp = path.stat()
    LogIndex.build(spec(), tmp_path, lake, RUNNER, cache_bytes=0)
    write(tmp_path, "a.csv", [line(0, "aa"), line(1, "bb")])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(RuntimeError, match="a file was rewritten"):
        ingest_day(spec(), DAYS[0], tmp_path, lake, RUNNER)
    assert not lake.has("raw_logs", "small", DAYS[0])
    assert streams.BLOCK == 8 << 20


def test_one_more_day_does_not_change_earlier_days(tmp_path: Path, lake: Lake) -> None:
    short = spec()
    write(tmp_path, "a.csv", [line(1), line(2)])
    write(tmp_path, "b.csv", [line(3), line(4), "bad\n"])
    for day in DAYS:
        ingest_day(short, day, tmp_path, lake, RUNNER)
    longer = short.model_copy(update={"partitions": short.partitions.model_copy(update={"end": START + timedelta(days=4)})})
    # The line beyond the earlier last day was out of range, so it is in no day of the lake.
    assert [is_current(longer, day, tmp_path, lake) for day in DAYS] == [True] * 4
    fresh = [ingest_day(longer, (START + timedelta(days=n)).isoformat(), tmp_path, lake, RUNNER) for n in (3, 4)]
    assert [(done.rows, done.quarantined) for done in fresh] == [(1, 0), (1, 1)]


def test_partitions_can_be_a_stretch_of_a_larger_log(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("streams", "block_ranges"):
        monkeypatch.setattr(f"ml.logs.{module}.BLOCK", 200)
    lines = [line(day + i / 40, f"{day} {i}") if i % 9 else "bad\n" for day in range(-30, 40) for i in range(20)]
    write(tmp_path, "a.csv", lines)
    index = LogIndex.build(spec(), tmp_path, lake, RUNNER)
    blocks = len(index.files[0].blocks or ())
    done = [ingest_day(spec(), day, tmp_path, lake, RUNNER) for day in DAYS]
    # The first line of a day is malformed, so it is of the day before.
    assert [(d.rows, d.quarantined) for d in done] == [(17, 3)] * 4
    assert [d.out_of_range for d in done] == [601, 0, 0, 36 * 20 - 1]
    assert [lake.manifest("raw_logs", "small", day)["out_of_range"] for day in DAYS] == [d.out_of_range for d in done]
    assert all(len(found or ()) < blocks / 20 for day in DAYS for _, found in index.blocks_of(day))
    assert [d.key for d in landed_days(spec(), tmp_path, lake)] == DAYS


def test_hours_that_another_time_zone_cuts_off_are_not_malformed(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv", source={"spill_days": 1}, time={"column": "t", "timezone": "Asia/Tokyo"})
    for i in range(-2, 6):  # files are cut at midnight UTC, days begin nine hours earlier
        write(tmp_path, f"{START + timedelta(days=i)}.csv", [line(i + hour / 24, hour) for hour in range(24)])
    done = [ingest_day(log, day, tmp_path, lake, RUNNER) for day in DAYS]
    assert [(d.rows, d.quarantined) for d in done] == [(24, 0)] * 4
    assert [d.out_of_range for d in done] == [15, 0, 0, 9 + 24]


def test_rows_far_from_the_day_of_their_file_are_malformed_wherever_they_are(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv", source={"spill_days": 1})
    write(tmp_path, f"{DAYS[0]}.csv", ["5,v,1\n", line(0), line(-1.5), line(-0.5), line(9)])
    done = ingest_day(log, DAYS[0], tmp_path, lake, RUNNER)
    assert (done.rows, done.reasons, done.out_of_range) == (1, {"time far from file's day": 3}, 1)


@pytest.mark.parametrize("block", [60, 400, 8 << 20])
@pytest.mark.parametrize("form", ["in order", "in no order", "packed", "parquet"])
def test_only_days_whose_lines_changed_are_due(
    form: str, block: int, tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("streams", "block_ranges"):
        monkeypatch.setattr(f"ml.logs.{module}.BLOCK", block)
    log = spec("*.parquet", source={"format": "parquet"}) if form == "parquet" else spec("*.csv*")
    rows = [(MIDNIGHT + day * 86400 + i * 60, f"v{i}", i % 2) for day in range(4) for i in range(12)]
    if form == "in no order":
        np.random.default_rng(1).shuffle(rows)

    def save(rows: list[tuple[Any, ...]]) -> None:
        if form == "parquet":
            table = pa.table({name: list(column) for name, column in zip("tvy", zip(*rows, strict=True), strict=True)})
            pq.write_table(table, tmp_path / "a.parquet", row_group_size=max(block // 40, 1))
            return
        text = "".join(f"{t},{v},{y}\n" for t, v, y in rows).encode()
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text)) if form == "packed" else (tmp_path / "a.csv").write_bytes(text)

    def due(rows: list[tuple[Any, ...]]) -> list[int]:
        save(rows)
        found = [n for n, day in enumerate(DAYS) if not is_current(log, day, tmp_path, lake)]
        save(original)
        return found

    original = list(rows)
    save(original)
    for day in DAYS:
        ingest_day(log, day, tmp_path, lake, RUNNER)
    assert due(original) == []
    appended = (MIDNIGHT + 3 * 86400 + 5000, "new", 1)
    assert due([*original, appended]) == [3]
    last = max(n for n, row in enumerate(original) if row[0] < MIDNIGHT + 86400)
    corrected = [(t, "w" + v[1:], y) if n == last else (t, v, y) for n, (t, v, y) in enumerate(original)]
    assert due(corrected) == [0]
    moved = [(t + 3600 * 24, v, y) if n == last else (t, v, y) for n, (t, v, y) in enumerate(original)]
    assert due(moved) == [0, 1]
    assert due([row for n, row in enumerate(original) if n != len(original) - 1])[-1:] == [
        (original[-1][0] - MIDNIGHT) // 86400
    ]


def test_a_malformed_line_makes_its_own_day_due_and_those_whose_lines_it_renumbers(tmp_path: Path, lake: Lake) -> None:
    lines = [line(0), line(1), line(2), "bad\n", line(3)]
    write(tmp_path, "a.csv", lines)
    for day in DAYS:
        ingest_day(spec(), day, tmp_path, lake, RUNNER)
    write(tmp_path, "a.csv", [*lines, "worse\n"])
    assert [is_current(spec(), day, tmp_path, lake) for day in DAYS] == [True, True, True, False]
    write(tmp_path, "a.csv", lines)
    write(tmp_path, "b.csv", ["bad\n"])  # before any row: the quarantine of the first day
    assert [is_current(spec(), day, tmp_path, lake) for day in DAYS] == [False, True, True, True]


def test_days_without_a_file_can_be_skipped(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv")
    skipping = log.model_copy(update={"partitions": log.partitions.model_copy(update={"missing_days": "skip"})})
    assert skipping.fingerprint == log.fingerprint
    for i in (0, 3):
        write(tmp_path, f"{DAYS[i]}.csv", [line(i)])
    with pytest.raises(NoLogs, match=r"set partitions\.missing_days: skip"):
        ingest_day(log, DAYS[1], tmp_path, lake, RUNNER)
    done = [ingest_day(skipping, day, tmp_path, lake, RUNNER) for day in DAYS]
    assert [(d.rows, d.quarantined, d.files) for d in done] == [(1, 0, 1), (0, 0, 0), (0, 0, 0), (1, 0, 1)]
    assert raw_table(lake, "small", DAYS[1]).num_rows == 0
    assert [(d.key, d.current) for d in landed_days(skipping, tmp_path, lake)] == [(day, True) for day in DAYS]
    assert [d.key for d in landed_days(log, tmp_path, lake)] == [DAYS[0], DAYS[3]]
    write(tmp_path, f"{DAYS[1]}.csv", [line(1)])  # it was late
    assert [is_current(skipping, day, tmp_path, lake) for day in DAYS] == [True, False, True, True]
    with pytest.raises(ValueError, match="needs a dated path"):
        spec(partitions={"start": START, "missing_days": "skip"})


def test_a_day_whose_lines_moved_to_another_is_ingested_again(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path, "a.csv", [line(1)])
    ingest_day(spec(), DAYS[1], tmp_path, lake, RUNNER)
    write(tmp_path, "a.csv", [line(2)])
    assert [(d.key, d.current) for d in landed_days(spec(), tmp_path, lake)] == [(DAYS[1], False), (DAYS[2], False)]


def test_a_day_that_rows_spill_into_has_not_landed_yet(tmp_path: Path, lake: Lake) -> None:
    log = spec("%Y-%m-%d.csv", source={"spill_days": 1})
    write(tmp_path, f"{DAYS[1]}.csv", [line(1), line(2)])
    assert [d.key for d in landed_days(log, tmp_path, lake)] == [DAYS[1]]


def test_future_days_have_not_landed(tmp_path: Path, lake: Lake) -> None:
    live = spec().model_copy(update={"partitions": spec().partitions.model_copy(update={"end": None})})
    write(tmp_path, "a.csv", [line(1), line(9000)])  # a clock that was fast
    assert max(d.key for d in landed_days(live, tmp_path, lake)) < date.today().isoformat()
