"""Regions of linear constraints."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tuning.definition import LinearConstraint
from ml.tuning.engine.constraints import NoFeasiblePoint, Region
from tests.helpers.trials import examples

INTEGERS = [("a", 0.0, 6.0, True), ("b", -3.0, 3.0, True), ("c", 1.0, 4.0, True)]
NUMBERS = [(name, low, high, False) for name, low, high, _ in INTEGERS]
CONSTRAINTS = st.lists(
    st.builds(
        LinearConstraint,
        st.fixed_dictionaries({name: st.sampled_from((-2.0, -1.0, 0.5, 1.0, 3.0)) for name in "abc"}),
        st.sampled_from((-6.0, -1.0, 0.0, 1.5, 4.0)),
        st.sampled_from(("less_than", "greater_than")),
    ),
    min_size=1,
    max_size=3,
)


@examples(60)
@given(CONSTRAINTS, st.integers(0, 9))
def test_samples_of_integers_lie_in_the_region_if_it_has_any(constraints: list[LinearConstraint], seed: int) -> None:
    region = Region(INTEGERS, constraints)
    every = np.array([(a, b, c) for a in range(7) for b in range(-3, 4) for c in range(1, 5)], dtype=float)
    if not region.contains(every).any():
        with pytest.raises(NoFeasiblePoint):
            region.sample(3, np.random.default_rng(seed))
        return
    samples = region.sample(5, np.random.default_rng(seed))
    assert {tuple(row) for row in samples} <= {tuple(row) for row in every[region.contains(every)]}


@examples(60)
@given(CONSTRAINTS, st.integers(0, 9))
def test_samples_and_nearest_points_of_numbers_lie_in_the_region(constraints: list[LinearConstraint], seed: int) -> None:
    region, rng = Region(NUMBERS, constraints), np.random.default_rng(seed)
    try:
        samples = region.sample(5, rng)
    except NoFeasiblePoint:
        assert not region.contains(rng.random((2000, 3)) * (6, 6, 3) + (0, -3, 1)).any()
        return
    assert region.contains(samples).all() and (samples >= (0, -3, 1)).all() and (samples <= (6, 3, 4)).all()
    moved = region.nearest(np.array([9.0, -9.0, 9.0]))
    assert region.contains(moved) and (moved >= (0, -3, 1)).all() and (moved <= (6, 3, 4)).all()


def test_samples_of_a_thin_region_spread_over_it() -> None:
    weights = {"a": 1.0, "b": 1.0}
    kinds: tuple[Literal["greater_than", "less_than"], ...] = ("greater_than", "less_than")
    for low, high in ((1.0, 1.0001), (1.0, 1.0)):  # with an interior, and without
        limits = [LinearConstraint(weights, at, kind) for at, kind in zip((low, high), kinds, strict=True)]
        samples = Region([("a", 0.0, 1.0, False), ("b", 0.0, 1.0, False)], limits).sample(60, np.random.default_rng(0))
        assert np.histogram(samples[:, 0], bins=4, range=(0, 1))[0].min() >= 3
        assert samples.sum(axis=1) == pytest.approx(1.0, abs=2e-4)


def test_the_nearest_point_is_nearest() -> None:
    region = Region([("a", 0.0, 1.0, False), ("b", 0.0, 10.0, False)], [LinearConstraint({"a": 10, "b": 1}, 10, "less_than")])
    assert region.nearest(np.array([0.5, 5.0])) == pytest.approx([0.5, 5.0])
    moved = region.nearest(np.array([0.9, 5.0]))
    assert abs(moved[0] - 0.9) + abs(moved[1] - 5) / 10 == pytest.approx(0.4, abs=1e-6)
