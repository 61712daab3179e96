"""Dimensions, and the points of a space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tuning.definition import Conditional, LinearConstraint, Parameter, Space, Value
from ml.tuning.engine.space import SearchSpace
from tests.helpers.tuning_spaces import spaces


@given(space=spaces(), position=st.floats(0, 1))
def test_values_are_at_their_positions(space: Space, position: float) -> None:
    for dimension in SearchSpace(space).dimensions:
        value = dimension.value(position)
        assert dimension.contains(value)
        again = dimension.value(dimension.position(value))
        assert again == pytest.approx(value) if isinstance(value, float) else again == value


def test_values_of_a_dimension_are_equally_likely() -> None:
    grid, whole = SearchSpace(Space((Parameter("g", "int", grid=(1, 10, 100)), Parameter("n", "int", 1, 4)))).dimensions
    positions = (np.arange(1200) + 0.5) / 1200
    assert [sum(grid.value(x) == value for x in positions) for value in (1, 10, 100)] == [400] * 3
    assert [sum(whole.value(x) == value for x in positions) for value in (1, 2, 3, 4)] == [300] * 4


def test_logarithms_are_uniform() -> None:
    rate, size = SearchSpace(
        Space((Parameter("lr", "double", 1e-4, 1.0, log=True), Parameter("n", "int", 1, 1000, log=True)))
    ).dimensions
    assert rate.value(0.5) == pytest.approx(0.01)
    assert size.value(0.5) in range(15, 35) and (size.value(0), size.value(1)) == (1, 1000)


@pytest.mark.parametrize(
    ("tried", "inside"),
    [
        ({"net": "deep", "layers": 2, "a": 1, "b": 0.5}, True),
        ({"net": "wide", "a": 1.0, "b": 0.5}, True),
        ({"net": "wide", "layers": 2, "a": 1.0, "b": 0.5}, False),
        ({"net": "deep", "a": 1.0, "b": 0.5}, False),
        ({"net": "deep", "layers": 2.5, "a": 1.0, "b": 0.5}, False),
        ({"net": "flat", "a": 1.0, "b": 0.5}, False),
        ({"net": "wide", "a": 2.1, "b": 0.5}, False),
        ({"net": "wide", "a": True, "b": 0.5}, False),
        ({"net": "wide", "a": "1", "b": 0.5}, False),
        ({"net": "wide", "a": 2.0, "b": 1.5}, False),
    ],
)
def test_a_space_contains_what_meets_bounds_conditions_and_constraints(tried: dict[str, Value], inside: bool) -> None:
    layers = Parameter("layers", "int", 1, 4, conditions={"net": ("deep",)})
    pair = (Parameter("a", "double", 0, 2), Parameter("b", "double", 0, 2))
    constraint = LinearConstraint({"a": 1, "b": 1}, 3.0, "less_than")
    assert SearchSpace(Space((layers, *pair), (Conditional("net", ("deep", "wide")),), (constraint,))).contains(tried) == inside


def test_absent_values_have_defaults() -> None:
    space = SearchSpace(Space((Parameter("a", "double", 0, 1), Parameter("b", "int", 1, 3, default=2))))
    assert space.completed({"a": 0.5, "unknown": 1}) == {"a": 0.5, "b": 2}


def test_a_parameter_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="lr has neither bounds nor a grid"):
        SearchSpace(Space((Parameter("lr", "double"),)))
