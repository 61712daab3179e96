"""The rows of a finished day become a file of the log, or the reason why not is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_parts, raw_table
from ml.online.landing import CannotLand, land_day
from tests.helpers.small_logs import write_log


def delivered(layout: str, tmp_path: Path, lake: Lake, **source: object) -> tuple[DatasetSpec, str, list[UPath]]:
    """A day of a log in the lake, and its rows."""
    entry = write_log(layout, tmp_path / "logs", 1)
    first = DatasetSpec.model_validate(entry)
    day = first.days()[1]
    ingest_day(first.log, day, tmp_path / "logs", lake, LocalRunner())
    spec = DatasetSpec.model_validate(entry | {"source": {**entry["source"], **source}})
    return spec, day, [UPath(part) for part in raw_parts(lake, spec.name, day)]


CSV = {"files": "%Y/%m/clicks-%d-*.csv", "format": "csv", "header": True, "separator": None, "quoted": False}


@pytest.mark.parametrize(
    ("layout", "source"),
    [
        ("tracker", {}),
        ("tracker", CSV),
        ("tracker", {**CSV, "format": "tsv", "header": False}),
        ("bank", {**CSV, "quoted": True, "encoding": "utf-8", "rename": {}, "null_tokens": [""]}),
    ],
)
def test_a_landed_day_is_read_as_its_rows(layout: str, source: dict[str, object], tmp_path: Path, lake: Lake) -> None:
    spec, day, rows = delivered(layout, tmp_path, lake, **source)
    landing = UPath(tmp_path / "landing")
    landed = land_day(spec.log, day, rows, landing, UPath(tmp_path / "scratch"))
    assert landed.exists() and not list((tmp_path / "scratch").iterdir())
    again = Lake.at(tmp_path / "again")
    ingest_day(spec.log, day, str(landing), again, LocalRunner())
    assert raw_table(again, spec.name, day).equals(raw_table(lake, spec.name, day))
    with pytest.raises(CannotLand, match="has files of the day"):
        land_day(spec.log, day, rows, landing, UPath(tmp_path / "scratch"))


@pytest.mark.parametrize(
    ("layout", "source", "reason"),
    [
        ("ratings", {}, "does not give the name of a day's file"),
        ("shop", {}, "would be a compressed file"),
        ("shop", {"files": "%Y-%m-%d.jsonl"}, "cannot be written"),
        ("bank", {"files": "%Y-%m-%d.csv"}, "cannot be written"),
        ("bank", {**CSV, "encoding": "utf-8", "rename": {}, "null_tokens": ["", "Rio"]}, "cannot store all values"),
    ],
)
def test_a_day_that_cannot_be_landed_has_a_reason(
    layout: str, source: dict[str, object], reason: str, tmp_path: Path, lake: Lake
) -> None:
    spec, day, rows = delivered(layout, tmp_path, lake, **source)
    with pytest.raises(CannotLand, match=reason):
        land_day(spec.log, day, rows, UPath(tmp_path / "landing"), UPath(tmp_path / "scratch"))
    assert not (tmp_path / "landing").exists()
