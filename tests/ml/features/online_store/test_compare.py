"""Served values against those of the log: metrics of each kind, whole days, lags and late events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.features.event_days import write_event_day
from ml.features.online_store.compare import compare_day
from ml.features.online_store.differences import compare_rows, compare_value
from ml.lake import Lake
from tests.helpers.table_days import DAYS, day_rows, table_spec, with_corrected_clicks, write_rows


def test_numbers() -> None:
    served = pa.array([1.0, 2.0, None, 4.0, None, 3.0 + 1e-12])
    offline = pa.array([1.0, 4.0, 5.0, None, None, 3.0])
    found = compare_value("ctr", served, offline)
    assert (found.rows, found.mismatches, found.missing, found.extra, found.differing) == (6, 1, 1, 1, 3)
    assert found.unexplained == 3 and found.distance is None
    assert found.smape == pytest.approx(2 * 2 / 6 / 3)
    assert found.quantiles[0.5] == 0 and found.quantiles[1.0] == 2
    assert compare_rows(served, offline).tolist() == [False, True, True, True, False, False]


def test_lists() -> None:
    served = pa.array([[1, 2, 3], [1], [], [5, 6], None])
    offline = pa.array([[2, 3], [1], [4], [], []])
    found = compare_value("last", served, offline)
    assert (found.mismatches, found.missing, found.extra, found.smape) == (1, 1, 1, None)
    assert found.distance == pytest.approx(0.5)
    assert compare_value("last", pa.array([["a", "b", "c"]]), pa.array([["b", "x", "c"]])).quantiles[1.0] == 2


def test_a_difference_is_explained_by_the_events_that_the_store_had() -> None:
    served, offline, known = pa.array([1, 2, 3, None]), pa.array([1, 9, 9, 9]), pa.array([7, 2, 8, None])
    found = compare_value("seen", served, offline, known)
    assert found.mismatches == 2 and found.missing == 1 and found.unexplained == 1


def test_nothing_is_equal_to_nothing() -> None:
    found = compare_value("seen", pa.array([], pa.int64()), pa.array([], pa.int64()))
    assert found.differing == 0 and found.smape == 0


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.at(tmp_path)
    for number, day in enumerate(DAYS):
        write_rows(lake, table_spec(), day, day_rows(number, 300))
        write_event_day(table_spec(), day, lake)
    return lake


def test_all_events_in_the_store_give_the_values_of_the_log(lake: Lake) -> None:
    found = compare_day(table_spec(), DAYS[2], lake)
    assert [one.value for one in found.differences] == ["shown", "idle", "together", "clicks", "clicked", "ctr"]
    assert all(one.differing == 0 and one.rows > 300 for one in found.differences)
    assert found.lookups["item"] > 300 and found.events > 600 and found.late == 0


def test_a_lag_explains_each_difference(lake: Lake) -> None:
    found = compare_day(table_spec(), DAYS[2], lake, lag_minutes=240)
    assert sum(one.differing for one in found.differences) > 100
    assert found.unexplained == 0


def test_events_that_arrived_after_their_day_explain_differences(lake: Lake) -> None:
    spec = table_spec()
    rows = day_rows(1, 300)
    more = day_rows(1, 30, seed=9)
    both = pa.concat_tables([rows, more])
    order = pa.array(np.argsort(both["event_time"].to_numpy(), kind="stable"))
    lake.discard("feature_tables", spec.name, DAYS[2])
    lake.discard("feature_tables", spec.name, DAYS[3])
    write_rows(lake, spec, DAYS[1], both.take(order))
    write_event_day(spec, DAYS[1], lake)
    write_event_day(spec, DAYS[2], lake)
    found = compare_day(spec, DAYS[2], lake)
    assert found.late == 30
    assert sum(one.differing for one in found.differences) > 0 and found.unexplained == 0


def test_labels_that_were_corrected_after_their_day_explain_differences(lake: Lake) -> None:
    spec = table_spec()
    lake.discard("feature_tables", spec.name, DAYS[2])
    lake.discard("feature_tables", spec.name, DAYS[3])
    write_rows(lake, spec, DAYS[1], with_corrected_clicks(day_rows(1, 300), list(range(0, 300, 10))))
    write_event_day(spec, DAYS[1], lake)
    write_event_day(spec, DAYS[2], lake)
    found = compare_day(spec, DAYS[2], lake)
    differing = {one.value: one.differing for one in found.differences}
    assert found.late == 30 and found.unexplained == 0
    assert differing["ctr"] > 0 and differing["shown"] == 0, "the events are the same, only their labels differ"


def test_a_store_that_loses_events_is_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from ml.features.online_store import compare

    whole = compare._apply
    monkeypatch.setattr(compare, "_apply", lambda writer, events: whole(writer, events.slice(0, len(events) - 5)))
    assert compare_day(table_spec(), DAYS[2], lake).unexplained > 0
