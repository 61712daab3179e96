"""The examples of a day equal an independent join of both logs, however the work is divided, and by the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.days import day_bounds, days_from
from ml.joiner.catch_up import join_day
from ml.joiner.days import days_after, days_before, days_of_actions, earlier_impressions
from ml.lake import Lake, MissingPartition
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.stages import JOINED_EXAMPLES
from tests.helpers.joined_logs import drawn, feed, land
from tests.helpers.reference_join import in_order, reference_examples, reference_verdicts

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


def ingest(spec: DatasetSpec, folder: Path, lake: Lake) -> None:
    assert spec.actions_log
    for day in DAYS:
        ingest_day(spec.log, day, folder, lake, LocalRunner())
        ingest_day(spec.actions_log, day, folder, lake, LocalRunner())


def within(table: pa.Table, day: str) -> pa.Table:
    first, until = day_bounds(day, feed().zone)
    return table.filter((pc.field("event_time") >= first) & (pc.field("event_time") < until))


@pytest.mark.parametrize("seed", range(3))
def test_days_equal_an_independent_join_of_the_whole_logs(seed: int, tmp_path: Path, lake: Lake) -> None:
    spec = feed(actions={"labels": {"bought": {"weights": {"buy": 3.5}}}} if seed == 2 else {})
    assert spec.actions
    impressions, actions = drawn(random.Random(seed), 900, 3 * 24 * 60)
    land(tmp_path, impressions, actions)
    ingest(spec, tmp_path, lake)
    end = day_bounds(DAYS[-1], spec.zone)[1]
    impressions, actions = (t.filter(pc.field("event_time") < end) for t in (impressions, actions))
    done = {day: join_day(spec, day, lake, LocalRunner()) for day in DAYS}
    found = pa.concat_tables([raw_table(lake, spec.name, day, JOINED_EXAMPLES) for day in DAYS])
    assert in_order(found.to_pylist()) == reference_examples(spec.actions, impressions, actions)
    counts = sum(of.actions["matched"] for of in done.values())
    assert counts == reference_verdicts(spec.actions, impressions, actions)["matched"]
    for day, of in done.items():
        rows = raw_table(lake, spec.name, day, JOINED_EXAMPLES)
        assert rows.equals(rows.sort_by("event_time")) and len(rows) == of.rows
        assert of.rows + of.repeated + of.without_key == len(within(impressions, day))
        manifest = lake.manifest(JOINED_EXAMPLES, spec.name, day)
        assert manifest["positives"]["clicked"] == pc.sum(rows["clicked"]).as_py() and manifest["rows"] == of.rows
        assert manifest["delays"]["bought"]["p50"] <= manifest["delays"]["bought"]["p99"] < 7200


def test_the_rows_do_not_depend_on_the_division_into_tasks_and_the_bytes_on_nothing(tmp_path: Path, lake: Lake) -> None:
    spec = feed()
    land(tmp_path, *drawn(random.Random(1), 500, 3 * 24 * 60))
    ingest(spec, tmp_path, lake)
    join_day(spec, DAYS[1], lake, LocalRunner())
    (part,) = (lake.partition(JOINED_EXAMPLES, spec.name, DAYS[1]) / "rows").iterdir()
    rows, data = raw_table(lake, spec.name, DAYS[1], JOINED_EXAMPLES), part.read_bytes()
    join_day(spec, DAYS[1], lake, LocalRunner())
    assert part.read_bytes() == data
    join_day(spec, DAYS[1], lake, LocalRunner(), task_rows=100)
    assert in_order(raw_table(lake, spec.name, DAYS[1], JOINED_EXAMPLES).to_pylist()) == in_order(rows.to_pylist())


def test_a_day_needs_the_days_that_its_wait_reaches(tmp_path: Path, lake: Lake) -> None:
    spec = feed()
    land(tmp_path, *drawn(random.Random(1), 50, 3 * 24 * 60))
    assert days_of_actions(spec, DAYS[0]) == DAYS[:2] and days_of_actions(spec, DAYS[2]) == DAYS[2:]
    assert earlier_impressions(spec, DAYS[0]) == [] and earlier_impressions(spec, DAYS[1]) == DAYS[:1]
    long = feed(actions={"labels": {"bought": {"within_hours": 30}}})
    assert days_of_actions(long, DAYS[0]) == DAYS and earlier_impressions(long, DAYS[2]) == DAYS[:2]
    assert spec.actions_log
    ingest_day(spec.log, DAYS[0], tmp_path, lake, LocalRunner())
    ingest_day(spec.actions_log, DAYS[0], tmp_path, lake, LocalRunner())
    with pytest.raises(MissingPartition, match="feed/raw_actions of 2026-03-02 is not in the lake"):
        join_day(spec, DAYS[0], lake, LocalRunner())


@pytest.mark.parametrize("hours", [1, 23, 24, 25, 48])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe"])
def test_the_days_around_reach_as_far_as_those_of_any_day_of_a_year(zone: str, hours: int) -> None:
    wait = {"labels": {"bought": {"within_hours": hours}}}
    spec = feed(time={"timezone": zone}, partitions={"end": None}, actions=wait)
    days = days_from("2026-04-01", 400)
    assert days_after(spec) == max(len(days_of_actions(spec, day)) - 1 for day in days)
    assert days_before(spec) == max(len(earlier_impressions(spec, day)) for day in days)


def test_days_without_rows_have_no_examples(tmp_path: Path, lake: Lake) -> None:
    spec = feed()
    impressions, actions = drawn(random.Random(1), 5, 10)
    land(tmp_path, impressions.slice(0, 0), actions.slice(0, 0))
    ingest(spec, tmp_path, lake)
    assert join_day(spec, DAYS[0], lake, LocalRunner()).rows == 0
    assert raw_table(lake, spec.name, DAYS[0], JOINED_EXAMPLES).column_names[-1] == "bought_delay"
