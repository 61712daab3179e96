"""Candidates of one source."""

from __future__ import annotations

import numpy as np
import pytest

from ml.retrieval.signals import _first  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("count", [1, 5, 40, 60])
def test_a_source_marks_its_first_items_and_no_more_if_scores_are_equal(count: int) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (7, 50)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    expected = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(expected, order, True, axis=1)
    assert np.array_equal(_first(scores, count), expected)
    assert np.array_equal(_first(scores[3:4], count), expected[3:4]), "as for one request"
