"""The events in memory: histories, known columns and contexts as of a point in time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ml.features.hashing import hash_values
from ml.retrieval.interactions import interactions_of
from ml.schema import EVENT_TIME
from ml.serving.events import EventWindow
from ml.serving.faults import WrongColumn
from tests.helpers.joined_logs import feed
from tests.helpers.kiosk_lake import END, HOUR, raw_rows, spec_of


def window(rows: pa.Table, cut: int) -> EventWindow:
    """Events of which the first `cut` are in the index, and the others have just arrived."""
    held = EventWindow(spec_of())
    held.load(rows.slice(0, cut))
    held.refresh(END)
    held.append(rows.slice(cut))
    return held


@pytest.mark.parametrize("cut", [0, 150, 400])
def test_a_history_holds_the_events_before_a_point_in_time(cut: int) -> None:
    rows = raw_rows().sort_by(EVENT_TIME)
    recent = rows.filter(pa.array(rows[EVENT_TIME].to_numpy() >= END - 3 * HOUR))
    held = window(recent, min(cut, len(recent)))
    for user in range(1, 30):
        for before in (END, END - HOUR, recent[EVENT_TIME][len(recent) // 2].as_py()):
            own = [row for row in recent.to_pylist() if row["user"] == user and row[EVENT_TIME] < before]
            wanted = [row["item"] for row in sorted(own, key=lambda row: -row[EVENT_TIME])][:5]
            assert [event.item for event in held.last_of(user, before, 5)] == wanted
    assert held.last_of(None, END, 5) == held.last_of(10**6, END, 5) == []


def test_events_out_of_reach_are_dropped() -> None:
    held = EventWindow(spec_of())
    held.load(raw_rows())
    held.refresh(END - 1)
    assert len(held.events_since(0).time) == 400  # the day, and three hours before it
    held.append(raw_rows().slice(0, 1).set_column(0, EVENT_TIME, pa.array([END + 10 * HOUR])))
    held.refresh(END + 10 * HOUR)
    assert held.events_since(0).time.min() >= END - 3 * HOUR and held.events_since(0).time[-1] == END + 10 * HOUR
    held.append(raw_rows().slice(0, 1).set_column(0, EVENT_TIME, pa.array([END + 48 * HOUR])))
    held.refresh(END + 48 * HOUR)
    assert held.events_since(0).time.tolist() == [END + 48 * HOUR]


def test_a_history_begins_with_the_window_before_the_first_event_of_the_day() -> None:
    held = EventWindow(spec_of())
    held.load(raw_rows().set_column(0, EVENT_TIME, pa.array(np.linspace(END - 5 * HOUR, END + 5 * HOUR, 400).astype(np.int64))))
    held.refresh(END + 5 * HOUR)
    first = held.events_since(0).time[held.events_since(0).time >= END][0]
    assert held.history_since(END + 4 * HOUR) == first - 3 * HOUR


def test_known_columns_are_the_last_that_were_given() -> None:
    held = EventWindow(spec_of())
    places = [("here", 1), (None, 2), ("there", 3), (None, 4)]
    rows = [{EVENT_TIME: END - 100 + at, "time": 0, "user": 1, "item": at, "visit": None, "place": p} for p, at in places]
    held.load(pa.Table.from_pylist(rows, pa.schema(list(held.types.items()))))
    held.refresh(END)
    assert held.known_of(1, END)["place"] == "there" and held.known_of(1, END - 97)["place"] == "here"
    assert held.known_of(2, END) == {} and held.known_of(None, END) == {}


def test_contexts_of_clicks_are_earlier_items_of_the_session() -> None:
    rows = raw_rows().sort_by(EVENT_TIME)
    held = window(rows, 400)
    found = held.clicks_since(END - 2 * HOUR)
    recent = [row for row in rows.to_pylist() if row[EVENT_TIME] >= END - 3 * HOUR]
    wanted = [row for row in recent if row[EVENT_TIME] >= END - 2 * HOUR]
    assert len(found) == len(wanted)
    for at, row in enumerate(wanted):
        own = [r["item"] for r in recent if r["visit"] == row["visit"] and r[EVENT_TIME] < row[EVENT_TIME]][::-1]
        offsets = found.contexts.offsets
        ids = found.contexts.items[offsets[at] : offsets[at + 1]]
        assert ids.tolist() == hash_values("item", pa.array(own, pa.int64())).tolist()


def test_a_user_of_another_type_is_refused() -> None:
    with pytest.raises(WrongColumn, match="user: expected int64, found 'x'"):
        EventWindow(spec_of()).last_of("x", END, 5)


def test_statistics_see_new_events_after_a_refresh() -> None:
    rows = raw_rows().sort_by(EVENT_TIME)
    recent = rows.filter(pa.array(rows[EVENT_TIME].to_numpy() >= END - 3 * HOUR))
    held = window(recent, 5)
    assert len(held.events_since(0).time) == 5
    assert held.refresh(END).num_rows == len(recent) - 5
    np.testing.assert_array_equal(held.events_since(0).time, recent[EVENT_TIME].to_numpy())


def test_with_a_log_of_actions_the_joined_examples_have_the_label() -> None:
    held, at = EventWindow(feed()), 1_772_366_400_000_000  # 2026-03-01, 12:00 UTC
    shown = {"shown_at": 0, "request": "r", "user": 1, "price": 1.0, "bought": 0}
    examples = [{EVENT_TIME: at + n, "item": n, "clicked": n % 2, **shown} for n in range(4)]
    held.load(pa.Table.from_pylist(examples))
    held.refresh(at + 10)
    held.append(pa.Table.from_pylist([{EVENT_TIME: at + 9, "item": 9, "request": "s", "user": 1}]))  # an impression
    assert [event.item for event in held.last_of(1, at + 10, 9)] == [3, 1]
    assert held.refresh(at + 10).num_rows == 1 and held.known_of(1, at + 10)["request"] == "s"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_events_added_in_parts_are_those_added_at_once(order: tuple[int, ...]) -> None:
    rows = raw_rows().sort_by(EVENT_TIME)
    parts = [rows.slice(0, 250), rows.slice(250, 1), rows.slice(251, 99), rows.slice(350)]
    held, whole = EventWindow(spec_of()), EventWindow(spec_of())
    for n in order:  # the second order has events that arrive late
        held.append(parts[n])
        held.refresh(END if n == order[-1] else int(parts[n][EVENT_TIME][-1].as_py()) + 1)  # the last drops old events
    whole.load(rows)
    whole.refresh(END)
    assert held._held.rows.equals(whole._held.rows) and 0 < len(held._held.time) < len(rows)
    for name in ("time", "user", "session", "item", "positive", "by_user"):
        np.testing.assert_array_equal(getattr(held._held, name), getattr(whole._held, name))


def test_what_was_known_before_new_events_is_that_of_the_whole_log() -> None:
    rows = raw_rows().sort_by(EVENT_TIME)
    held = window(rows, 400)
    since = END - HOUR
    found, whole = held.interactions_since(since), interactions_of(held.spec, held._held.rows, since)
    assert 0 < len(held._held.connected(since)) < len(held._held.time)
    for name in ("time", "item"):
        np.testing.assert_array_equal(getattr(found.clicks, name), getattr(whole.clicks, name))
    for ours, theirs in ((found.clicks.contexts, whole.clicks.contexts), (found.requests.past, whole.requests.past)):
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_array_equal(found.requests.session, whole.requests.session)
    np.testing.assert_array_equal(found.requests.codes, whole.requests.codes)
