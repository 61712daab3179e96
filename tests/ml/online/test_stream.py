"""Arriving rows are read in order, each exactly once, and what cannot be used is quarantined with the reason."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.feeder import feed_day
from ml.online.stream import AHEAD, EARLIER_DAY, OUT_OF_ORDER, UNREAD, Arrived, LostFile, Position, StreamFolder, stream_folder
from tests.helpers.click_logs import clicks
from tests.helpers.small_logs import LAYOUTS, write_log

DAY = 1_714_521_600  # 2024-05-01


def lines(*times: int) -> str:
    return "".join(f"{DAY + time},i{time % 7},{time % 2}\n" for time in times)


@pytest.fixture
def stream(tmp_path: Path) -> StreamFolder:
    folder = stream_folder(UPath(tmp_path), "clicks")
    folder.mkdir(parents=True)
    return StreamFolder(folder, clicks().log, part_rows=4)


def times(parts: list[Arrived]) -> list[list[int]]:
    return [((part.rows["event_time"].to_numpy() // 10**6) - DAY).tolist() for part in parts]


def reasons(stream: StreamFolder) -> list[tuple[str, int, str]]:
    files = sorted(stream.quarantine.glob("*.parquet"), key=str) if stream.quarantine.exists() else []
    rows = [row for file in files for row in pq.read_table(file.path).to_pylist()]
    return [(row["file"], row["line"], row["reason"]) for row in rows]


def test_files_are_read_in_the_order_of_their_names_and_long_ones_in_parts(stream: StreamFolder) -> None:
    (stream.root / "b.csv").write_text(lines(20, 21))
    (stream.root / "a.csv").write_text(lines(*range(10)))
    found = list(stream.read(Position()))
    assert times(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [20, 21]]
    assert [part.position.is_complete for part in found] == [False, False, True, True]


def test_incomplete_files_are_ignored(stream: StreamFolder) -> None:
    for name in (".a.csv", "_a.csv", "a.csv.part"):
        (stream.root / name).write_text(lines(1))
    assert list(stream.read(Position())) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_that_stops_anywhere_continues_with_the_same_parts(stream: StreamFolder, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(6):
        good = [lines(100 * number + i) for i in range(draw.randrange(12))]
        bad = [draw.choice(["\n", "x,y,1\n", f"{DAY},i,7\n", "1\n"]) for _ in range(draw.randrange(4))]
        mixed = good + bad
        draw.shuffle(mixed)
        (stream.root / f"{number}.csv").write_text("".join(mixed))
    whole = list(stream.read(Position()))
    before = reasons(stream)
    for number, part in enumerate(whole):
        rest = list(stream.read(part.position))
        assert [(r.rows.to_pylist(), r.position, r.quarantined) for r in rest] == [
            (r.rows.to_pylist(), r.position, r.quarantined) for r in whole[number + 1 :]
        ]
    assert reasons(stream) == before and sum(sum(part.quarantined.values()) for part in whole) == len(before)


def test_malformed_rows_and_files_are_quarantined_with_file_line_and_reason(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(0) + "now,i1,0\n" + lines(1) + f"{DAY},i1,2\n")
    (stream.root / "2.csv.gz").write_bytes(gzip.compress(lines(*range(2, 2000)).encode())[:-100])
    (stream.root / "3.parquet").write_bytes(b"not Parquet")
    pq.write_table(pa.table({"other": [1]}), str(stream.root / "4.parquet"))
    (stream.root / "5.csv.bz2").write_bytes(b"packed")
    (stream.root / "6.csv").write_text(lines(3000))
    found = list(stream.read(Position()))
    assert [part for part in times(found) if part][-1] == [3000]
    kept = reasons(stream)
    assert kept[0] == ("1.csv", 2, "bad number in column time") and kept[1] == ("1.csv", 4, "unknown label")
    assert [name for name, _, _ in kept] == ["1.csv", "1.csv", "2.csv.gz", "3.parquet", "4.parquet", "5.csv.bz2"]
    assert kept[2][2].startswith("damaged file") and kept[3][2].startswith("damaged file")


def test_lines_are_numbered_within_the_file_also_in_later_parts(stream: StreamFolder) -> None:
    table = pa.table({"event_time": [DAY * 10**6] * 6, "time": [DAY] * 6, "item": ["i"] * 6, "clicked": [0, 0, 0, 1, 9, 0]})
    pq.write_table(table, str(stream.root / "1.parquet"), row_group_size=2)
    list(stream.read(Position()))
    assert reasons(stream) == [("1.parquet", 5, "unknown label")]


def test_rows_of_a_day_that_is_over_are_quarantined(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(86_400))
    (stream.root / "2.csv").write_text(lines(5, 86_401, 86_399))
    found = list(stream.read(Position()))
    assert times(found) == [[86_400], [86_401]] and found[-1].day == "2024-05-02"
    assert found[-1].quarantined == {EARLIER_DAY: 2}


@pytest.mark.parametrize("later", [86_400 + 7_200, 3 * 86_400])
def test_single_rows_with_a_clock_ahead_do_not_end_the_day(stream: StreamFolder, later: int) -> None:
    (stream.root / "1.csv").write_text(lines(*range(30), later))
    (stream.root / "2.csv").write_text(lines(40))
    found = list(stream.read(Position()))
    assert {part.day for part in found} == {"2024-05-01"} and [t for part in times(found) for t in part] == [*range(30), 40]
    assert sum(part.quarantined.get(AHEAD, 0) for part in found) == 1 and reasons(stream) == [("1.csv", 0, AHEAD)]
    for number, part in enumerate(found):
        assert [r.position for r in stream.read(part.position)] == [r.position for r in found[number + 1 :]]


@pytest.mark.parametrize(
    ("first", "after"), [([86_399] * 30, [86_401]), ([0] * 30, [90_000] * 2), ([0] * 4, [90_000])], ids=["near", "two", "few"]
)
def test_rows_of_the_next_day_end_a_day(stream: StreamFolder, first: list[int], after: list[int]) -> None:
    """If they follow within an hour, are more than one in a hundred, or are in a file of few rows."""
    (stream.root / "1.csv").write_text(lines(*first, *after))
    found = list(stream.read(Position()))
    assert times(found)[-1] == after and found[-1].day == "2024-05-02" and not reasons(stream)


def test_late_rows_are_quarantined_if_features_depend_on_the_order(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(10))
    (stream.root / "2.csv").write_text(lines(9, 10, 11))
    assert times(list(stream.read(Position()))) == [[10], [9, 10, 11]]
    strict = StreamFolder(stream.root, stream.log, in_order=True)
    found = list(strict.read(Position()))
    assert times(found) == [[10], [10, 11]] and found[-1].quarantined == {OUT_OF_ORDER: 1}


def test_rows_outside_the_days_of_the_log_are_counted(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(-5, 3, 100 * 86_400))
    (found,) = stream.read(Position())
    assert times([found]) == [[3]] and (found.out_of_range, found.quarantined) == (2, {})


def test_an_empty_folder_waits_and_says_so_once(stream: StreamFolder) -> None:
    said: list[str] = []
    turns = iter(range(4))

    def wait(seconds: float) -> bool:
        turn = next(turns)
        if turn == 1:
            (stream.root / "1.csv").write_text(lines(1))
        return turn == 3

    assert times(list(stream.follow(Position(), wait, said.append))) == [[1]]
    assert len(said) == 2 and str(stream.root) in said[0] and said[1].endswith("after 1.csv")


def test_a_file_that_arrives_under_an_earlier_name_is_reported(stream: StreamFolder, caplog: pytest.LogCaptureFixture) -> None:
    (stream.root / "2.csv").write_text(lines(1))
    turns = iter(range(3))

    def wait(seconds: float) -> bool:
        (stream.root / "1.csv").write_text(lines(2))
        return next(turns) == 2

    found = list(stream.follow(Position(), wait))
    assert times(found) == [[1], []] and found[1].position == found[0].position and found[1].quarantined == {UNREAD: 1}
    assert reasons(stream) == [("1.csv", 0, UNREAD)]
    assert [r.message for r in caplog.records if "sorts before 2.csv" in r.message]


def follow_once(stream: StreamFolder, position: Position, follower: str = "a") -> list[Arrived]:
    """Follow until there is nothing to read, as a process of its own does."""
    return list(stream.follow(position, lambda _: True, passed=stream.passed(position, follower)))


def test_a_file_that_arrives_under_an_earlier_name_while_nothing_runs_is_reported_at_the_start(stream: StreamFolder) -> None:
    for name in ("2.csv", "4.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    position = follow_once(stream, Position())[-1].position
    for name in ("1.csv", "3.csv", "5.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    found = follow_once(stream, position)
    assert times(found) == [[], [5]] and found[0].quarantined == {UNREAD: 2} and found[0].position == position
    assert reasons(stream) == [("1.csv", 0, UNREAD), ("3.csv", 0, UNREAD)]
    assert follow_once(stream, found[-1].position) == [], "each is reported once"
    first = follow_once(stream, Position(), follower="b")
    assert times(first) == [[1], [2], [3], [4], [5]], "another follower has not passed them"


def test_a_follower_that_was_killed_reads_again_what_came_after_its_position(stream: StreamFolder) -> None:
    for name in ("2.csv", "4.csv", "6.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    position = follow_once(stream, Position())[0].position  # of its last checkpoint, after 2.csv
    with (stream.root.parent / "passed" / "a.txt").open("a") as record:
        record.write("7.c")  # torn
    for name in ("1.csv", "5.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    found = follow_once(stream, position)
    assert times(found) == [[], [4], [5], [6]] and reasons(stream) == [("1.csv", 0, UNREAD)]


def test_a_name_that_is_used_again_after_its_file_was_deleted_is_reported(stream: StreamFolder) -> None:
    for name in ("1.csv", "2.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    position = follow_once(stream, Position())[-1].position
    (stream.root / "1.csv").unlink()
    assert follow_once(stream, position) == []
    (stream.root / "1.csv").write_text(lines(3))
    assert [part.quarantined for part in follow_once(stream, position)] == [{UNREAD: 1}]


def test_without_a_record_the_files_before_the_position_count_as_passed(stream: StreamFolder) -> None:
    """As after a start with a state of an earlier version."""
    for name in ("1.csv", "2.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    position = list(stream.read(Position()))[-1].position
    assert follow_once(stream, position) == []
    (stream.root / "0.csv").write_text(lines(3))
    assert [part.quarantined for part in follow_once(stream, position)] == [{UNREAD: 1}]


def test_an_object_store_keeps_the_record() -> None:
    stream = StreamFolder(UPath("memory://passed-files/examples"), clicks().log)
    for name in ("2.csv", "4.csv"):
        (stream.root / name).write_text(lines(int(name[0])))
    position = follow_once(stream, Position())[-1].position
    (stream.root / "3.csv").write_text(lines(3))
    assert [part.quarantined for part in follow_once(stream, position)] == [{UNREAD: 1}]
    assert follow_once(stream, position) == []


def test_a_file_that_was_removed_in_the_middle_is_named(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(*range(10)))
    first = next(stream.read(Position()))
    (stream.root / "1.csv").unlink()
    with pytest.raises(LostFile, match=r"1\.csv: 4 of its rows were read"):
        list(stream.read(first.position))


def test_lines_without_a_time_are_refused_with_the_way_out(tmp_path: Path) -> None:
    spec = DatasetSpec.model_validate(write_log("banner", tmp_path / "logs", seed=1))
    stream = StreamFolder(UPath(tmp_path / "examples"), spec.log)
    stream.root.mkdir()
    (stream.root / "1.tsv").write_text("1\t2\t3\t4\ta\tb\tc\n")
    (found,) = stream.read(Position())
    assert found.quarantined == {"no event time": 1}
    text = pq.read_table(str(next(iter(stream.quarantine.iterdir())))).to_pylist()[0]["text"].decode()
    assert "write Parquet files with the columns of raw_logs" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_are_fed_arrive_as_the_raw_logs_have_them(layout: str, tmp_path: Path, lake: Lake) -> None:
    spec = DatasetSpec.model_validate(write_log(layout, tmp_path / "logs", seed=3))
    day = spec.days()[1]
    ingest_day(spec.log, day, tmp_path / "logs", lake, LocalRunner())
    stream = StreamFolder(UPath(tmp_path / "stream" / "examples"), spec.log, in_order=True, part_rows=17)
    fed = list(feed_day(spec, day, lake, stream.root, slices=5))
    found = list(stream.read(Position()))
    assert pa.concat_tables([part.rows for part in found]).equals(raw_table(lake, spec.name, day))
    assert {part.day for part in found} == {day} and sum(f.rows for f in fed) == sum(len(part.rows) for part in found)
    assert not any(part.quarantined for part in found)


def test_files_in_the_format_of_the_source_give_the_same_rows(tmp_path: Path, lake: Lake) -> None:
    spec = DatasetSpec.model_validate(write_log("bank", tmp_path / "logs", seed=3))
    day = spec.days()[1]
    ingest_day(spec.log, day, tmp_path / "logs", lake, LocalRunner())
    stream = StreamFolder(UPath(tmp_path / "stream" / "examples"), spec.log, in_order=True)
    stream.root.mkdir(parents=True)
    (stream.root / "a%b[1].csv").write_bytes((tmp_path / "logs" / "09-05-2023.csv").read_bytes())
    (found,) = stream.read(Position())
    assert found.rows.equals(raw_table(lake, spec.name, day))


def test_a_remote_folder_is_read(tmp_path: Path) -> None:
    stream = StreamFolder(UPath("memory://stream-test/examples"), clicks().log)
    stream.root.mkdir(parents=True)
    (stream.root / "1.csv").write_text(lines(1, 2) + "x\n")
    assert times(list(stream.read(Position()))) == [[1, 2]]
    assert stream.quarantine.exists()


def test_part_sizes_do_not_change_the_rows(stream: StreamFolder) -> None:
    (stream.root / "1.csv").write_text(lines(*np.random.default_rng(0).permutation(50).tolist()))
    assert [t for part in times(list(stream.read(Position()))) for t in part] == list(range(50))


class Racing(StreamFolder):
    """A stream in which a file appears after the first listing of the folder."""

    def names(self, after: Position) -> list[str]:
        found = super().names(after)
        (self.root / "1.csv").write_text(lines(1))
        return found


def test_a_file_that_arrives_just_before_it_is_read_is_not_reported(
    stream: StreamFolder, caplog: pytest.LogCaptureFixture
) -> None:
    turns = iter(range(3))
    racing = Racing(stream.root, stream.log)
    assert times(list(racing.follow(Position(), lambda seconds: next(turns) == 2))) == [[1]]
    assert not caplog.records
