"""Sampled negatives come from the window before the event, exclude the user's own items, and are drawn at their sample rate."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.spec import Negatives
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.point_in_time.negatives import Events, Sample, sample, with_negatives

HOUR = MICROSECONDS_PER_HOUR


def log(times: list[int], users: list[int | None], items: list[int | None]) -> pa.Table:
    return pa.table(
        {
            "event_time": pa.array(times, pa.int64()),
            "user": pa.array(users, pa.int64()),
            "item": pa.array(items, pa.int64()),
            "page": list(range(len(times))),
        }
    )


def random_log(rows: int, seed: int, users: int = 12, items: int = 25, hours: int = 40) -> pa.Table:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, hours * 60, rows)) * 60_000_000  # whole minutes, so that many events have the same time
    who = [None if rng.random() < 0.1 else int(u) for u in rng.integers(0, users, rows)]
    what = [None if rng.random() < 0.05 else int(i) for i in rng.zipf(1.4, rows) % items]
    return log(times.tolist(), who, what)


def drawn(table: pa.Table, sampled: Sample, start: int = 0) -> dict[int, list[tuple[int, float]]]:
    """Maps the position of an event in the log to the items and rates of its negatives."""
    items = table["item"].to_pylist()
    out: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for positive, event, rate in zip(sampled.positive, sampled.event, sampled.rate, strict=True):
        out[start + int(positive)].append((items[event], float(rate)))
    return out


def candidates(table: pa.Table, at: int, window: int, first: int) -> Counter[int]:
    """Counts the events of each candidate item for the event at a position, slowly.

    Args:
        table: The log.
        at: Position of the event.
        window: Length of the window in microseconds.
        first: Position of the day's first event.
    """
    times, users, items = (table[name].to_pylist() for name in ("event_time", "user", "item"))
    of_user = {n for n in range(len(times)) if users[n] == users[at] and times[n] >= times[first] - window}
    own = {items[at]} if users[at] is None else {items[n] for n in of_user}
    near = (n for n in range(len(times)) if times[at] - window <= times[n] < times[at])
    return Counter(items[n] for n in near if items[n] is not None and items[n] not in own)


def events_of_its_item(table: pa.Table, at: int, window: int) -> int:
    """Counts the events of the item of the event at a position, in the window before it."""
    times, items = table["event_time"].to_pylist(), table["item"].to_pylist()
    near = [n for n in range(len(times)) if times[at] - window <= times[n] < times[at]]
    return sum(items[n] == items[at] for n in near) if items[at] is not None else 0


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 6), st.sampled_from([0.5, 3.0, 100.0]), st.integers(0, 30))
@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_negatives_against_a_slow_reference(draw: str, seed: int, rows: int, k: int, hours: float, start: int) -> None:
    table = random_log(rows, seed)
    negatives = Negatives.model_validate({"per_positive": k, "window_hours": hours, "draw": draw, "seed": seed})
    start = min(start, rows)
    sampled = sample(Events.of(table, "user", "item"), start, rows, 0, negatives, "2020-01-02")
    got = drawn(table, sampled, start)
    without = 0
    for at in range(start, rows):
        may = candidates(table, at, round(hours * HOUR), start)
        items = [item for item, _ in got[at]]
        assert set(items) <= set(may), "items are from the window and not the user's own"
        assert len(set(items)) == len(items), "items are distinct"
        without += not items
        assert bool(items) == bool(may)
        if draw == "uniform":
            assert len(items) == min(k, len(may))
            expected = {item: min(1.0, k / len(may)) for item in items}
        else:
            expected = {item: 1 - (1 - may[item] / may.total()) ** k for item in items}
        for item, rate in got[at]:
            assert rate == pytest.approx(expected[item], rel=1e-5)
            assert 0 < rate <= 1
        own = float(sampled.own_rate[at - start])
        if not items or draw == "uniform":
            assert {own} == {rate for _, rate in got[at]} or (own == 1 and not items)
        else:
            taken = max(1, events_of_its_item(table, at, round(hours * HOUR)))
            assert own == pytest.approx(1 - max(0, 1 - taken / may.total()) ** k, rel=1e-5)
    assert sampled.without == without


@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_several_tasks_draw_the_same_as_one(draw: str) -> None:
    table = random_log(3000, 3)
    events = Events.of(table, "user", "item")
    negatives = Negatives.model_validate({"per_positive": 3, "window_hours": 2, "draw": draw})
    first = 1000  # the day begins here; earlier events are in the window
    whole = sample(events, first, 3000, 0, negatives, "2020-01-02")
    edges = [1000, 1001, 1500, 1500, 2750, 3000]
    parts = [sample(events, a, b, a - first, negatives, "2020-01-02") for a, b in itertools.pairwise(edges)]
    assert np.concatenate([p.event for p in parts]).tolist() == whole.event.tolist()
    assert np.concatenate([p.rate for p in parts]).tolist() == whole.rate.tolist()
    assert sum(p.without for p in parts) == whole.without


def test_seed_and_day_change_the_draws() -> None:
    table = random_log(500, 4)
    events = Events.of(table, "user", "item")
    draws = [
        sample(events, 0, 500, 0, Negatives(per_positive=2, window_hours=5, seed=seed), day).event.tolist()
        for seed, day in ((0, "2020-01-02"), (0, "2020-01-02"), (1, "2020-01-02"), (0, "2020-01-03"))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2] != draws[3] != draws[0]


@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_items_are_drawn_at_their_sample_rate(draw: str) -> None:
    shown = [1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 9, None]
    times = [n for n in range(len(shown))] + [HOUR] * 40_000
    table = log(times, [None] * len(shown) + [7] * 40_000, [*shown, *[9] * 40_000])
    negatives = Negatives.model_validate({"per_positive": 2, "window_hours": 2, "draw": draw})
    sampled = sample(Events.of(table, "user", "item"), len(shown), len(times), 0, negatives, "2020-01-02")
    seen: Counter[int] = Counter()
    rates: dict[int, set[float]] = defaultdict(set)
    for item, rate in (pair for pairs in drawn(table, sampled).values() for pair in pairs):
        seen[item] += 1
        rates[item].add(rate)
    assert set(seen) == {1, 2, 3, 4}
    for item, (rate,) in rates.items():
        assert seen[item] / 40_000 == pytest.approx(rate, abs=0.012)


def test_a_user_of_almost_every_item_gets_the_remaining_candidates() -> None:
    times, items = list(range(2001)), [1] * 2000 + [2]
    table = log([*times, HOUR], [5] * 2000 + [6, 5], [*items, 1])
    negatives = Negatives(per_positive=4, window_hours=2, draw="popularity")
    sampled = sample(Events.of(table, "user", "item"), 2001, 2002, 0, negatives, "2020-01-02")
    assert drawn(table, sampled) == {0: [(2, 1.0)]}


def test_negatives_follow_their_positive_with_its_context() -> None:
    table = random_log(200, 5)
    events = Events.of(table, "user", "item")
    sampled = sample(events, 0, 200, 0, Negatives(per_positive=3, window_hours=10), "2020-01-02")
    got = with_negatives(table, "item", events, sampled)
    assert len(got) == 200 + len(sampled.positive)
    assert got["event_time"].to_pylist() == sorted(got["event_time"].to_pylist())
    logged = got.filter(pa.array(got["sampled:label"].to_numpy() == 1))
    assert logged.select(table.column_names).equals(table)
    assert logged["sample_rate"].to_pylist() == sampled.own_rate.tolist()
    again = drawn(table, sampled)
    current: dict = {}
    for row in got.to_pylist():
        if row["sampled:label"] == 1:
            current, expected = row, iter(again[row["page"]])
        else:
            assert (row["item"], row["sample_rate"]) == next(expected)
            assert all(row[name] == current[name] for name in ("event_time", "user", "page"))


def test_an_empty_task_has_no_negatives() -> None:
    events = Events.of(random_log(5, 6), "user", "item")
    assert sample(events, 5, 5, 0, Negatives(), "2020-01-02").positive.tolist() == []
