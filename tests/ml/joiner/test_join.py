"""The join gives what an independent join gives, whatever the order of the rows and wherever the log is divided."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml.catalog.actions import Actions
from ml.joiner.join import AFTER_WAIT, BEFORE, LATE, MATCHED, NO_IMPRESSION, REASON, join, look_back
from tests.helpers.joined_logs import MINUTE, START, drawn, feed, table_of
from tests.helpers.reference_join import in_order, reference_examples, reference_verdicts

END = START + 10**6 * MINUTE


def rules() -> Actions:
    found = feed().actions
    assert found
    return found


def shown(*rows: tuple[float, str]) -> pa.Table:
    """Impressions by minute and request."""
    base = {"item": 1, "user": 1, "price": 1.0}
    found = [{"event_time": START + round(at * MINUTE), "request": r, **base} for at, r in rows]
    return table_of([{**row, "shown_at": row["event_time"] // 1000} for row in found], "impressions")


def done(*rows: tuple[float, str, str]) -> pa.Table:
    """Actions by minute, request and type."""
    found = [{"event_time": START + round(at * MINUTE), "request": r, "item": 1, "kind": kind} for at, r, kind in rows]
    return table_of([{**row, "at": row["event_time"] // 1000} for row in found], "actions")


@pytest.mark.parametrize("seed", range(20))
def test_the_join_equals_an_independent_one(seed: int) -> None:
    impressions, actions = drawn(random.Random(seed), 300, 600)
    found = join(rules(), impressions, actions, END)
    assert in_order(found.examples.to_pylist()) == reference_examples(rules(), impressions, actions)
    assert found.actions == reference_verdicts(rules(), impressions, actions)
    missing = impressions["request"].null_count
    assert len(found.examples) + found.repeated + missing == len(impressions) and found.without_key == missing
    counted = Counter(found.unmatched[REASON].to_pylist())
    assert counted == Counter({k: n for k, n in found.actions.items() if k not in ("matched", "repeated")})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weights", [{"buy": 5.0}, {"buy": 0.25, "order": 0.5}])
def test_weighted_labels_equal_an_independent_join(seed: int, weights: dict[str, float]) -> None:
    weighted = feed(actions={"labels": {"bought": {"types": ["buy", "order"], "within_hours": 2, "weights": weights}}}).actions
    assert weighted
    impressions, actions = drawn(random.Random(seed), 300, 600)
    found = join(weighted, impressions, actions, END)
    assert in_order(found.examples.to_pylist()) == reference_examples(weighted, impressions, actions)
    assert set(found.examples["bought_weight"].to_pylist()) == {1.0, *weights.values()}


def test_an_example_weighs_as_much_as_the_heaviest_action_in_its_wait() -> None:
    labels = {"engaged": {"types": ["click", "order"], "within_minutes": 30, "weights": {"order": 5}}}
    weighted = feed(actions={"labels": {**labels, "clicked": {"types": ["click"], "within_minutes": 30}}}).actions
    assert weighted
    actions = done(
        (1, "a", "click"), (2, "b", "click"), (3, "b", "order"), (4, "b", "order"), (1, "c", "click"), (40, "c", "order")
    )
    found = join(weighted, shown((0, "a"), (0, "b"), (0, "c"), (0, "d")), actions, END).examples
    rows = {row["request"]: (row["engaged"], row["engaged_weight"], row["clicked"]) for row in found.to_pylist()}
    assert rows == {"a": (1, 1.0, 1), "b": (1, 5.0, 1), "c": (1, 1.0, 1), "d": (0, 1.0, 0)}
    assert "clicked_weight" not in found.column_names


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    draw = random.Random(seed)
    impressions, actions = drawn(draw, 200, 60)
    other = [t.take(pa.array(draw.sample(range(len(t)), len(t)))) for t in (impressions, actions)]
    one, two = join(rules(), impressions, actions, END), join(rules(), other[0], other[1], END)
    assert one.examples.equals(two.examples) and one.actions == two.actions


@pytest.mark.parametrize("minutes", [7, 45, 120, 300])
def test_spans_give_the_examples_of_the_whole(minutes: int) -> None:
    impressions, actions = drawn(random.Random(minutes), 600, 600)
    whole = join(rules(), impressions, actions, END)
    examples, counts, known = [], Counter[str](), None
    for first in range(START - 10 * MINUTE, START + 1200 * MINUTE, minutes * MINUTE):
        until = first + minutes * MINUTE
        found = join(rules(), within(impressions, first, until), within(actions, first, until + rules().wait), until, known)
        examples.append(found.examples)
        counts += found.actions
        known = within(found.known, until - look_back(rules()), until)
    assert in_order(pa.concat_tables(examples).to_pylist()) == in_order(whole.examples.to_pylist())
    before, whole_before = counts.pop(BEFORE, 0), whole.actions.pop(BEFORE, 0)
    assert before <= whole_before  # an impression of a later span is not known yet
    counts[NO_IMPRESSION] += before - whole_before
    assert counts == whole.actions


def within(table: pa.Table, first: int, until: int) -> pa.Table:
    return table.filter((pc.field("event_time") >= first) & (pc.field("event_time") < until))


def test_the_wait_is_half_open() -> None:
    actions = done((0, "a", "click"), (30, "b", "click"), (29.999, "c", "click"))
    found = join(rules(), shown((0, "a"), (0, "b"), (0, "c")), actions, END)
    rows = {row["request"]: (row["clicked"], row["clicked_delay"]) for row in found.examples.to_pylist()}
    assert rows == {"a": (1, 0.0), "b": (0, None), "c": (1, pytest.approx(1799.94))}
    assert found.actions == {MATCHED: 2, AFTER_WAIT: 1}


def test_each_label_has_its_own_types_and_wait() -> None:
    found = join(rules(), shown((0, "a")), done((40, "a", "order"), (5, "a", "click"), (50, "a", "buy")), END)
    (row,) = found.examples.to_pylist()
    assert (row["clicked"], row["clicked_delay"], row["bought"], row["bought_delay"]) == (1, 300.0, 1, 2400.0)


def test_an_action_that_came_after_its_example_was_written_is_late() -> None:
    first = join(rules(), shown((0, "a"), (1, "b")), done((5, "b", "click")), START + 3 * MINUTE)
    arrived = done((5, "b", "click"), (6, "a", "click"))
    found = join(rules(), shown(), arrived, END, first.known)
    assert found.actions == {MATCHED: 1, LATE: 1} and found.unmatched["request"].to_pylist() == ["a"]


def test_a_late_action_that_the_example_shows_with_a_smaller_weight_is_late() -> None:
    labels: dict[str, Any] = {
        "engaged": {"types": ["click", "hover", "buy"], "within_minutes": 30, "weights": {"buy": 5, "hover": 0.5}}
    }
    labels |= {"clicked": {"types": ["click"], "within_minutes": 30}, "bought": None}
    weighted = feed(actions={"labels": labels}).actions
    assert weighted
    before = done((1, "a", "click"), (1, "b", "buy"), (1, "c", "hover"))
    first = join(weighted, shown((0, "a"), (0, "b"), (0, "c"), (0, "d")), before, START + 3 * MINUTE)
    assert first.actions == {MATCHED: 3}
    late = done(*((minute, name, kind) for name in "abcd" for minute, kind in ((5, "click"), (6, "hover"), (7, "buy"))))
    found = join(weighted, shown(), late, END, first.known)
    judged = {(row["request"], row["kind"]) for row in found.unmatched.to_pylist() if row[REASON] == LATE}
    changed = {"a": ["buy"], "b": ["click"], "c": ["click", "buy"], "d": ["click", "hover", "buy"]}
    assert judged == {(name, kind) for name, kinds in changed.items() for kind in kinds}, "only these change the example"
    assert found.actions == {MATCHED: 5, LATE: 7}
    without = first.known.drop_columns(["engaged_weight"])  # as stored before weights were
    assert join(weighted, shown(), late, END, without).actions == {MATCHED: 7, LATE: 5}


def test_no_rows_give_no_examples() -> None:
    found = join(rules(), shown(), done(), END)
    assert len(found.examples) == 0 and found.examples.column_names[-4:] == [
        "clicked",
        "clicked_delay",
        "bought",
        "bought_delay",
    ]
    assert join(rules(), shown(), done((1, "a", "click")), END).actions == {NO_IMPRESSION: 1}
    assert join(rules(), shown((1, "a")), done(), END).examples["clicked"].to_pylist() == [0]


def test_keys_of_many_values_and_a_long_time_fit() -> None:
    spread = 2**50
    rows = [{"event_time": START + spread * n, "shown_at": 0, "request": f"{n}", "item": n, "user": 1} for n in range(3000)]
    acts = [
        {"event_time": START + spread * n + 5_000_000, "at": 0, "request": f"{n}", "item": n, "kind": "buy"}
        for n in range(3000)
    ]
    found = join(rules(), table_of(rows, "impressions"), table_of(acts, "actions"), 2**62)
    assert set(found.examples["bought_delay"].to_pylist()) == {5.0}
