"""The follower of the online store: rows of a stream folder, each applied once, whatever stops it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from ml.online.feature_store import follow_features
from ml.online.stream import UNREAD, LostFile, StreamFolder
from ml.schema import EVENT_TIME
from tests.helpers.naive_tables import assert_same, naive_values
from tests.helpers.store_tables import ITEM, MINUTE, TABLES, TYPES, plan_of, random_events

PLAN = plan_of(TABLES)
LOG = LogSpec.model_validate(
    {
        "dataset": "shop",
        "source": {"files": "*.parquet", "format": "parquet", "columns": {"at": "int", **TYPES}},
        "time": {"column": "at", "unit": "us"},
        "partitions": {"start": "1970-01-01", "end": "1970-01-03"},
    }
)
ROWS, FILES = 200, 8
DAY = 24 * 60 * MINUTE


def stream(folder: Path, *, part_rows: int = 30) -> StreamFolder:
    return StreamFolder(UPath(folder / "stream"), LOG, part_rows=part_rows)


def events() -> pa.Table:
    return random_events(ROWS, 4, hours=40)  # two days


def write_files(folder: Path, first: int = 0, stop: int = FILES) -> None:
    root = folder / "stream"
    root.mkdir(exist_ok=True)
    table = events()
    table = table.add_column(1, "at", table[EVENT_TIME])
    edges = [number * ROWS // FILES for number in range(FILES + 1)]
    for number in range(first, stop):
        part = table.slice(edges[number], edges[number + 1] - edges[number])
        pq.write_table(part, root / f"{number:03d}.parquet")


def follow(folder: Path, most: int = 1000, *, rebuild: bool = False, part_rows: int = 30) -> list[str]:
    """Follow until nothing is left, or for some parts, and return the messages."""
    said: list[str] = []
    done = 0

    def wait(seconds: float) -> bool:
        return seconds > 0 or done >= most

    with StoreWriter(folder / "store", PLAN, history_hours=100, rebuild=rebuild) as writer:
        for _ in follow_features(writer, stream(folder, part_rows=part_rows), wait, said.append):
            done += 1
    return said


def check(folder: Path) -> None:
    rows = events().to_pylist()
    reader = StoreReader(folder / "store", PLAN)
    assert reader.meta.rows == ROWS
    found = reader.lookup("item", events(), events()[EVENT_TIME].to_numpy())
    assert_same(found.columns.to_pylist(), [naive_values(ITEM, rows, row, row[EVENT_TIME]) for row in rows])


def test_rows_that_arrive_are_looked_up(tmp_path: Path) -> None:
    write_files(tmp_path, 0, 3)
    assert "waiting" in follow(tmp_path)[0]
    write_files(tmp_path, 3)
    follow(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize("most", [1, 3])
def test_a_follower_continues_where_it_stopped(tmp_path: Path, most: int) -> None:
    write_files(tmp_path)
    for _ in range(20):
        follow(tmp_path, most)
    check(tmp_path)


def test_a_rebuild_gives_the_same(tmp_path: Path) -> None:
    write_files(tmp_path)
    follow(tmp_path, 4)
    reader = StoreReader(tmp_path / "store", PLAN)
    before = reader.meta
    follow(tmp_path, 2, rebuild=True)  # stopped before it is complete
    assert reader.meta == before
    assert f"rebuilt from {ROWS:,} rows" in follow(tmp_path, rebuild=True)[0]
    check(tmp_path)
    assert reader.meta.rows == ROWS


def test_a_file_under_an_earlier_name_is_counted_at_the_next_start_and_in_a_rebuild(tmp_path: Path) -> None:
    write_files(tmp_path, 1)
    follow(tmp_path)
    write_files(tmp_path, 0, 1)
    with StoreWriter(tmp_path / "store", PLAN, history_hours=100) as writer:
        (part,) = follow_features(writer, stream(tmp_path), lambda seconds: seconds > 0)
    assert (part.rows, part.quarantined) == (0, {UNREAD: 1})
    with StoreWriter(tmp_path / "store", PLAN, history_hours=100, rebuild=True) as writer:
        parts = list(follow_features(writer, stream(tmp_path), lambda seconds: seconds > 0))
    assert not any(part.quarantined for part in parts)
    check(tmp_path)


def test_a_file_that_was_taken_in_part_must_be_there(tmp_path: Path) -> None:
    write_files(tmp_path)
    follow(tmp_path, 1, part_rows=10)
    (tmp_path / "stream" / "000.parquet").unlink()
    with pytest.raises(LostFile):
        follow(tmp_path)


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "stream" / "002b.parquet").write_bytes(b"damaged")
    with StoreWriter(tmp_path / "store", PLAN, history_hours=100) as writer:
        parts = list(follow_features(writer, stream(tmp_path), lambda seconds: seconds > 0))
    assert sum(sum(part.quarantined.values()) for part in parts) == 1
    assert sum(part.rows for part in parts) == ROWS
    check(tmp_path)
