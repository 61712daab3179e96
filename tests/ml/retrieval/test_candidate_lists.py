"""Candidate lists and signals of a past day: nothing of the scored instant or later, and equal however requests are grouped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.lake import Lake
from ml.retrieval.candidate_lists import CandidateLists, candidate_lists, live_items
from ml.retrieval.click_counts import ClickCounts
from ml.retrieval.interactions import ReadLog, context_columns, interactions_of, positive, read_interactions
from ml.retrieval.signals import SIGNALS, SOURCES, CandidateSignals
from ml.schema import EVENT_TIME
from tests.helpers.kiosk_lake import DAY, HOUR, MIDNIGHT, put_raw, raw_rows, spec_of

SPEC = spec_of()
ALL = 1 << 40


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(str(tmp_path))


def lists(lake: Lake, rows: pa.Table) -> list[CandidateLists]:
    put_raw(lake, SPEC, rows)
    return list(candidate_lists(SPEC, DAY, lake, ALL))


def changed_after(rows: pa.Table, time: int) -> pa.Table:
    """The same rows with other items, places and users from a point in time on."""
    late = rows[EVENT_TIME].to_numpy() >= time
    columns = {name: rows[name].to_numpy(zero_copy_only=False).copy() for name in ("item", "user", "visit", "place")}
    for name in ("item", "user", "visit"):
        columns[name][late] = columns[name][late][::-1]
    columns["place"][late] = "elsewhere"
    return pa.table({**{name: rows[name] for name in ("event_time", "time")}, **columns})


def test_lists_do_not_depend_on_the_scored_instant_or_later(lake: Lake) -> None:
    rows, instant = raw_rows(), MIDNIGHT + 15 * HOUR
    before, after = lists(lake, rows), lists(lake, changed_after(rows, instant))
    early = [(a, b) for a, b in zip(before, after, strict=False) if a.start < instant]
    assert len(early) > 20
    for a, b in early:
        assert a.start == b.start
        np.testing.assert_array_equal(a.candidates.places, b.candidates.places)
        np.testing.assert_array_equal(a.candidates.signals, b.candidates.signals)
        np.testing.assert_array_equal(a.taken, b.taken)
    assert any(not np.array_equal(a.taken, b.taken) for a, b in zip(before, after, strict=False) if a.start >= instant)


def test_the_item_of_a_request_does_not_change_its_list(lake: Lake) -> None:
    rows = raw_rows()
    a, b = lists(lake, rows)[-1], lists(lake, changed_item(rows))[-1]
    assert not (np.array_equal(a.taken, b.taken) and np.array_equal(a.is_live, b.is_live))
    np.testing.assert_array_equal(a.candidates.signals, b.candidates.signals)


def changed_item(rows: pa.Table) -> pa.Table:
    items = rows["item"].to_numpy().copy()
    items[-1] = items[-1] % 39 + 1
    return rows.set_column(rows.column_names.index("item"), "item", pa.array(items))


def test_lists_hold_the_live_items_that_sources_find_and_at_most_one_was_taken(lake: Lake) -> None:
    log = None
    for found in lists(lake, raw_rows()):
        log = log or read_interactions(SPEC, DAY, lake, MIDNIGHT)
        live, offsets = live_items(SPEC, log, found.start), found.candidates.offsets
        assert np.all(found.candidates.places < len(live)) and offsets[-1] == len(found.candidates.places)
        taken = np.add.reduceat(np.r_[found.taken, False], np.minimum(offsets[:-1], len(found.taken)))
        assert np.all(taken[np.diff(offsets) > 0] <= 1)
        assert np.logical_or.reduce(list(found.candidates.found.values())).all()
        assert set(found.candidates.found) == set(SOURCES)


def signals_at(rows: pa.Table, now: int) -> tuple[CandidateSignals, ReadLog]:
    events = interactions_of(SPEC, rows)
    log = ReadLog(events, events.clicks.time, events.clicks.item)
    signals = CandidateSignals(context_columns(SPEC))
    signals.observe(events.rows(0, int(np.searchsorted(events.clicks.time, now))))
    signals.refresh(now, live_items(SPEC, log, now))
    return signals, log


def test_requests_have_the_same_candidates_alone_and_together() -> None:
    signals, log = signals_at(raw_rows(), MIDNIGHT + 20 * HOUR)
    asked = log.events.requests.take(np.arange(330, 390))
    whole = signals.candidates(asked)
    assert whole.signals.shape[1] == len(signals.names) == len(SIGNALS) + 1
    for b in range(60):
        part = slice(whole.offsets[b], whole.offsets[b + 1])
        alone = signals.candidates(asked.take(np.array([b])))
        np.testing.assert_array_equal(alone.places, whole.places[part])
        np.testing.assert_array_equal(alone.signals, whole.signals[part])


def test_allowed_and_seen_items() -> None:
    signals, log = signals_at(raw_rows(), MIDNIGHT + 20 * HOUR)
    past = log.events.requests.past
    at = next(n for n in range(390, 300, -1) if (past.take(np.array([n])).places(signals.current.items) >= 0).any())
    asked = log.events.requests.take(np.array([at]))
    seen = np.unique(asked.past.places(signals.current.items))
    seen = seen[seen >= 0]
    without, kept = signals.candidates(asked), signals.candidates(asked, exclude_seen=False)
    assert not np.isin(seen, without.places).any() and np.isin(seen, kept.places).all()
    taken = kept.signals[:, signals.names.index("taken")]
    np.testing.assert_array_equal(kept.places[taken == 1], seen)
    allowed = np.zeros(len(signals.current.items), np.bool_)
    allowed[[1, 3]] = True
    assert set(signals.candidates(asked, allowed=allowed).places.tolist()) <= {1, 3}


def test_counts_are_those_of_the_windows() -> None:
    rng = np.random.default_rng(1)
    minute = 60_000_000
    time, item, codes = np.sort(rng.integers(0, 600, 500)) * minute, rng.integers(2, 9, 500), rng.integers(2, 5, (500, 2))
    counts, items, now = ClickCounts(2), np.arange(2, 9), 480 * minute
    early = time < now
    for part in (slice(0, 100), slice(100, None)):
        counts.observe(time[early][part], item[early][part], codes[early][part])
        found = counts.refresh(now, items)
    for held, minutes in zip(found.counts, (10, 60, 360), strict=True):
        window = (time >= now - minutes * minute) & (time < now)
        assert held.tolist() == [int((item[window] == i).sum()) for i in items]
    assert found.last_seen.tolist() == [time[early & (item == i)].max() for i in items]
    assert found.first_seen.tolist() == [time[early & (item == i)].min() for i in items]
    hour = (time >= now - 60 * minute) & (time < now)
    overall = np.exp(found.log_shares[1].astype(np.float64))
    for c in range(2):
        code = codes[hour][0, c]
        own = hour & (codes[:, c] == code)
        of_value = np.array([(item[own] == i).sum() for i in items])
        wanted = np.log((of_value + 30 * overall) / (own.sum() + 30) / overall)
        np.testing.assert_allclose(found.lifts[c][found.rows(codes[hour][:1])[c][0]], wanted, atol=1e-5)
    assert found.lifts[0][found.rows(np.array([[77, 77]]))[0][0]].tolist() == [0.0] * len(items)


def test_the_context_is_what_describes_a_request() -> None:
    assert context_columns(SPEC) == ["place"]
    assert positive(SPEC, raw_rows()).all()
