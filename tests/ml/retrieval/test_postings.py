"""Inverted lists equal a scan of the columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.retrieval.postings import Postings, UnknownColumn


@pytest.mark.parametrize(
    "filters",
    [
        {"section": ["s1"]},
        {"section": ["s1", "s2", None], "year": [2001]},
        {"year": [2000, 2000, 9]},
        {"year": [1]},
    ],
)
def test_places_equal_a_scan(filters: dict[str, list[Any]]) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "section": [None if v == 3 else f"s{v}" for v in rng.integers(0, 5, 500)],
        "year": rng.integers(2000, 2004, 500).tolist(),
    }
    postings = Postings(pa.table({**columns, "tags": [["a"]] * 500}))
    assert postings.columns == ("section", "year")
    wanted = [row for row in range(500) if all(columns[name][row] in values for name, values in filters.items())]
    assert postings.places(filters).tolist() == wanted


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownColumn, match=r"filters\.brand: items have no such column"):
        Postings(pa.table({"year": [1]})).places({"brand": ["x"]})
