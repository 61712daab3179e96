"""Suggestions over random spaces: in the space, within constraints and conditions, never a duplicate, and reproducible."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.tuning.definition import Metric, Observation, Parameter, Space, Study, Value
from ml.tuning.engine import Exhausted, NoFeasiblePoint, suggest
from ml.tuning.engine.duplicates import Taken
from ml.tuning.engine.enumeration import walk
from ml.tuning.engine.space import SearchSpace
from tests.helpers.tuning_spaces import spaces

KINDS = st.sampled_from(("offline", "random"))
AUC = (Metric("auc"),)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=spaces(), kind=KINDS, seed=st.integers(0, 99))
def test_parallel_suggestions_are_distinct_points_of_the_space(
    space: Space, kind: Literal["offline", "random"], seed: int
) -> None:
    study = Study(space, AUC, kind=kind, seed=seed)
    search = SearchSpace(space)
    for _ in range(6):
        try:
            found = suggest(study)
        except (Exhausted, NoFeasiblePoint):
            break
        assert search.contains(found), found
        assert found not in Taken(search, study.open)
        assert found == suggest(study)
        study = replace(study, open=(*study.open, found))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=spaces(discrete=True), kind=st.sampled_from(("offline", "random", "grid")))
def test_a_discrete_space_is_walked_once(space: Space, kind: Literal["offline", "random", "grid"]) -> None:
    points = list(walk(SearchSpace(space)))
    every, last = points[:-1], points[-1:]
    study = Study(space, AUC, tuple(Observation(one, {"auc": 0.5}) for one in every[::2]), tuple(every[1::2]), kind=kind)
    if last:
        assert suggest(study) == last[0]
    with pytest.raises((Exhausted, NoFeasiblePoint)):
        suggest(replace(study, open=(*study.open, *last)))


def test_a_grid_is_walked_in_order() -> None:
    space = Space((Parameter("dim", "int", grid=(16, 64)), Parameter("net", "categorical", categories=("dcn", "dot"))))
    found: tuple[dict[str, Value], ...] = ()
    for _ in range(4):
        found = (*found, suggest(Study(space, AUC, open=found, kind="grid")))
    assert [tuple(one.values()) for one in found] == [(16, "dcn"), (16, "dot"), (64, "dcn"), (64, "dot")]


def test_a_grid_of_a_continuous_parameter_is_refused() -> None:
    space = Space((Parameter("dropout", "double", 0.0, 0.5),))
    with pytest.raises(ValueError, match="dropout has infinitely many values"):
        suggest(Study(space, AUC, kind="grid"))
