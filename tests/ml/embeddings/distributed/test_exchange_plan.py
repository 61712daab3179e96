"""Exchange plans compared with plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.embeddings.distributed.exchange_plan import plan_exchange

OCCURRENCES = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 7, 2**63 - 1, -(2**63)]), st.integers(0, 3)), max_size=60)


@settings(deadline=None)  # the first example compiles the kernel
@given(OCCURRENCES)
def test_order_rows_and_counts_equal_plain_lists(occurrences: list[tuple[int, int]]) -> None:
    ids, places = (np.array([pair[part] for pair in occurrences], np.int64) for part in (0, 1))
    order, row_of, counts = plan_exchange(ids, places, 4)
    wanted: list[int] = []
    distinct: list[tuple[int, int]] = []
    for place in range(4):
        here = [n for n, pair in enumerate(occurrences) if pair[1] == place]
        firsts = [n for n in here if occurrences.index(occurrences[n]) == n]
        wanted += firsts + [n for n in here if n not in firsts]
        distinct += [occurrences[n] for n in firsts]
        assert counts[place].tolist() == [len(firsts), len(here) - len(firsts)]
    assert order.tolist() == wanted
    assert [distinct[k] for k in row_of] == occurrences
