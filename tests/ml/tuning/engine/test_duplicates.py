"""Points that are tried or open, and their replacement."""

from __future__ import annotations

import numpy as np
import pytest

from ml.tuning.definition import Conditional, Parameter, Space
from ml.tuning.engine.duplicates import Exhausted, Taken
from ml.tuning.engine.space import SearchSpace

MIXED = SearchSpace(Space((Parameter("lr", "double", 1e-4, 1.0, log=True), Parameter("dim", "int", grid=(16, 32, 64)))))


def test_nearly_equal_numbers_are_the_same_point() -> None:
    taken = Taken(MIXED, [{"lr": 0.01, "dim": 16}])
    assert {"lr": 0.010001, "dim": 16} in taken
    assert {"lr": 0.0102, "dim": 16} not in taken
    assert {"lr": 0.01, "dim": 32} not in taken


def test_a_taken_point_is_replaced_by_a_free_one_close_to_it() -> None:
    taken = Taken(MIXED, [{"lr": 0.01, "dim": 16}])
    point = MIXED.point({"lr": 0.01, "dim": 16})
    found = [taken.free(point, np.random.default_rng(seed)) for seed in range(20)]
    assert all(one not in taken and MIXED.contains(one) for one in found)
    assert all(one["dim"] in (16, 32) and abs(np.log10(float(one["lr"])) + 2) < 0.5 for one in found)


def test_the_last_free_point_is_found() -> None:
    space = SearchSpace(Space((Parameter("a", "int", 0, 40), Parameter("b", "int", 0, 40))))
    every = [{"a": a, "b": b} for a in range(41) for b in range(41)]
    taken = Taken(space, [one for one in every if one != {"a": 3, "b": 38}])
    assert taken.free(space.point({"a": 20, "b": 0}), np.random.default_rng(0)) == {"a": 3, "b": 38}
    with pytest.raises(Exhausted, match="Every combination"):
        Taken(space, every).free(space.point({"a": 20, "b": 0}), np.random.default_rng(0))


def test_a_continuous_parameter_that_exists_only_sometimes_is_compared_where_it_exists() -> None:
    rate = Parameter("lr", "double", 0, 1, conditions={"net": ("deep",)})
    space = SearchSpace(Space((rate,), (Conditional("net", ("deep", "wide")),)))
    taken = Taken(space, [{"net": "wide"}, {"net": "deep", "lr": 0.5}])
    assert {"net": "wide"} in taken and {"net": "deep", "lr": 0.6} not in taken
