"""A replayed day gives the same files however often it was interrupted, at the pace that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake, MissingPartition
from ml.logs.ingest import ingest_day
from ml.online.feeder import feed_day
from tests.helpers.click_logs import clicks, write_clicks

DAY = "2024-05-02"


@pytest.fixture
def spec(tmp_path: Path, lake: Lake) -> DatasetSpec:
    write_clicks(tmp_path, days=3, rows=100)
    ingest_day(clicks().log, DAY, tmp_path, lake, LocalRunner())
    return clicks()


def contents(folder: UPath) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_replay_continues_with_the_same_files(spec: DatasetSpec, lake: Lake, tmp_path: Path) -> None:
    whole, parts = UPath(tmp_path / "whole"), UPath(tmp_path / "parts")
    assert [fed.rows for fed in feed_day(spec, DAY, lake, whole, slices=8)] == [12, 13, 12, 13, 12, 13, 12, 13]
    for _ in range(3):
        feeding = feed_day(spec, DAY, lake, parts, slices=8)
        next(feeding), next(feeding)
        (parts / ".half.parquet.part").write_bytes(b"half")  # a killed writer
    assert len(list(feed_day(spec, DAY, lake, parts, slices=8))) == 2
    assert contents(parts) == contents(whole)


@pytest.mark.parametrize("other", [{"slices": 10}, {"slices": 4}, {"minutes": 30}], ids=str)
def test_a_replay_is_not_continued_with_files_of_another_width(
    spec: DatasetSpec, lake: Lake, tmp_path: Path, other: dict[str, int]
) -> None:
    folder = UPath(tmp_path / "s")
    feeding = feed_day(spec, DAY, lake, folder, slices=5)
    next(feeding), next(feeding)
    before = contents(folder)
    with pytest.raises(ValueError, match=rf"{DAY}-000000.parquet has 20 rows, and would now have \d+: .* other slices"):
        list(feed_day(spec, DAY, lake, folder, **other))
    assert contents(folder) == before


def test_files_appear_at_the_pace_that_was_asked_for(spec: DatasetSpec, lake: Lake, tmp_path: Path) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 3

    fed = list(feed_day(spec, DAY, lake, UPath(tmp_path / "s"), minutes=360, speed=3600, wait=wait))
    assert len(fed) == 2 and waited == pytest.approx([5.76, 6.0, 6.0])
    again: list[float] = []
    feed = feed_day(spec, DAY, lake, UPath(tmp_path / "s"), minutes=360, speed=3600, wait=lambda s: bool(again.append(s)))
    assert len(list(feed)) == 2 and again == pytest.approx([6.0, 6.0])


def test_a_day_that_is_not_in_the_lake_and_a_speed_of_zero_are_refused(spec: DatasetSpec, lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(MissingPartition):
        next(feed_day(spec, "2024-05-03", lake, UPath(tmp_path / "s")))
    with pytest.raises(ValueError, match="speed: expected a positive number, found 0"):
        next(feed_day(spec, DAY, lake, UPath(tmp_path / "s"), speed=0))
