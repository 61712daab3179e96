"""Inverted lists equal a scan of the columns."""

from __future__ import annotations

from collections.abc import Sequence
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
        {"genres": ["Drama"]},
        {"genres": ["Drama", "War"], "ids": [3, 4]},
        {"genres": ["Drama War"]},
        {"genres": [None, "War"], "section": ["s1"]},
        {"ids": [None]},
        {"pages": ["a", ""]},
    ],
)
def test_places_equal_a_scan(filters: dict[str, list[Any]]) -> None:
    rng = np.random.default_rng(0)

    def some(values: Sequence[Any]) -> list[Any]:
        return rng.choice(np.array(values, dtype=object), rng.integers(0, 4)).tolist()

    genres = [some(["Drama", "War", "", "Comedy"]) for _ in range(500)]
    columns: dict[str, list[Any]] = {
        "section": [None if v == 3 else f"s{v}" for v in rng.integers(0, 5, 500)],
        "year": rng.integers(2000, 2004, 500).tolist(),
        "genres": [None if v == 0 else "|".join(held) for v, held in enumerate(genres)],
        "ids": [None if v == 1 else some([*range(6), None]) for v in range(500)],
        "pages": [some(["a", "b"]) for _ in range(500)],
    }
    types = pa.schema(
        {"section": pa.dictionary(pa.int32(), pa.string()), "year": pa.int64(), "genres": pa.string()}
        | {"ids": pa.list_(pa.int64()), "pages": pa.list_(pa.string())}
    )
    held = pa.table(columns, schema=types)
    postings = Postings(pa.concat_tables([held[:200], held[200:]]), {"genres": "|"})
    assert postings.columns == ("section", "year", "genres", "ids", "pages")

    def values(name: str, row: int) -> set[Any]:
        value = columns[name][row]
        if name == "genres":
            value = (value or "").split("|")
        several = value if isinstance(value, list) else [value]
        return {one for one in several if one not in (None, "")} or {None}

    wanted = [row for row in range(500) if all(values(name, row) & set(allowed) for name, allowed in filters.items())]
    assert postings.places(filters).tolist() == wanted
    assert len(wanted) > 0 or filters in ({"year": [1]}, {"genres": ["Drama War"]})


def test_no_items_have_no_places() -> None:
    items = pa.table({"genres": pa.array([], pa.null()), "ids": pa.array([], pa.list_(pa.int64()))})
    assert Postings(items, {"genres": " "}).places({"genres": ["Drama", None], "ids": [1, None]}).tolist() == []


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownColumn, match=r"filters\.brand: items have no such column"):
        Postings(pa.table({"year": [1]})).places({"brand": ["x"]})
