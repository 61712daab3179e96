"""Rivals of the index: the fastest setting that reaches the recall counts, and a missing library is named."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks._rival_indexes import Built, NotInstalled, Search, hnswlib, rabitq, tune, usearch

EXACT = np.arange(12).reshape(3, 4)
QUERIES = np.zeros((3, 2), np.float32)


def finds(share: int) -> Search:
    """Return a search that finds the first `share` of the four exact results of each query."""
    results = iter(np.tile(np.where(np.arange(4) < share, EXACT, -1), (9, 1)))
    return lambda queries: np.stack([next(results) for _ in queries])


def speeds(of: dict[Search, float]) -> Callable[[Search], float]:
    return lambda search: of[search]


def test_the_fastest_setting_that_reaches_the_recall_counts() -> None:
    low, enough, more, other = finds(2), finds(3), finds(4), finds(4)
    built = [
        Built("small", 1.0, [("a", low), ("b", enough), ("c", more)]),
        Built("large", 2.0, [("a", other)]),
    ]
    rate = speeds({low: 9.0, enough: 3.0, more: 2.0, other: 5.0})
    tuned = tune(iter(built), QUERIES, EXACT, 0.75, rate)
    assert (tuned.search, tuned.recall, tuned.about, tuned.seconds) == (other, 1.0, "large, a", 2.0)


def test_the_highest_recall_counts_if_no_setting_reaches_it() -> None:
    built = [Built("small", 1.0, [("a", finds(1)), ("b", finds(3))]), Built("large", 2.0, [("a", finds(2))])]
    tuned = tune(iter(built), QUERIES, EXACT, 0.98, lambda _: 1.0)
    assert (tuned.about, tuned.recall) == ("small, b", 0.75)


@pytest.mark.parametrize(("name", "rival"), [("usearch", usearch), ("hnswlib", hnswlib)])
def test_a_missing_library_is_named(name: str, rival: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=f"^{name}: not installed$"):
        next(rival(vectors(100), 10))  # type: ignore[call-overload]


def test_rows_of_rabitq_reach_the_recall() -> None:
    held, queries = vectors(4000), vectors(50, seed=1)
    exact = np.argsort(-(queries @ held.T), axis=1)[:, :10]
    tuned = tune(rabitq(held, 10, cells=16, trained_on=1024), queries, exact, 0.98, lambda _: 1.0)
    assert tuned.recall >= 0.98 and "bytes a row" in tuned.about and tuned.seconds > 0


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, 32), np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
