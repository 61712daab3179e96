"""One dataset can have two logs, each with its own files, columns, days and stage of the lake."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day, is_current
from ml.logs.landing import landed_days
from ml.logs.read import quarantine_table, raw_table

DAY = "2026-03-02"
NOON = 1772452800  # 2026-03-02 12:00 UTC
PARTITIONS = {"start": date(2026, 3, 1), "end": date(2026, 3, 3)}


def make_log(stage: str, files: str, columns: dict[str, str], **more: Any) -> LogSpec:
    data = {"dataset": "shop", "stage": stage, "source": {"files": files, "format": "csv", "columns": columns}}
    return LogSpec.model_validate(data | {"time": {"column": "time"}, "partitions": PARTITIONS} | more)


IMPRESSIONS = make_log("raw_impressions", "impressions/*.csv", {"time": "int", "user": "int", "item": "string"})
ACTIONS = make_log(
    "raw_actions", "actions/%Y-%m-%d.csv", {"user": "int", "time": "int", "bought": "int"}, label={"column": "bought"}
)


def land(folder: Path) -> None:
    for name, text in {
        "impressions/a.csv": f"{NOON},1,hat\n{NOON - 86400},2,bag\n{NOON - 5},3,hat\n",
        f"actions/{DAY}.csv": f"1,{NOON + 60},1\n3,{NOON + 30},0\n3,{NOON + 31},2\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_two_logs_of_one_dataset_are_ingested_side_by_side(tmp_path: Path, lake: Lake) -> None:
    land(tmp_path)
    assert [ingest_day(log, DAY, tmp_path, lake, LocalRunner()).rows for log in (IMPRESSIONS, ACTIONS)] == [2, 2]
    impressions = raw_table(lake, "shop", DAY, stage="raw_impressions").drop_columns("event_time").to_pylist()
    assert impressions == [{"time": NOON - 5, "user": 3, "item": "hat"}, {"time": NOON, "user": 1, "item": "hat"}]
    actions = raw_table(lake, "shop", DAY, stage="raw_actions").drop_columns("event_time").to_pylist()
    assert actions == [{"user": 3, "time": NOON + 30, "bought": 0}, {"user": 1, "time": NOON + 60, "bought": 1}]
    assert quarantine_table(lake, "shop", DAY, stage="raw_actions").column("reason").to_pylist() == ["unknown label"]
    assert quarantine_table(lake, "shop", DAY, stage="raw_impressions").num_rows == 0
    assert not lake.has("raw_logs", "shop", DAY)


def test_a_change_of_one_log_leaves_the_other_current(tmp_path: Path, lake: Lake) -> None:
    land(tmp_path)
    for log in (IMPRESSIONS, ACTIONS):
        ingest_day(log, DAY, tmp_path, lake, LocalRunner())
    (tmp_path / "impressions" / "b.csv").write_text(f"{NOON + 1},4,bag\n")
    assert [is_current(log, DAY, tmp_path, lake) for log in (IMPRESSIONS, ACTIONS)] == [False, True]
    assert [(d.key, d.current) for d in landed_days(IMPRESSIONS, tmp_path, lake)] == [("2026-03-01", False), (DAY, False)]
    assert [(d.key, d.current) for d in landed_days(ACTIONS, tmp_path, lake)] == [(DAY, True)]
    assert IMPRESSIONS.fingerprint != ACTIONS.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": {"column": "when"}}, "no column 'when'"),
        ({"time": {"column": "user", "unit": "iso8601"}}, "'user' is int; unit iso8601 needs string"),
        ({"label": {"column": "bought"}}, "no column 'bought'"),
        ({"time": {"by_position": True}, "partitions": {"start": date(2026, 3, 1)}}, "needs partitions.end"),
    ],
)
def test_a_log_that_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LogSpec.model_validate(IMPRESSIONS.model_dump() | change)
