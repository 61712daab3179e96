"""Logarithmic buckets and ranges of columns, in catalog entries."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from ml.catalog.buckets import LogBuckets, edges_of
from ml.catalog.expand import expand_entry
from ml.catalog.load import load_catalog


@given(st.integers(1, 16), st.integers(-4, 4), st.integers(1, 20))
def test_edges_double_every_octave(per_octave: int, low: int, octaves: int) -> None:
    edges = LogBuckets(per_octave=per_octave, min=2.0**low, max=2.0 ** (low + octaves)).edges()
    assert edges[0] == 0 and list(edges) == sorted(set(edges))
    assert len(edges) == 2 + per_octave * octaves
    assert all(math.isclose(2 * a, b) for a, b in zip(edges[1:], edges[1 + per_octave :], strict=False))


def test_counts_up_to_eight_have_buckets_of_their_own_by_default() -> None:
    edges = edges_of({"log": {}}, "")
    assert len({sum(count >= edge for edge in edges) for count in range(9)}) == 9


@pytest.mark.parametrize(
    ("bucketise", "key"),
    [
        ({"log": {"per_octave": 0}}, "sparse.x.bucketise.log.per_octave"),
        ({"log": {"per": 4}}, "sparse.x.bucketise.log.per"),
        ({"log": {"min": 5.0, "max": 5.0}}, "sparse.x.bucketise.log.min"),
        ({"log": {"per_octave": 64, "min": 1e-300, "max": 1e300}}, "sparse.x.bucketise.log"),
        ({"log": 4}, "sparse.x.bucketise.log"),
        ({"linear": {}}, "sparse.x.bucketise.linear"),
    ],
)
def test_malformed_buckets_are_refused_by_their_key(bucketise: Any, key: str) -> None:
    with pytest.raises(PydanticCustomError) as error:
        expand_entry({"sparse": [{"name": "x", "bucketise": bucketise}]})
    assert error.value.context is not None and error.value.context["key"] == key


def test_ranges_of_columns_follow_the_range_of_the_name() -> None:
    sparse = [
        {"name": "b{1..3}", "column": "I{4..6}", "bucketise": [1.0]},
        {"name": "x{1..2}", "cross": ["C{1..2}", "country"]},
        {"name": "one", "column": "plain"},
    ]
    expanded = expand_entry({"dense": [{"name": "d{1..2}", "column": "same"}], "sparse": sparse})
    assert [(f["name"], f["column"]) for f in expanded["sparse"][:3]] == [("b1", "I4"), ("b2", "I5"), ("b3", "I6")]
    assert [f["cross"] for f in expanded["sparse"][3:5]] == [["C1", "country"], ["C2", "country"]]
    assert expanded["sparse"][5] == sparse[2]
    assert [f["column"] for f in expanded["dense"]] == ["same", "same"]
    assert expand_entry(expanded) == expanded


@pytest.mark.parametrize("feature", [{"name": "b{1..3}", "column": "I{1..2}"}, {"name": "b", "cross": ["C{1..2}", "d"]}])
def test_a_range_of_columns_of_another_length_is_refused(feature: dict[str, Any]) -> None:
    with pytest.raises(PydanticCustomError, match="gives 2 columns"):
        expand_entry({"sparse": [feature]})


def test_criteo_has_a_bucket_beside_each_count() -> None:
    spec = load_catalog()["criteo"]
    buckets = {feature.name: feature.column for feature in spec.sparse if feature.bucketise}
    assert buckets == {f"I{n}_bucket": f"I{n}" for n in range(1, 14)}
