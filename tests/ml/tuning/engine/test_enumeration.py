"""All points of discrete spaces."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pytest
from hypothesis import given

from ml.tuning.definition import Conditional, LinearConstraint, Parameter, Space
from ml.tuning.engine.enumeration import count, walk
from ml.tuning.engine.space import SearchSpace
from tests.helpers.trials import examples
from tests.helpers.tuning_spaces import spaces


@examples(60)
@given(spaces(discrete=True))
def test_every_point_is_walked_once(space: Space) -> None:
    search = SearchSpace(space)
    values = [d.values for d in search.dimensions if d.values is not None]
    names = [d.name for d in search.dimensions]
    every = {tuple(sorted(search.completed(dict(zip(names, row, strict=True))).items())) for row in product(*values)}
    inside = {one for one in every if search.contains(dict(one))}
    walked = [tuple(sorted(one.items())) for one in walk(search, np.random.default_rng(0))]
    assert len(walked) == len(set(walked)) == count(search, 10**6) and set(walked) == inside


def test_a_huge_space_is_walked_lazily() -> None:
    huge = tuple(Parameter(f"p{n}", "int", 0, 10**9) for n in range(5))
    space = SearchSpace(Space(huge, constraints=(LinearConstraint({f"p{n}": 1.0 for n in range(5)}, 4e9, "greater_than"),)))
    assert all(space.contains(one) for one in islice(walk(space, np.random.default_rng(1)), 3))
    assert count(space, 7) == 7


def test_combinations_of_conditional_parameters_are_counted() -> None:
    layers = Parameter("layers", "int", 1, 3, conditions={"net": ("deep",)})
    assert count(SearchSpace(Space((layers,), (Conditional("net", ("deep", "wide")),))), 99) == 4


def test_a_continuous_space_is_refused() -> None:
    with pytest.raises(ValueError, match="lr has infinitely many values"):
        count(SearchSpace(Space((Parameter("lr", "double", 0, 1),))), 3)
