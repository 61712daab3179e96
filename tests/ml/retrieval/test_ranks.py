"""Ranks of the clicked item, with and without what the session has seen, and the best items, against sorting."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.retrieval.contexts import NOT_LIVE, Contexts
from ml.retrieval.ranks import MISSED, ranks_of, ranks_without_seen, top


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_ranks_are_places_in_the_sorted_catalogue(seed: int, live: int, alike: bool) -> None:
    rng = np.random.default_rng(seed)
    requests = 6
    scores = rng.integers(0, 4, (1 if alike else requests, live)).astype(np.float32)
    scores = np.broadcast_to(scores, (requests, live))
    items = np.arange(live) * 3
    clicked = rng.integers(NOT_LIVE, live, requests)
    contexts = Contexts.of([rng.integers(0, 3 * live, rng.integers(0, 5)).tolist() for _ in range(requests)])
    ranks = ranks_of(scores, clicked)
    without = ranks_without_seen(scores, clicked, ranks, contexts, items)
    for b in range(requests):
        order = sorted(range(live), key=lambda at: (-scores[b, at], at))
        seen = set(contexts.items[contexts.offsets[b] : contexts.offsets[b + 1]].tolist())
        kept = [at for at in order if items[at] not in seen]
        assert ranks[b] == (MISSED if clicked[b] == NOT_LIVE else order.index(clicked[b]))
        assert without[b] == (kept.index(clicked[b]) if clicked[b] in kept else MISSED)
        for count in (0, 1, 3, live, live + 2):
            assert top(scores, count)[b].tolist() == order[:count]
