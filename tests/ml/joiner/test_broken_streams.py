"""Wrong files and clocks: each fault is quarantined or counted and reported, no event is lost, and the join goes on."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.joiner.stream_faults import stream_faults
from ml.logs.arriving import arriving_blocks
from ml.logs.validated_blocks import ValidatedBlock
from tests.helpers.stream_runs import StreamRun, click, shown, written_files

DAY = 24 * 60


@pytest.fixture
def stream(tmp_path: Path) -> StreamRun:
    return StreamRun(tmp_path, settings={"batch_bytes": 1})


def faults(stream: StreamRun, hours: float = 0.0) -> dict[str, str]:
    """The faults that are reported some hours after the last batch."""
    return stream_faults(stream.spec, UPath(stream.root), stream.status, stream.status.written_at + hours * 3600)


def minutes(first: int, last: int) -> list[dict[str, object]]:
    return [shown(f"r{n}", n) for n in range(first, last)]


def labels(stream: StreamRun) -> dict[str, int]:
    return {row["request"]: row["clicked"] for row in stream.examples()}


def test_half_a_json_line_is_quarantined_and_the_other_lines_are_joined(stream: StreamRun) -> None:
    path = stream.put("impressions/0.jsonl", *minutes(0, 10))
    path.write_bytes(path.read_bytes()[:-20])
    stream.put("actions/0.jsonl", click("r3", 4), '{"at": 177')
    status = stream.end()
    assert labels(stream) == {f"r{n}": int(n == 3) for n in range(9)}
    assert status.counts["quarantined: bad JSON"] == status.quarantined == 2
    assert {row["file"] for row in stream.rows("quarantine")} == {"0.jsonl"}
    assert "2 rows and files are in quarantine (16.7%)" in faults(stream)["quarantined"]


def test_a_truncated_gzip_file_gives_its_rows_before_the_cut(stream: StreamRun) -> None:
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in minutes(0, 2000)))
    (stream.root / "impressions" / "0.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    stream.put("impressions/1.jsonl", *minutes(2000, 2100))
    status = stream.end()
    found = labels(stream)
    assert 200 < len(found) < 2000 and all(f"r{n}" in found for n in [*range(200), *range(2000, 2100)])
    (reason,) = (what for what in status.counts if what.startswith("quarantined: damaged file: "))
    assert status.counts[reason] == 1


def parquet(rows: int) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(minutes(0, rows)).append_column("event_time", pa.array(range(rows)))
    pq.write_table(table, sink, row_group_size=10)
    return sink.getvalue()


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-100], lambda data: data[:300] + bytes(400) + data[700:], lambda data: b"", lambda data: b"PAR1"],
    ids=["truncated", "overwritten", "empty", "only the first bytes"],
)
def test_a_damaged_parquet_file_is_quarantined(stream: StreamRun, damage: Callable[[bytes], bytes]) -> None:
    (stream.root / "impressions" / "0.parquet").write_bytes(damage(parquet(100)))
    stream.put("impressions/1.jsonl", *minutes(2000, 2010))
    status = stream.end()
    assert status.quarantined >= 1 and {f"r{n}" for n in range(2000, 2010)} <= labels(stream).keys()


@pytest.mark.parametrize("content", [b"", b"\n", b"\x00" * 50, b"\xff\xfe{}"], ids=["empty", "blank", "zeros", "UTF-16"])
def test_a_file_without_a_usable_row_is_read_and_does_not_stop_the_stream(stream: StreamRun, content: bytes) -> None:
    (stream.root / "impressions" / "0.jsonl").write_bytes(content)
    stream.put("actions/0.jsonl", click("r0", 1))
    stream.put("impressions/1.jsonl", *minutes(0, 5))
    (stream.root / "impressions" / "2.jsonl").write_bytes(content)
    status = stream.end()
    assert labels(stream) == {f"r{n}": int(n == 0) for n in range(5)} and status.ended
    assert faults(stream, hours=1).keys() <= {"quarantined"}
    assert status.files == {"impressions": "2.jsonl", "actions": "0.jsonl"}


def test_a_file_that_cannot_be_a_log_is_quarantined(stream: StreamRun) -> None:
    (stream.root / "impressions" / "0.xz").write_bytes(b"packed")
    (stream.root / "impressions" / "1").mkdir()
    (stream.root / "impressions" / "2.jsonl").symlink_to(stream.root / "nothing")
    pq.write_table(pa.table({"other": [1]}), stream.root / "impressions" / "3.parquet")
    stream.put("impressions/4.jsonl", *minutes(0, 5))
    status = stream.end()
    assert len(labels(stream)) == 5 and status.quarantined == 3 and status.ended
    (stream.root / "impressions" / "2.jsonl").unlink()
    stream.put("impressions/2.jsonl", shown("later", 60))
    assert stream.end().counts["examples"] == 6, "the link led to nothing, so its name was not read"


def test_duplicated_files_and_rows_give_each_example_once(stream: StreamRun) -> None:
    for name in ("0", "1"):
        stream.put(f"impressions/{name}.jsonl", *minutes(0, 10), *minutes(5, 10))
        stream.put(f"actions/{name}.jsonl", click("r3", 4), click("r3", 4))
    status = stream.end()
    assert labels(stream) == {f"r{n}": int(n == 3) for n in range(10)}
    assert status.counts["repeated impressions"] == 20 and status.actions == {"matched": 1, "repeated": 3}


def test_a_file_that_arrives_after_files_of_later_names_is_read(stream: StreamRun) -> None:
    stream.put("impressions/1.jsonl", *minutes(5, 10))
    stream.put("actions/1.jsonl", click("r3", 4))
    assert stream.run().counts["impressions"] == 5
    stream.put("impressions/0.jsonl", *minutes(0, 5))
    status = stream.end()
    assert labels(stream) == {f"r{n}": int(n == 3) for n in range(10)} and status.late == 0


def test_a_file_that_grows_after_being_read_is_reported(stream: StreamRun) -> None:
    path = stream.put("impressions/0.jsonl", *minutes(0, 5))
    stream.put("actions/0.jsonl", click("r3", 4))
    stream.run()
    assert faults(stream) == {}
    path.write_bytes(path.read_bytes() + json.dumps(shown("r5", 5)).encode() + b"\n")
    stream.restart()
    assert not stream.step() and "impressions/0.jsonl changed after it was read" in faults(stream)["impressions changed"]
    assert len(labels(stream)) == 0 and stream.end().counts["examples"] == 5


def test_a_file_that_is_removed_before_it_is_read_stops_the_join_until_it_is_back(stream: StreamRun) -> None:
    path = stream.put("impressions/0.jsonl", *minutes(0, 5))
    planned = stream.reader.partitions(None, stream.reader.latestOffset(stream.reader.initialOffset(), None))
    path.rename(path.with_name(".kept"))
    with pytest.raises(FileNotFoundError, match=r"0\.jsonl: the file was removed before it was read; copy it back"):
        list(stream.reader.read(planned[0]))
    path.with_name(".kept").rename(path)
    assert stream.end().counts["examples"] == 5


def test_a_clock_that_jumps_ahead_by_a_day_and_back_makes_no_other_event_late(stream: StreamRun) -> None:
    for n in range(8):
        ahead = DAY if n == 3 else 0
        stream.put(f"impressions/{n}.jsonl", *[shown(f"r{m}", m + ahead) for m in range(n * 60, n * 60 + 60)])
        stream.put(f"actions/{n}.jsonl", *[click(f"r{m}", m + ahead + 1) for m in range(n * 60, n * 60 + 59)])
    status = stream.run()
    assert status.late == 0 and status.counts["examples"] > 100, "the watermark moved on"
    found = stream.end()
    assert found.late == 0 and found.counts["examples"] == 480 and found.counts["label: clicked"] == 472


def test_a_clock_that_stays_ahead_is_reported_until_a_second_file_confirms_it(stream: StreamRun) -> None:
    stream.put("impressions/0.jsonl", *minutes(0, 290))
    stream.put("impressions/1.jsonl", *minutes(290, 300))
    stream.put("actions/0.jsonl", *[click(f"r{m}", m) for m in range(300)])
    stream.put("impressions/2.jsonl", *[shown(f"s{m}", DAY + m) for m in range(100)])
    status = stream.run()
    assert 0 < status.watermark < START_OF_NEXT_DAY - 3_600_000_000
    assert "ahead of the other files of its log" in faults(stream, hours=49)["ahead"]
    assert "ahead" not in faults(stream, hours=25)
    stream.put("impressions/3.jsonl", shown("t", DAY + 95), shown("t", DAY + 95.1))
    status = stream.run()
    assert status.counts["examples"] == 300 and status.ahead == 0 and status.late == 0


START_OF_NEXT_DAY = 1_772_409_600_000_000


def test_a_clock_that_jumps_back_by_a_day_makes_late_events_that_are_kept(stream: StreamRun) -> None:
    for n in range(4):
        stream.put(f"impressions/{n}.jsonl", *[shown(f"r{m}", DAY + m) for m in range(n * 120, n * 120 + 120)])
    stream.put("impressions/4.jsonl", *[shown(f"b{m}", m) for m in range(30)])
    stream.put("impressions/5.jsonl", *[shown(f"r{m}", DAY + m) for m in range(480, 490)])
    status = stream.end()
    assert status.counts["examples"] == 490 and status.counts["late impressions"] == status.late == 30
    assert sorted(row["request"] for row in stream.rows("late")) == sorted(f"b{m}" for m in range(30))
    assert "30 events are late" in faults(stream)["late"]


@pytest.mark.parametrize("side", ["impressions", "actions"])
def test_a_key_that_is_missing_on_one_side_is_quarantined(stream: StreamRun, side: str) -> None:
    stream.put("impressions/0.jsonl", *minutes(0, 10))
    stream.put("actions/0.jsonl", click("r3", 4))
    row = shown(None, 5) if side == "impressions" else click(None, 5)
    stream.put(f"{side}/1.jsonl", row, {name: value for name, value in row.items() if name != "request"})
    status = stream.end()
    assert labels(stream) == {f"r{n}": int(n == 3) for n in range(10)}
    assert status.counts["quarantined: key missing"] == status.quarantined == 2
    assert [row["line"] for row in stream.rows(f"quarantine/{side}")] == [1, 2]
    assert "quarantined" in faults(stream)


def test_rows_outside_the_days_of_the_log_are_counted(stream: StreamRun) -> None:
    stream.put("impressions/0.jsonl", *minutes(0, 5), shown("before", -5), shown("after", 4 * DAY))
    status = stream.end()
    assert status.counts["out of range"] == 2 and status.counts["examples"] == 5


def test_a_batch_that_is_repeated_writes_the_same_files(tmp_path: Path) -> None:
    roots = []
    for how in ({}, {"repeat": True}, {"crash": True}):
        stream = StreamRun(tmp_path / str(len(roots)), settings={"batch_bytes": 1})
        for n in range(5):
            stream.put(f"impressions/{n}.jsonl", *minutes(n * 60, n * 60 + 60), "torn")
            stream.put(
                f"actions/{n}.jsonl", *[click(f"r{m}", m + 1) for m in range(n * 60, n * 60 + 60, 3)], click("r0", n * 60)
            )
        while stream.step(**how):
            assert not stream.joining.spool.exists(), "files of tasks are left"
        stream.restart(ends=True)
        while stream.step(**how):
            pass
        roots.append(written_files(stream.root))
        assert stream.status.counts["examples"] == 300
    assert roots[0] == roots[1] == roots[2] and len(roots[0]) > 8


def test_a_file_that_cannot_be_opened_is_quarantined(stream: StreamRun, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.put("impressions/0.jsonl", *minutes(0, 5))
    stream.put("impressions/1.jsonl", *minutes(5, 10))

    def refuse(log: LogSpec, root: UPath, name: str) -> Iterator[ValidatedBlock]:
        if name == "0.jsonl":
            raise PermissionError(f"{name}: permission denied")
        yield from arriving_blocks(log, root, name)

    monkeypatch.setattr("ml.joiner.source.arriving_blocks", refuse)
    assert stream.end().counts["quarantined: cannot be opened"] == 1 and len(labels(stream)) == 5
