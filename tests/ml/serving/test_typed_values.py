"""Values of requests keep what they say, or are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ml.serving.typed_values import typed_array


def test_floats_without_a_fraction_are_ints() -> None:
    assert typed_array([3.0, None, 4], pa.int64()).equals(pa.array([3, None, 4]))
    assert typed_array([[3.0], [], None], pa.list_(pa.int64())).to_pylist() == [[3], [], None]
    assert typed_array([3.5], pa.float64()).to_pylist() == [3.5]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3.5, pa.int64()),
        (float("inf"), pa.int64()),
        (float("nan"), pa.int64()),
        ([1, 3.5], pa.list_(pa.int64())),
        ("3", pa.int64()),
        (2**63, pa.int64()),
    ],
)
def test_other_values_do_not_become_ints(value: object, kind: pa.DataType) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)):
        typed_array([None, value], kind)
