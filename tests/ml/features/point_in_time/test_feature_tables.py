"""Values of feature tables equal a slow search of the log, and never use what was not known before the row's instant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import ARRIVED, REPLACED, EventLog
from ml.features.point_in_time.feature_tables import with_feature_tables
from ml.schema import ARROW_TYPES, EVENT_TIME, HISTORY_PREFIX
from tests.helpers.feature_values import Row, slow_value

MINUTE = MICROSECONDS_PER_HOUR // 60
TABLES: list[dict[str, Any]] = [
    {
        "name": "item",
        "entity": ["item"],
        "values": [
            {"name": "shown", "count": {"hours": 1}},
            {"name": "idle", "recency": {"hours": 2}},
            {"name": "together", "covisitation": {"session": "visit", "context": 2, "hours": 1, "strength": 3}},
        ],
    },
    {
        "name": "rates",
        "entity": ["item"],
        "known_after_minutes": 20,
        "values": [
            {"name": "ctr", "rate": {"column": "click", "hours": 1, "prior": 0.25, "strength": 2}},
            {"name": "liked", "rate": {"column": "stars", "at_least": 3, "hours": 2}},
        ],
    },
    {
        "name": "clicks",
        "entity": ["user"],
        "where": {"column": "click", "equals": 1},
        "values": [{"name": "clicked", "last": {"column": "item", "most": 2, "hours": 2}}],
    },
    {
        "name": "taste",
        "entity": ["user", "country"],
        "known_after_minutes": 5,
        "values": [{"name": "here", "count": {"hours": 2}}, {"name": "away", "recency": {"hours": 1}}],
    },
]
TYPES: dict[str, Any] = {
    "user": "int", "item": "int", "country": "string", "click": "int", "stars": "float", "visit": "int",
}  # fmt: skip


def news(**changes: Any) -> DatasetSpec:
    declared: dict[str, Any] = {
        "name": "news",
        "description": "Made for tests.",
        "source": {"files": "*.csv", "format": "csv", "columns": {"time": "int", **TYPES}},
        "time": {"column": "time"},
        "partitions": {"start": "1970-01-01"},
        "label": {"column": "click"},
        "user": "user",
        "item": "item",
        "sparse": ["item", {"name": "seen", "history": "clicked"}],
        "dense": ["shown", "idle", "together", "ctr", "liked", "here", "away"],
        "feature_tables": TABLES,
    }
    return DatasetSpec.model_validate(declared | changes)


def in_order(rows: Sequence[Any]) -> list[Row]:
    return sorted(rows, key=lambda row: row[EVENT_TIME])


SPEC = news()
ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.fixed_dictionaries(
        {
            EVENT_TIME: st.integers(0, 60).map(lambda n: n * 5 * MINUTE),
            "user": st.none() | st.integers(0, 2),
            "item": st.none() | st.integers(0, 3),
            "country": st.none() | st.sampled_from(["BR", "DE"]),
            "click": st.integers(0, 1),
            "stars": st.none() | st.integers(1, 5).map(float),
            "visit": st.none() | st.integers(0, 2),
            ARRIVED: st.just(0) | st.integers(0, 70).map(lambda n: n * 5 * MINUTE),
            REPLACED: st.none() | st.integers(0, 70).map(lambda n: n * 5 * MINUTE),
        }
    ),
    max_size=25,
).map(in_order)


def table_of(rows: list[Row], *, dictionaries: bool = False) -> pa.Table:
    columns: dict[str, Any] = {EVENT_TIME: pa.array([row[EVENT_TIME] for row in rows], pa.int64())}
    for name, kind in TYPES.items():
        columns[name] = pa.array([row[name] for row in rows], ARROW_TYPES[kind])
    if dictionaries:
        columns["country"] = columns["country"].dictionary_encode()
    columns[ARRIVED] = pa.array([row.get(ARRIVED, 0) for row in rows], pa.int64())
    return pa.table(columns | {REPLACED: pa.array([row.get(REPLACED) for row in rows], pa.int64())})


def values_of(rows: list[Row], log: list[Row], spec: DatasetSpec = SPEC) -> list[dict[str, Any]]:
    held = table_of(rows, dictionaries=True).drop_columns([ARRIVED, REPLACED])
    made = with_feature_tables(held, spec, EventLog.of(spec, table_of(log)))
    return made.select([*spec.column_types.keys() & spec.table_values, f"{HISTORY_PREFIX}seen"]).to_pylist()


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS)
def test_values_equal_a_slow_search_of_the_log(log: list[Row], others: list[Row]) -> None:
    """The rows are the rows of the log and further rows at random times, so many instants are equal."""
    rows = log + others
    ids = {item: int(hash_values("item", pa.array([item]))[0]) for item in range(4)}
    for row, found in zip(rows, values_of(rows, log), strict=True):
        for table in SPEC.feature_tables:
            for value in table.values:
                slow = slow_value(SPEC, table, value, row, log)
                if value.last:
                    assert found[f"{HISTORY_PREFIX}seen"] == [ids[item] for item in slow]
                else:
                    assert found[value.name] == pytest.approx(slow, abs=1e-12), (value.name, row)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(0, 60), ROWS)
def test_no_value_uses_its_own_time_or_later_or_what_was_not_known(log: list[Row], cut: int, others: list[Row]) -> None:
    """What happens from an instant on, or is known only after it, can be anything: rows up to the instant keep their values."""
    at = cut * 5 * MINUTE
    rows = [row for row in log if row[EVENT_TIME] <= at]
    before = [row for row in log if row[EVENT_TIME] < at and row[ARRIVED] <= at]
    later = [{**row, EVENT_TIME: row[EVENT_TIME] + at} for row in others]
    backfilled = [{**row, ARRIVED: at + 1 + row[ARRIVED]} for row in others]
    for rest in ([], later, backfilled, later + backfilled):
        changed = in_order(before + rest)
        known = [row for row in log if row[ARRIVED] <= at]
        known = [row if (row[REPLACED] or 0) <= at else {**row, REPLACED: None} for row in known]
        assert values_of(rows, changed) == values_of(rows, in_order(known))


def row(minute: int, **changes: Any) -> Row:
    shared = {"user": 1, "item": 1, "country": "BR", "click": 1, "stars": 5.0, "visit": 1}
    return {EVENT_TIME: minute * MINUTE, **shared, **changes}


def test_windows_are_half_open_on_both_sides() -> None:
    log = [row(0), row(60), row(60)]
    found = values_of([row(60), row(61), row(120), row(121)], log)
    assert [one["shown"] for one in found] == [1, 2, 2, 0]
    assert [one["idle"] for one in found] == [3600, 60, 3600, 3660]


def test_two_rows_of_one_key_and_instant_stay_two_rows() -> None:
    found = values_of([row(30), row(30)], [row(10), row(10), row(30), row(30)])
    assert len(found) == 2 and [one["shown"] for one in found] == [2, 2]


def test_an_event_counts_from_the_instant_at_which_it_is_known() -> None:
    log = [row(0)]  # known to `rates` at minute 20
    smoothed = [(1 + 0.5) / 3 if minute >= 20 else 0.25 for minute in (19, 20, 60, 61)]
    assert [one["ctr"] for one in values_of([row(19), row(20), row(60)], log)] == smoothed[:3]
    late = [row(0) | {ARRIVED: 40 * MINUTE}]
    assert [one["ctr"] for one in values_of([row(39), row(40)], late)] == [0.25, 0.5]


def test_a_replaced_event_counts_until_its_replacement_is_known() -> None:
    """A click at minute 0 was logged as none until minute 40; `rates` knows events after 20 minutes."""
    log = [row(0, click=0) | {REPLACED: 40 * MINUTE}, row(0) | {ARRIVED: 40 * MINUTE}]
    found = values_of([row(39), row(40)], log)
    assert [one["shown"] for one in found] == [1, 1]
    assert [one["ctr"] for one in found] == [0.5 / 3, 1.5 / 3]
    assert [len(one[f"{HISTORY_PREFIX}seen"]) for one in found] == [0, 1]
    log = [row(0, click=0) | {REPLACED: 10 * MINUTE}, row(0) | {ARRIVED: 10 * MINUTE}]
    assert [one["ctr"] for one in values_of([row(19), row(20)], log)] == [0.25, 0.5]


def test_a_rate_does_not_depend_on_values_outside_its_window() -> None:
    """Neither an infinite value, which is missing, nor the rounding of a sum over other events changes it."""
    tables = [{"name": "i", "entity": ["item"], "values": [{"name": "mean", "rate": {"column": "stars", "hours": 1}}]}]
    spec = news(feature_tables=tables, dense=["mean"], sparse=["item"])

    def means(log: list[Row]) -> list[float]:
        return with_feature_tables(table_of([row(90)]), spec, EventLog.of(spec, table_of(log)))["mean"].to_pylist()

    known = [row(60, stars=0.1), row(61, stars=0.7), row(62, stars=float("inf"))]
    expected = [pytest.approx((0.1 + 0.7) / 22)]
    assert means(known) == expected
    others = [[row(n, item=item, stars=size) for n in range(20)] for item in range(4) for size in (1e6 / 3, float("inf"))]
    for other in [*others, [row(n, stars=1 / 3) for n in range(29)]]:
        assert means(other + known) == means(known)


def test_values_of_an_item_do_not_reveal_which_rows_are_sampled() -> None:
    """A sampled item has an event in the sampling window, so no other row may look as if it had none."""
    tables = [
        {
            "name": "item",
            "entity": ["item"],
            "values": [
                {"name": "half", "count": {"hours": 0.5}},
                {"name": "all", "count": {"hours": 2}},
                {"name": "idle", "recency": {"hours": 3}},
            ],
        }
    ]
    spec = news(label={"negatives": {"window_hours": 2}}, feature_tables=tables, dense=["all", "half", "idle"], sparse=["item"])
    log = EventLog.of(spec, table_of([row(0)]))
    made = with_feature_tables(table_of([row(0), row(90), row(150)]), spec, log)
    assert made["all"].to_pylist() == [1, 1, 1] and made["half"].to_pylist() == [0, 0, 0]
    assert made["idle"].to_pylist() == [7200, 5400, 7200]
