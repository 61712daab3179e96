"""Cached blocks are not parsed again, give the same bytes as parsing, and stay within the size limit."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs import validated_blocks
from ml.logs.index import LogIndex
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.sources import LogFile
from tests.ml.logs.test_ingest import DAY, MIDNIGHT, spec
from tests.ml.logs.test_ingest import write_log as write_new_log

RUNNER = LocalRunner()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Records every block that is parsed, as (file, block)."""
    found: list[tuple[str, int]] = []

    def read_blocks(source: Any, file: Any, *more: Any) -> Iterator[Any]:
        for block in original(source, file, *more):
            found.append((file.name, block.index))
            yield block

    original = validated_blocks.read_blocks
    monkeypatch.setattr(validated_blocks, "read_blocks", read_blocks)
    for module in ("streams", "block_ranges"):
        monkeypatch.setattr(f"ml.logs.{module}.BLOCK", 30_000)
    return found


def write_log(folder: Path, in_order: bool, **sizes: int) -> None:
    """Writes a log whose files are an hour old."""
    write_new_log(folder, in_order, **sizes)
    settle(*folder.glob("*.csv"))


def settle(*paths: Path) -> None:
    for path in paths:
        an_hour_ago = path.stat().st_mtime_ns - 3_600_000_000_000
        os.utime(path, ns=(an_hour_ago, an_hour_ago))


def cached(lake: Lake) -> list[Path]:
    return sorted(Path(lake.root.path, "log_index").rglob("*.arrow"))


def ingest(log: LogSpec, logs: Path, lake: Lake) -> dict[str, str]:
    """Ingests a day and returns the digest of each file of its partition."""
    ingest_day(log, DAY, logs, lake, RUNNER, task_bytes=70_000, part_rows=1500)
    folder = Path(lake.partition("raw_logs", "small", DAY).path)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("in_order", [True, False])
def test_a_day_is_the_same_bytes_from_parsed_and_from_cached_blocks(
    in_order: bool, tmp_path: Path, lake: Lake, parsed: list[tuple[str, int]]
) -> None:
    write_log(tmp_path, in_order)
    LogIndex.build(spec(), tmp_path, lake, RUNNER)
    blocks = list(parsed)
    assert len(blocks) == len(set(blocks)) == len(cached(lake)) > 10
    parsed.clear()
    whole = ingest(spec(), tmp_path, lake)
    assert parsed == []
    lost = cached(lake)[::3]
    for path in lost:
        path.unlink()
    torn, flipped = cached(lake)[:2]
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    flipped.write_bytes(flipped.read_bytes().replace(b"f", b"g"))
    assert ingest(spec(), tmp_path, lake) == whole
    assert 0 < len(parsed) <= len(lost) + 2
    parsed.clear()
    for path in cached(lake):
        path.unlink()
    assert ingest(spec(), tmp_path, lake) == whole
    assert len(parsed) > len(lost) + 2


def test_a_truncated_block_is_parsed_again(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "0.csv").write_text(f"{MIDNIGHT},a,1.0,1\nbad\n")
    settle(tmp_path / "0.csv")
    index = LogIndex.build(spec(), tmp_path, lake, RUNNER)
    ((path,), cache, file) = cached(lake), index.cache, index.files[0].file
    assert cache is not None
    block, whole = cache.read(file, 0), path.read_bytes()
    assert block is not None and len(block.row_lines) == len(block.bad_lines) == 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.read(file, 0) is None
    path.unlink()
    assert cache.read(file, 0) is None


def test_another_reading_of_the_log_does_not_see_the_blocks(tmp_path: Path, lake: Lake, parsed: list[tuple[str, int]]) -> None:
    write_log(tmp_path, in_order=False)
    LogIndex.build(spec(), tmp_path, lake, RUNNER)
    before, other = set(cached(lake)), spec(null_tokens=["", "f0 0"])
    parsed.clear()
    LogIndex.build(other, tmp_path, lake, RUNNER)
    assert len(parsed) == len(before) == len(cached(lake)) and not before & set(cached(lake))


def test_changed_files_replace_their_blocks(tmp_path: Path, lake: Lake, parsed: list[tuple[str, int]]) -> None:
    write_log(tmp_path, in_order=False)
    LogIndex.build(spec(), tmp_path, lake, RUNNER)
    before = set(cached(lake))
    path = tmp_path / "2.csv"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    settle(path)
    (tmp_path / "4.csv").unlink()
    parsed.clear()
    LogIndex.build(spec(), tmp_path, lake, RUNNER)
    after = set(cached(lake))
    assert {name for name, _ in parsed} == {"2.csv"} and len(after - before) == len(parsed)
    assert len(after & before) == len(before) * 3 // 5  # the blocks of three of five files


def test_the_cache_is_bounded_and_prefers_new_files(tmp_path: Path, lake: Lake, parsed: list[tuple[str, int]]) -> None:
    write_log(tmp_path, in_order=False)
    size = (tmp_path / "0.csv").stat().st_size
    LogIndex.build(spec(), tmp_path, lake, RUNNER, cache_bytes=size * 5 // 2)
    held = cached(lake)
    assert sum(path.stat().st_size for path in held) <= size * 5 // 2
    assert 0 < len(held) < len(parsed) and len(held) * 5 == len(parsed) * 2  # two of five files
    (tmp_path / "5.csv").write_bytes((tmp_path / "0.csv").read_bytes())
    settle(tmp_path / "5.csv")
    LogIndex.build(spec(), tmp_path, lake, RUNNER, cache_bytes=size * 5 // 2)
    assert cached(lake) and not set(held) & set(cached(lake))


def test_a_file_rewritten_within_one_tick_of_the_clock_is_read_again(tmp_path: Path, lake: Lake) -> None:
    path = tmp_path / "0.csv"
    path.write_text(f"{MIDNIGHT},old,1.0,1\n")
    LogIndex.build(spec(), tmp_path, lake, RUNNER)
    tick = path.stat().st_mtime_ns
    path.write_text(f"{MIDNIGHT},new,1.0,1\n")
    os.utime(path, ns=(tick, tick))
    ingest(spec(), tmp_path, lake)
    assert raw_table(lake, "small", DAY)["v"].to_pylist() == ["new"]


@pytest.mark.parametrize(
    ("stamp", "settled"),
    [
        ("crc:00c0ffee:9", True),
        ("etag:abc:9", True),
        (f"mtime:{time.time_ns() - 10_000_000_000}:9", True),
        (f"mtime:{time.time_ns() + 3_600_000_000_000}:9", False),
        ("mtime:2026-05-02 00:00:00:9", False),
        ("lastmodified:2026-05-02 00:00:00:9", False),
        ("size:9", False),
    ],
    ids=["crc", "etag", "old", "future", "stamp as text", "modified as text", "size alone"],
)
def test_a_file_is_settled_if_every_change_changes_its_stamp(stamp: str, settled: bool) -> None:
    assert LogFile("/logs/0.csv", None, 9, stamp, None, "0.csv").is_settled == settled


def test_parquet_and_logs_without_a_clock_are_not_cached(tmp_path: Path, lake: Lake) -> None:
    write_log(tmp_path, in_order=False, files=1, rows=100)
    log = LogSpec.model_validate(spec().model_dump() | {"time": {"by_position": True}})
    assert LogIndex.build(log, tmp_path, lake, RUNNER).cache is None
    assert not cached(lake)
