"""The marked items are the first of a stable sort by descending score."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ml.retrieval.best import mark_best

SCORES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45]), st.floats(width=32, allow_nan=False))


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12), elements=SCORES), st.integers(1, 12))
def test_marked_items_come_first_in_a_stable_sort(scores: np.ndarray, count: int) -> None:
    wanted = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(wanted, np.argsort(-scores, axis=1, kind="stable")[:, :count], True, axis=1)
    np.testing.assert_array_equal(mark_best(scores, count), wanted)
