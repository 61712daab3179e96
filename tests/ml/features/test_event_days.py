"""Daily features of feature tables equal a slow search of the log, and late data and backfills do not change old rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.features.clean import Limits, clean_day
from ml.features.event_days import EventDay, event_parts, write_event_day
from ml.features.hashing import hash_values
from ml.features.read import feature_parts, feature_table
from ml.lake import Lake, MissingPartition, StalePartition
from ml.parquet import read_parquet
from ml.schema import ARROW_TYPES, MISSING_ID
from ml.stages import CLEANED_FEATURES, FEATURE_TABLES
from tests.helpers.feature_values import slow_value
from tests.helpers.joined_logs import feed
from tests.helpers.table_days import (
    DAYS,
    FIRST,
    MINUTE,
    TABLES,
    day_rows,
    in_time_order,
    table_spec,
    with_corrected_clicks,
    write_rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SPEC = table_spec()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


def make(lake: Lake, spec: DatasetSpec, day: str, rows: int = 200) -> pa.Table:
    write_event_day(spec, day, lake)
    clean_day(spec, day, lake, str(lake.root), LocalRunner(), limits=Limits(rows_per_task=rows))
    return feature_table(lake, spec, day)


def made_days(lake: Lake, log: list[pa.Table], rows: int = 200) -> list[pa.Table]:
    for day, table in zip(DAYS, log, strict=False):
        write_rows(lake, SPEC, day, table)
    return [make(lake, SPEC, day, rows) for day, _ in zip(DAYS, log, strict=False)]


def test_values_of_a_day_use_the_events_of_this_day_and_of_the_days_before(lake: Lake) -> None:
    log = [day_rows(day, 250) for day in range(3)]
    features = made_days(lake, log)[-1]
    events = pa.concat_tables(log).to_pylist()
    ids = {item: int(hash_values("item", pa.array([item]))[0]) for item in range(12)}
    for row, found in zip(log[-1].to_pylist(), features.to_pylist(), strict=True):
        for table in SPEC.feature_tables:
            for value in table.values:
                slow = slow_value(SPEC, table, value, row, events)
                if value.last:
                    assert found["seen"] == ([ids[item] for item in slow] or [MISSING_ID])
                else:
                    assert found[value.name] == pytest.approx(-1 if slow is None else slow, rel=1e-6), value.name


def test_values_do_not_depend_on_how_a_day_is_divided(lake: Lake, tmp_path: Path) -> None:
    log = [day_rows(day, 400) for day in range(2)]
    one, other = made_days(lake, log, 100)[-1], made_days(Lake.at(tmp_path / "other"), log, 10_000)[-1]
    assert one.equals(other)
    assert len(feature_parts(lake, SPEC, DAYS[1])) == 4


@pytest.mark.slow
def test_spark_writes_the_bytes_that_one_process_writes(lake: Lake, tmp_path: Path, spark: SparkSession) -> None:
    other = Lake.at(tmp_path / "other")
    for day in range(2):
        rows = day_rows(day, 400)
        for at, runner in ((lake, LocalRunner()), (other, SparkRunner(spark))):
            write_rows(at, SPEC, DAYS[day], rows)
            write_event_day(SPEC, DAYS[day], at)
            clean_day(SPEC, DAYS[day], at, str(at.root), runner, limits=Limits(rows_per_task=100))
    ours, theirs = (feature_parts(at, SPEC, DAYS[1]) for at in (lake, other))
    assert len(ours) == len(theirs) == 4
    assert [Path(part).read_bytes() for part in ours] == [Path(part).read_bytes() for part in theirs]


@pytest.mark.parametrize("seed", range(3))
def test_a_backfill_changes_no_old_row(lake: Lake, seed: int) -> None:
    """Rows arrive late for three days; those that were there keep their features, byte by byte, and later days see all."""
    log = [day_rows(day, 150, seed) for day in range(4)]
    before = made_days(lake, log[:3])
    late = [day_rows(day, 40, seed + 100) for day in range(3)]
    backfilled = [in_time_order(old, new) for old, new in zip(log, late, strict=False)]
    for day, rows in zip(DAYS, backfilled, strict=False):
        write_rows(lake, SPEC, day, rows)
    after = [make(lake, SPEC, day) for day in DAYS[:3]]
    for old, new, rows, arrived in zip(before, after, log, late, strict=False):
        is_old = np.concatenate([np.ones(len(rows), bool), np.zeros(len(arrived), bool)])
        times = np.concatenate([rows["event_time"].to_numpy(), arrived["event_time"].to_numpy()])
        kept = new.filter(pa.array(is_old[np.argsort(times, kind="stable")]))
        assert kept.equals(old)
    write_rows(lake, SPEC, DAYS[3], log[3])
    last, events = make(lake, SPEC, DAYS[3]), pa.concat_tables([*backfilled, log[3]]).to_pylist()
    item = SPEC.feature_tables[0]
    slow = [slow_value(SPEC, item, item.values[0], row, events) for row in log[3].to_pylist()]
    assert last["shown"].to_pylist() == slow


def test_events_that_arrive_late_are_known_from_the_end_of_the_newest_day(lake: Lake) -> None:
    log = [day_rows(day, 50) for day in range(2)]
    made_days(lake, log)
    write_rows(lake, SPEC, DAYS[0], in_time_order(log[0], day_rows(0, 7, seed=1)))
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(57, late=7, removed=0, corrected=0)
    rows = read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0])
    assert set(rows["arrived"].to_pylist()) == {0, int(np.datetime64("2026-01-03", "us").astype(np.int64))}


def test_a_day_that_is_made_again_has_the_same_bytes(lake: Lake) -> None:
    log = [day_rows(day, 80) for day in range(2)]
    made_days(lake, log)
    write_rows(lake, SPEC, DAYS[0], in_time_order(log[0], day_rows(0, 5, seed=1)))
    write_event_day(SPEC, DAYS[0], lake)
    once = Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes()
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(85, late=5, removed=0, corrected=0)
    assert Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes() == once


def test_equal_rows_are_separate_events_also_when_one_of_them_arrives_late(lake: Lake) -> None:
    rows = day_rows(0, 30)
    write_rows(lake, SPEC, DAYS[0], in_time_order(rows, rows))
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(60, late=0, removed=0, corrected=0)
    write_rows(lake, SPEC, DAYS[0], in_time_order(rows, rows, rows.slice(0, 4)))
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(64, late=4, removed=0, corrected=0)


def test_events_that_the_log_no_longer_has_are_kept_and_counted(lake: Lake) -> None:
    rows = day_rows(0, 30)
    write_rows(lake, SPEC, DAYS[0], rows)
    write_event_day(SPEC, DAYS[0], lake)
    write_rows(lake, SPEC, DAYS[0], rows.slice(3))
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(30, late=0, removed=3, corrected=0)


def test_an_event_whose_label_is_corrected_counts_once(lake: Lake) -> None:
    """The rows of the days that were there keep their features, and later days see each event with its new label."""
    log = [day_rows(day, 150) for day in range(3)]
    before = made_days(lake, log[:2])
    corrected = [with_corrected_clicks(rows, list(range(0, 150, 7))) for rows in log[:2]]
    for day, rows in zip(DAYS, corrected, strict=False):
        write_rows(lake, SPEC, day, rows)
        assert write_event_day(SPEC, day, lake) == EventDay(150, late=0, removed=0, corrected=22)
    for day, old in zip(DAYS, before, strict=False):
        new = make(lake, SPEC, day)
        assert new.drop_columns(["label"]).equals(old.drop_columns(["label"])) and not new.equals(old)
    write_rows(lake, SPEC, DAYS[2], log[2])
    last, events = make(lake, SPEC, DAYS[2]), pa.concat_tables([*corrected, log[2]]).to_pylist()
    for table in SPEC.feature_tables:
        for value in table.values:
            if not value.last:
                slow = [slow_value(SPEC, table, value, row, events) for row in log[2].to_pylist()]
                assert last[value.name].to_pylist() == pytest.approx([-1 if x is None else x for x in slow], rel=1e-6), (
                    value.name
                )


def test_a_label_can_be_corrected_again_and_a_day_without_corrections_has_the_columns_it_had(lake: Lake) -> None:
    rows = day_rows(0, 30)
    write_rows(lake, SPEC, DAYS[0], rows)
    write_event_day(SPEC, DAYS[0], lake)
    assert "replaced_at" not in read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0]).column_names
    write_rows(lake, SPEC, DAYS[0], with_corrected_clicks(rows, [3]))
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(30, late=0, removed=0, corrected=1)
    once = Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes()
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(30, late=0, removed=0, corrected=1)
    assert Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes() == once
    write_rows(lake, SPEC, DAYS[1], day_rows(1, 30))
    write_event_day(SPEC, DAYS[1], lake)
    write_rows(lake, SPEC, DAYS[0], rows)
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(30, late=0, removed=0, corrected=2)
    held = read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0]).to_pylist()
    versions = [
        (row["click"], row["arrived"], row["replaced_at"]) for row in held if row["event_time"] == rows["event_time"][3].as_py()
    ]
    first, flip = rows["click"][3].as_py(), 1 - rows["click"][3].as_py()
    ends = [int(np.datetime64(day, "us").astype(np.int64)) for day in DAYS[1:3]]
    assert versions == [(first, 0, ends[0]), (flip, ends[0], ends[1]), (first, ends[1], None)]


def with_table_of(column: str) -> DatasetSpec:
    """The dataset with a table that reads one more column."""
    return table_spec(feature_tables=[*TABLES, {"name": "more", "entity": [column], "values": [COUNT]}])


COUNT = {"name": "n", "count": {"hours": 1}}


def test_other_tables_keep_the_clocks_of_the_events(lake: Lake) -> None:
    """Late, removed and corrected events of old days stay so when the tables read one more column, or one less."""
    log = [day_rows(day, 150) for day in range(2)]
    made_days(lake, log)
    late = day_rows(0, 40, seed=1)
    changed = in_time_order(with_corrected_clicks(log[0], [70, 90]).slice(5), late)
    write_rows(lake, SPEC, DAYS[0], changed)
    assert write_event_day(SPEC, DAYS[0], lake) == EventDay(190, late=40, removed=5, corrected=2)
    before = [make(lake, SPEC, day) for day in DAYS[:2]]
    held = read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0])
    more = with_table_of("time")
    after = [make(lake, more, day) for day in DAYS[:2]]
    assert all(new.select(old.column_names).equals(old) for old, new in zip(before, after, strict=True))
    found = read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0])
    assert found.select(held.column_names).equals(held)
    current = found.filter(pa.compute.is_null(found["replaced_at"]))
    minutes = (current["event_time"].to_numpy() - FIRST) // MINUTE
    known = current["time"].is_valid().to_numpy()
    assert (current["time"].drop_null().to_numpy() == minutes[known]).all(), "the log has the new column of its events"
    assert np.count_nonzero(~known) == 5, "removed events have no value in a new column"
    write_event_day(SPEC, DAYS[0], lake)
    assert read_parquet(event_parts(lake, SPEC.name, DAYS[0])[0]).equals(held)


def test_what_changed_in_the_log_before_other_tables_read_it_is_late_or_corrected_too(lake: Lake) -> None:
    rows = day_rows(0, 60)
    write_rows(lake, SPEC, DAYS[0], rows)
    write_event_day(SPEC, DAYS[0], lake)
    write_rows(lake, SPEC, DAYS[0], in_time_order(with_corrected_clicks(rows, [7]), day_rows(0, 8, seed=1)))
    more = with_table_of("time")
    assert write_event_day(more, DAYS[0], lake) == EventDay(68, late=8, removed=0, corrected=1)
    once = Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes()
    write_event_day(more, DAYS[0], lake)
    assert Path(event_parts(lake, SPEC.name, DAYS[0])[0]).read_bytes() == once


def test_a_log_that_is_read_in_another_way_starts_again(lake: Lake) -> None:
    write_rows(lake, SPEC, DAYS[0], day_rows(0, 30))
    write_event_day(SPEC, DAYS[0], lake)
    other = table_spec(time={"column": "time", "unit": "ms"})
    write_rows(lake, other, DAYS[0], in_time_order(day_rows(0, 30), day_rows(0, 4, seed=1)))
    assert write_event_day(other, DAYS[0], lake) == EventDay(34, late=0, removed=0, corrected=0)


def test_what_is_missing_or_stale_is_refused(lake: Lake) -> None:
    write_rows(lake, SPEC, DAYS[1], day_rows(1, 10))
    write_event_day(SPEC, DAYS[1], lake)
    with pytest.raises(MissingPartition, match="tables/feature_tables of 2026-01-01"):
        clean_day(SPEC, DAYS[1], lake, str(lake.root), LocalRunner())
    tables: list[dict[str, Any]] = [
        *TABLES,
        {"name": "time", "entity": ["time"], "values": [{"name": "n", "count": {"hours": 1}}]},
    ]
    changed = table_spec(feature_tables=tables)
    assert changed.fingerprint_of(FEATURE_TABLES) != SPEC.fingerprint_of(FEATURE_TABLES)
    fresh = changed.starting_at(DAYS[1])
    with pytest.raises(StalePartition, match="tables/feature_tables of 2026-01-02"):
        clean_day(fresh, DAYS[1], lake, str(lake.root), LocalRunner())


def test_days_made_from_older_events_are_outdated(lake: Lake) -> None:
    log = [day_rows(day, 40) for day in range(2)]
    made_days(lake, log)
    assert not lake.is_outdated(CLEANED_FEATURES, SPEC.name, DAYS[1])
    write_rows(lake, SPEC, DAYS[0], in_time_order(log[0], day_rows(0, 5, seed=1)))
    write_event_day(SPEC, DAYS[0], lake)
    assert lake.is_outdated(CLEANED_FEATURES, SPEC.name, DAYS[1])


def test_a_joined_label_counts_once_its_wait_is_over(lake: Lake) -> None:
    """The label of an impression at minute 0 is final after the longest wait, two hours; that it was shown is known at once."""
    values = [{"name": "ctr", "rate": {"column": "clicked", "hours": 24, "strength": 1}}]
    tables = [{"name": "rates", "entity": ["item"], "values": values}]
    tables += [{"name": "shown", "entity": ["item"], "values": [{"name": "shown_24h", "count": {"hours": 24}}]}]
    spec = feed(feature_tables=tables, dense=["ctr", "shown_24h"], sparse=["item"], partitions={"start": DAYS[0]})
    minutes = [0, 10, 119, 120, 121]
    columns = {name: pa.nulls(5, ARROW_TYPES[kind]) for name, kind in spec.examples_log.source.columns.items()}
    columns |= {"event_time": pa.array([FIRST + minute * MINUTE for minute in minutes]), "item": pa.array([1] * 5)}
    write_rows(lake, spec, DAYS[0], pa.table(columns | {"clicked": pa.array([1] * 5)}))
    made = make(lake, spec, DAYS[0])
    assert made["ctr"].to_pylist() == [0, 0, 0, 0.5, 0.5]
    assert made["shown_24h"].to_pylist() == [0, 1, 2, 3, 4]
