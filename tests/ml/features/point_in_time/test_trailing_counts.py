"""Trailing counts equal the counts of a slow search, and do not reveal which rows are sampled."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.spec import Negatives
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.features.point_in_time.trailing_counts import recent_counts, with_recent

MINUTE = MICROSECONDS_PER_HOUR // 60
LOG = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4)), max_size=60)


def events_of(log: list[tuple[int, int]]) -> tuple[Events, list[tuple[int, int]]]:
    log = sorted(log)
    table = pa.table(
        {
            "event_time": pa.array([minute * MINUTE for minute, _ in log], pa.int64()),
            "user": pa.array([0] * len(log), pa.int64()),
            "item": pa.array([item for _, item in log], pa.int64()),
        }
    )
    return Events.of(table, "user", "item"), log


@given(LOG, LOG, st.sampled_from([0.5, 1.0, 2.5]))
def test_events_in_the_hours_before_are_counted(log, queries, hours):
    events, log = events_of(log)
    items = hash_values("item", pa.array([item for _, item in queries], pa.int64()))
    times = np.array([minute * MINUTE for minute, _ in queries], np.int64)
    found = recent_counts(events, items, times, Negatives(window_hours=6.0, recent={"n": hours}))["n"]
    slow = [sum(i == item and minute - hours * 60 <= m < minute for m, i in log) for minute, item in queries]
    assert found.tolist() == slow


@given(LOG)
def test_a_count_over_the_window_does_not_reveal_a_positive(log):
    """A sampled item has an event in the window, so every row must have a count of at least 1."""
    events, log = events_of(log)
    rows = pa.table({"event_time": pa.array([m * MINUTE for m, _ in log], pa.int64()),
                     "item": pa.array([i for _, i in log], pa.int64())})  # fmt: skip
    made = with_recent(rows, "item", events, Negatives(window_hours=2.0, recent={"half": 0.5, "all": 2.0, "more": 3.0}))
    slow = [sum(i == item and minute - 120 <= m < minute for m, i in log) for minute, item in log]
    assert made["all"].to_pylist() == [max(1, count) for count in slow]
    assert min([1, *made["more"].to_pylist()]) == 1 and min([0, *made["half"].to_pylist()]) == 0


def test_a_row_without_an_item_has_no_events_before_it():
    times = pa.array([n * MINUTE for n in range(3)], pa.int64())
    table = pa.table({"event_time": times, "user": pa.array([1, 1, 1]), "item": pa.array([None, None, None], pa.int64())})
    made = with_recent(table, "item", Events.of(table, "user", "item"), Negatives(recent={"clicks_1h": 1.0}))
    assert made["clicks_1h"].to_pylist() == [0, 0, 0]


def test_events_at_the_time_of_the_row_are_not_counted():
    events, _ = events_of([(10, 1), (10, 1), (20, 1)])
    rows = pa.table({"event_time": pa.array([10 * MINUTE, 20 * MINUTE], pa.int64()), "item": pa.array([1, 1], pa.int64())})
    made = with_recent(rows, "item", events, Negatives(recent={"clicks_1h": 1.0}))
    assert made["clicks_1h"].to_pylist() == [0, 2]


@pytest.mark.parametrize(("recent", "hours"), [({}, 6.0), ({"a": 1.0}, 6.0), ({"a": 1.0, "b": 30.0}, 30.0)])
def test_look_back_covers_the_longest_window(recent: dict[str, float], hours: float):
    assert Negatives(window_hours=6.0, recent=recent).look_back_hours == hours
