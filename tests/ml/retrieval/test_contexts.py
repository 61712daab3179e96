"""Contexts of events: items of the same session, strictly before, newest first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.retrieval.contexts import NOT_LIVE, Contexts, places, session_contexts


def lists(contexts: Contexts) -> list[list[int]]:
    return [contexts.items[a:b].tolist() for a, b in zip(contexts.offsets[:-1], contexts.offsets[1:], strict=True)]


def test_by_hand() -> None:
    whose, time = np.array([1, 2, 1, 1, 2, 1, 0, 0]), np.array([10, 11, 12, 12, 13, 99, 100, 101])
    found = session_contexts(whose, time, np.array([5, 6, 7, 8, 9, 5, 5, 6]), most=2, idle=50)
    assert lists(found.contexts) == [[], [], [5], [5], [6], [], [], []], "the last of session 1 came too late"
    assert found.gap.tolist() == [-1, -1, 2, 2, 2, -1, -1, -1]
    assert lists(session_contexts(whose[:6], time[:6], np.array([5, 6, 7, 8, 9, 5]), most=2).contexts)[-1] == [8, 7]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 5), st.sampled_from([None, 0, 3, 10]))
def test_as_a_slow_reading_finds(seed: int, rows: int, most: int, idle: int | None) -> None:
    rng = np.random.default_rng(seed)
    whose, time, item = rng.integers(0, 5, rows), np.sort(rng.integers(0, 40, rows)), rng.integers(10, 20, rows)
    found = session_contexts(whose, time, item, most, idle)
    for i, (context, gap) in enumerate(zip(lists(found.contexts), found.gap, strict=True)):
        mine, last = [], time[i]
        for j in range(i - 1, -1, -1):
            if whose[j] != whose[i] or not whose[i]:
                continue
            if idle is not None and last - time[j] > idle:
                break
            last = time[j]
            if time[j] < time[i]:
                mine.append(j)
        assert context == item[mine[:most]].tolist()
        assert gap == (time[i] - time[mine[0]] if mine else -1)


def test_rows_and_places() -> None:
    contexts = Contexts.of([[3, 1], [], [2], [1, 1]])
    assert lists(contexts.rows(1, 4)) == [[], [2], [1, 1]] and len(contexts.rows(2, 2)) == 0
    assert lists(contexts.take(np.array([3, 0, 0]))) == [[1, 1], [3, 1], [3, 1]]
    assert contexts.places(np.array([1, 3])).tolist() == [1, 0, NOT_LIVE, 0, 0]
    assert places(np.array([1]), np.zeros(0, np.int64)).tolist() == [NOT_LIVE]
