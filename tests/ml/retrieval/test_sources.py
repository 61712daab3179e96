"""Popularity and co-visitation against slow readings; neither learns from what is not before `now`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.retrieval.co_visitation import SEEN, CoVisitation
from ml.retrieval.contexts import NOT_LIVE, Contexts, session_contexts
from ml.retrieval.popularity import Popularity
from ml.retrieval.source import CandidateSource, Clicks


def clicks_of(seed: int, rows: int, items: int = 12, sessions: int = 6) -> Clicks:
    rng = np.random.default_rng(seed)
    time, item = np.sort(rng.integers(0, 100, rows)), rng.integers(0, items, rows) * 7 - 3
    return Clicks(time, item, session_contexts(rng.integers(1, sessions + 1, rows), time, item, 4).contexts)


def passed(source: CandidateSource, clicks: Clicks, seed: int) -> None:
    """Pass the clicks in parts."""
    edges = np.sort(np.random.default_rng(seed).integers(0, len(clicks) + 1, 3)).tolist()
    for start, stop in zip([0, *edges], [*edges, len(clicks)], strict=True):
        source.observe(clicks.rows(start, stop))


def context_of(contexts: Contexts, row: int) -> list[int]:
    return contexts.items[contexts.offsets[row] : contexts.offsets[row + 1]].tolist()


def slow_scores(clicks: Clicks, now: int, window: int, ring: int, items: np.ndarray, contexts: Contexts) -> np.ndarray:
    """Co-visitation as its documentation defines it; shrinkage 10, decay 0.7."""
    rings: dict[int, list[int]] = {}
    for n, item in enumerate(clicks.item.tolist()):
        for other in context_of(clicks.contexts, n):
            if other != item:
                rings.setdefault(other, []).append(item)
                rings.setdefault(item, []).append(other)
    recent = [i for t, i in zip(clicks.time.tolist(), clicks.item.tolist(), strict=True) if now - window <= t < now]
    live = [i for i in recent if i in items]
    share = np.array([live.count(i) / max(1, len(live)) for i in items])
    out = np.zeros((len(contexts), len(items)))
    for b in range(len(contexts)):
        context = context_of(contexts, b)
        for n, item in enumerate(context):
            held = rings.get(item, [])[-ring:]
            counts = np.array([held.count(i) for i in items])
            out[b] += 0.7**n * (counts + 10 * share) / (len(held) + 10)
        if not context:
            out[b] = share
        out[b][np.isin(items, context)] = SEEN
    return out


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 80), st.integers(0, 110), st.integers(1, 50))
def test_popularity_counts_the_window(seed: int, rows: int, now: int, window: int) -> None:
    clicks, items = clicks_of(seed, rows), np.arange(0, 12, 2) * 7 - 3
    source = Popularity(window)
    passed(source, clicks, seed)
    source.refresh(now, items)
    near = (clicks.time >= now - window) & (clicks.time < now)
    assert source.counts.tolist() == [int((clicks.item[near] == item).sum()) for item in items]
    assert source.scores(Contexts.of([[], [1]])).tolist() == [source.counts.tolist()] * 2
    source.refresh(now + 5, items)  # what the first refresh kept is enough for later ones
    near = (clicks.time >= now + 5 - window) & (clicks.time < now + 5)
    assert source.counts.tolist() == [int((clicks.item[near] == item).sum()) for item in items]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 80), st.integers(1, 60), st.sampled_from([1, 3, 1000]))
def test_co_visitation_is_what_its_formula_says(seed: int, rows: int, window: int, ring: int) -> None:
    clicks, items = clicks_of(seed, rows), np.arange(0, 12, 2) * 7 - 3
    source = CoVisitation(window, ring=ring)
    passed(source, clicks, seed)
    source.refresh(101, items)
    requests = Contexts.of([[], [4], [4, 11, 4], [999], [int(items[0]), 4]])
    expected = slow_scores(clicks, 101, window, ring, items, requests)
    np.testing.assert_allclose(source.scores(requests), expected, rtol=1e-5, atol=1e-7)


def test_by_hand() -> None:
    source, items = CoVisitation(100, shrinkage=1.0, decay=0.5), np.array([1, 2, 3])
    # Session A clicks 1, 2; session B clicks 1, 3, and 3 is the newest.
    contexts = Contexts.of([[], [1], [], [1]])
    source.observe(Clicks(np.array([0, 1, 2, 3]), np.array([1, 2, 1, 3]), contexts))
    source.refresh(10, items)
    # The ring of 1 is [2, 3], the ring of 2 is [1]; p = 2/4, 1/4, 1/4.
    assert source.scores(Contexts.of([[1]])).tolist() == [[SEEN, pytest.approx(1.25 / 3), pytest.approx(1.25 / 3)]]
    assert source.scores(Contexts.of([[2]])).tolist() == [[pytest.approx(1.5 / 2), SEEN, pytest.approx(0.25 / 2)]]
    both = 0.25 / 2 + 0.5 * 1.25 / 3
    assert source.scores(Contexts.of([[2, 1]])).tolist() == [[SEEN, SEEN, pytest.approx(both)]]


@pytest.mark.parametrize("keep", [20, 10**9])
def test_rings_of_items_that_nobody_clicks_any_more_are_dropped(keep: int) -> None:
    source, rng = CoVisitation(50, ring=5, keep=keep), np.random.default_rng(0)
    for start in range(0, 1000, 10):
        item = start // 10 * 8 + rng.integers(0, 8, 30)
        time = np.sort(rng.integers(start, start + 10, 30))
        source.observe(Clicks(time, item, session_contexts(rng.integers(1, 6, 30), time, item, 4).contexts))
        source.refresh(start + 10, np.unique(item))
        scores = source.scores(Contexts.of([[int(item[-1])], []]))
        assert np.isfinite(scores).all() and scores.max() > 0
    assert len(source._ids) <= 100 if keep == 20 else len(source._ids) > 600


def test_dropping_rings_leaves_the_others_as_they_were() -> None:
    clicks, late = clicks_of(1, 60, items=4), clicks_of(2, 60, items=4)
    late = Clicks(late.time + 1000, late.item + 1_000_000, Contexts(late.contexts.offsets, late.contexts.items + 1_000_000))
    items = np.unique(late.item)
    requests = Contexts.of([[int(item)] for item in items])
    found = []
    for keep in (500, 10**9):
        source = CoVisitation(100, ring=7, keep=keep)
        for part in (clicks, late):
            source.observe(part)
            source.refresh(int(part.time[-1]) + 1, items)
        found.append(source.scores(requests))
    assert (found[0] == found[1]).all()


def test_clicks_after_a_refresh_do_not_break_requests() -> None:
    source = CoVisitation(100, ring=10)
    source.observe(Clicks(np.array([1, 2]), np.array([5, 6]), Contexts.of([[], [5]])))
    source.refresh(10, np.array([5, 6]))
    new = np.arange(1000, 2000)
    source.observe(Clicks(np.full(1000, 20), new, Contexts.of([[5]] * 1000)))
    assert np.isfinite(source.scores(Contexts.of([[5], [1500]]))).all()


def test_an_item_whose_first_click_comes_after_a_refresh_is_not_live() -> None:
    source = CoVisitation(100, ring=10)
    source.observe(Clicks(np.array([1, 2]), np.array([5, 6]), Contexts.of([[], [5]])))
    source.refresh(10, np.array([5, 6]))
    assert (source.current.live_of[len(source.current.ids) :] == NOT_LIVE).all()
    before = source.scores(Contexts.of([[6]]))
    source.observe(Clicks(np.array([20]), np.array([7]), Contexts.of([[5]])))  # the ring of 6 stays as it was
    np.testing.assert_array_equal(source.scores(Contexts.of([[6]])), before)


@pytest.mark.parametrize("source", [Popularity(100), CoVisitation(100)])
def test_before_any_click_every_item_is_alike(source: CandidateSource) -> None:
    source.refresh(0, np.array([4, 5]))
    assert source.scores(Contexts.of([[], [9]])).tolist() == [[0, 0], [0, 0]]
    source.refresh(0, np.zeros(0, np.int64))
    assert source.scores(Contexts.of([[9]])).shape == (1, 0)


def test_a_directed_ring_holds_only_items_that_were_clicked_after() -> None:
    source, items = CoVisitation(window=100, directed=True), np.array([5, 6, 7])
    source.observe(Clicks(np.array([1, 2]), np.array([5, 7]), Contexts.of([[], [5]])))
    source.refresh(now=10, items=items)
    assert source.scores(Contexts.of([[5]]))[0].argmax() == 2
    assert source.scores(Contexts.of([[7]]))[0].argmax() == 0 and source.scores(Contexts.of([[7]]))[0, 1] == 0


def test_the_first_items_of_contexts() -> None:
    contexts = Contexts.of([[7, 5, 3], [], [4, 2]])
    assert contexts.first(1).items.tolist() == [7, 4] and contexts.first(1).offsets.tolist() == [0, 1, 1, 2]
    assert contexts.first(np.array([2, 1, 0])).items.tolist() == [7, 5]


def test_shares_of_rings_are_counted_and_unknown_items_have_none() -> None:
    source = CoVisitation(window=100, ring=3)
    items = np.array([6, 7, 5, 8, 7])  # 5 meets 6 and 7 in sessions, and keeps the last three of them
    contexts = Contexts.of([[5], [5], [], [], [5]])
    source.observe(Clicks(np.arange(1, 6), items, contexts))
    source.refresh(now=10, items=np.array([5, 6, 7, 8]))
    shares = source.current.shares(np.array([5, 6, 8, 99]), np.array([7, 5, 6, 99]))
    third = 1 / 3
    np.testing.assert_allclose(shares, [[2 * third, 0, third, 0], [0, 1, 0, 0], [0] * 4, [0] * 4], rtol=1e-6)
    for number in range(6, 9):
        source.observe(Clicks(np.array([number]), np.array([6]), Contexts.of([[5]])))
    np.testing.assert_allclose(source.current.shares(np.array([5]), np.array([7, 6])), [[0, 1]])
