"""The hash of a day's rows: equal in any order, and different if any value changes or moves to another row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.lake import Lake
from ml.quality.content import content_of
from ml.quality.validate import validate
from tests.helpers.quality_days import DAYS, make_spec, write_features, write_mds, write_raw

ROWS = st.lists(
    st.tuples(st.integers(-5, 5), st.floats(width=32, allow_nan=False), st.lists(st.integers(0, 3), max_size=3)),
    min_size=1,
    max_size=12,
)


def content(rows: list[tuple[int, float, list[int]]]) -> int:
    parts = [part for _, _, run in rows for part in run]
    lengths = np.array([len(run) for _, _, run in rows], np.int32)
    ids, dense = np.array([i for i, _, _ in rows], np.int64), np.array([x for _, x, _ in rows], np.float32)
    return content_of(len(rows), [("id", ids, None), ("x", dense, None), ("tags", np.array(parts, np.int64), lengths)])


@settings(deadline=None)  # the first example compiles
@given(ROWS, st.randoms())
def test_order_does_not_matter(rows: list[Any], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert content(shuffled) == content(rows)


@settings(deadline=None)
@given(ROWS, ROWS)
def test_different_rows_have_different_hashes(a: list[Any], b: list[Any]) -> None:
    def bits(rows: list[Any]) -> list[Any]:
        return sorted((i, np.float32(x).tobytes(), tuple(run)) for i, x, run in rows)

    assert (content(a) == content(b)) == (bits(a) == bits(b))


def swapped(name: str) -> Any:
    """Reverse the values of a column, which changes no count, range or histogram."""

    def change(columns: dict[str, Any]) -> None:
        columns[name] = pa.array(columns[name].to_pylist()[::-1], columns[name].type)

    return change


@pytest.mark.parametrize("column", ["label", "price", "country", "tags"])
def test_blocks_of_other_features_are_detected(column: str, lake: Lake) -> None:
    spec = make_spec()
    write_raw(lake, spec, DAYS[0])
    write_features(lake, spec, DAYS[0])
    write_mds(lake, spec, DAYS[0])
    failing = [v.name for v in validate(spec, "mds_datasets", DAYS[0], lake).verdicts if not v.passed]
    assert failing == []
    write_features(lake, spec, DAYS[0], swapped(column))
    failing = [v.name for v in validate(spec, "mds_datasets", DAYS[0], lake).verdicts if not v.passed]
    assert failing == ["values_equal"]
