"""Suggestions that a model of the results makes: in the space, distinct, reproducible, and better than random ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from ml.tuning.definition import Conditional, LinearConstraint, Metric, Observation, Parameter, Space, Study, Value
from ml.tuning.engine import Exhausted, NoFeasiblePoint, gaussian_process, suggest
from ml.tuning.engine.acquisition import acquisition
from ml.tuning.engine.duplicates import Taken
from ml.tuning.engine.history import history
from ml.tuning.engine.sampling import random_points
from ml.tuning.engine.space import SearchSpace
from tests.helpers.tuning_spaces import spaces

AUC, SECONDS = Metric("auc", threshold=0.3), Metric("seconds", "minimize", threshold=1.0)
MEMORY = Metric("memory", "minimize", "constraint", 0.8)
METRICS = (
    (Metric("auc"),),
    (AUC, SECONDS),
    (Metric("auc"), MEMORY),
    (MEMORY,),
    (AUC, SECONDS, MEMORY, Metric("log", strategy="store")),
)


def observed(space: SearchSpace, count: int, seed: int, failures: float = 0.2) -> tuple[Observation, ...]:
    rng = np.random.default_rng(seed)
    found = []
    for point in random_points(space, count, rng):
        values = {
            "auc": float(1 - ((point - 0.4) ** 2).sum()),
            "seconds": float(point.sum()),
            "memory": float(point[0]),
            "log": 1.0,
        }
        failed = bool(rng.random() < failures)
        found.append(Observation(space.assignments(point), {} if failed else values, failed=failed))
    return tuple(found)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    space=spaces(),
    metrics=st.sampled_from(METRICS),
    count=st.integers(2, 12),
    opened=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_modelled_suggestions_are_distinct_points_of_the_space(
    space: Space, metrics: tuple[Metric, ...], count: int, opened: int, seed: int
) -> None:
    search = SearchSpace(space)
    try:
        points = [search.assignments(point) for point in random_points(search, opened, np.random.default_rng(seed + 1))]
        results = observed(search, count, seed)
    except NoFeasiblePoint:
        return
    study = Study(space, metrics, results, tuple(points), budget=6, seed=seed)
    for _ in range(2):
        try:
            found = suggest(study)
        except Exhausted:
            assert np.isfinite(search.size)
            return
        assert search.contains(found), found
        assert found not in Taken(search, [*study.open, *(one.assignments for one in results)])
        assert found == suggest(study)
        study = replace(study, open=(*study.open, found))


def tuned(
    space: Space, metrics: tuple[Metric, ...], measure: Callable[[Mapping[str, Value]], dict[str, float]], budget: int
) -> Study:
    study = Study(space, metrics, budget=budget)
    for _ in range(budget):
        found = suggest(study)
        study = replace(study, observations=(*study.observations, Observation(found, measure(found))))
    return study


def test_a_model_finds_the_optimum_of_a_smooth_metric() -> None:
    space = Space(
        (Parameter("lr", "double", 1e-4, 1.0, log=True), Parameter("layers", "int", 1, 8), Parameter("drop", "double", 0, 1))
    )
    study = tuned(
        space,
        (Metric("auc"),),
        lambda x: {
            "auc": -((np.log10(float(x["lr"])) + 2) ** 2) - (float(x["layers"]) - 5) ** 2 / 4 - (float(x["drop"]) - 0.3) ** 2
        },
        20,
    )
    assert max(one.values["auc"] for one in study.observations) > -0.02


def test_a_search_over_constraints_alone_finds_the_region_that_meets_them() -> None:
    space = Space((Parameter("a", "double", 0, 1), Parameter("b", "double", 0, 1)))
    small = (Metric("far", "minimize", "constraint", 0.15), Metric("sum", "minimize", "constraint", 1.1))
    study = tuned(space, small, lambda x: {"far": abs(float(x["a"]) - float(x["b"])), "sum": float(x["a"]) + float(x["b"])}, 16)
    good = [all(m.meets(one.values[m.name]) for m in small) for one in study.observations]
    assert sum(good[6:]) >= 7  # 15 % of the space meets both


def test_failures_are_avoided() -> None:
    space = Space((Parameter("rate", "double", 0, 1), Parameter("other", "double", 0, 1)))
    study = Study(space, (Metric("auc"),), budget=24)
    for _ in range(24):
        found = suggest(study)
        failed = float(found["rate"]) > 0.4  # beyond, training diverges, although the metric improves until there
        values = {} if failed else {"auc": float(found["rate"])}
        study = replace(study, observations=(*study.observations, Observation(found, values, failed=failed)))
    late = study.observations[10:]
    assert sum(one.failed for one in late) <= len(late) / 2
    assert max(one.values.get("auc", 0.0) for one in study.observations) > 0.35


def test_conditional_parameters_are_modelled() -> None:
    deep = Parameter("layers", "int", 1, 8, conditions={"net": ("deep",)})
    space = Space((deep, Parameter("lr", "double", 0, 1)), (Conditional("net", ("deep", "wide")),))
    study = tuned(
        space,
        (Metric("auc"),),
        lambda x: {"auc": (0.5 + float(x["layers"]) / 16 if "layers" in x else 0.4) - abs(float(x["lr"]) - 0.5)},
        30,
    )
    assert all(("layers" in one.assignments) == (one.assignments["net"] == "deep") for one in study.observations)
    assert sum(one.assignments["net"] == "deep" for one in study.observations[15:]) >= 9


def test_linear_constraints_hold_where_the_optimum_is_on_their_border() -> None:
    space = Space(
        (Parameter("warmup", "double", 0, 1), Parameter("decay", "double", 0, 1)),
        constraints=(LinearConstraint({"decay": 1, "warmup": -1}, 0.2, "greater_than"),),
    )
    study = tuned(space, (Metric("auc"),), lambda x: {"auc": float(x["warmup"]) - abs(float(x["decay"]) - 0.5)}, 20)
    assert max(one.values["auc"] for one in study.observations) > 0.28  # 0.3 on the border
    assert all(SearchSpace(space).contains(one.assignments) for one in study.observations)


@pytest.mark.parametrize("met", [False, True])
def test_parallel_suggestions_of_a_constrained_model_differ(met: bool) -> None:
    space = Space((Parameter("a", "double", 0, 1), Parameter("b", "double", 0, 1)))
    search = SearchSpace(space)
    limit = replace(MEMORY, threshold=0.8 if met else -1.0)
    study = Study(space, (Metric("auc"), Metric("seconds", "minimize"), limit), observed(search, 10, 3), budget=20)
    for _ in range(4):
        study = replace(study, open=(*study.open, suggest(study)))
    points = np.array([search.point(one) for one in study.open])
    apart = np.abs(points[:, None] - points[None]).max(axis=-1)[np.triu_indices(4, 1)]
    assert apart.min() > 0.01


def test_earlier_results_outside_of_the_space_are_left_out() -> None:
    space = Space((Parameter("a", "double", 0, 1), Parameter("b", "int", 1, 3, default=2)))
    old = (Observation({"a": 7.0, "b": 1}, {"auc": 1.0}), *(Observation({"a": x / 10}, {"auc": x / 10}) for x in range(8)))
    assert SearchSpace(space).contains(suggest(Study(space, (Metric("auc"),), old, budget=9)))


def test_large_spaces_and_long_histories_are_modelled() -> None:
    wide = Space(tuple(Parameter(f"p{n}", "double", 0, 1) for n in range(25)))
    narrow = Space((Parameter("a", "double", 0, 1), Parameter("b", "int", 1, 30)))
    for space, count in ((wide, 60), (narrow, 300)):
        search = SearchSpace(space)
        assert search.contains(suggest(Study(space, (AUC, SECONDS), observed(search, count, 0))))


def test_threads_and_logs_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    space = Space((Parameter("a", "double", 0, 1), Parameter("b", "double", 0, 1)))
    threads = torch.get_num_threads()
    with caplog.at_level(logging.INFO):
        suggest(Study(space, (AUC, SECONDS), observed(SearchSpace(space), 12, 0)))
    assert torch.get_num_threads() == threads
    assert not caplog.records


def test_a_suggestion_uses_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(*given: Any, **named: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return acquisition(*given, **named)

    monkeypatch.setattr(gaussian_process, "acquisition", spy)
    space = Space((Parameter("a", "double", 0, 1), Parameter("b", "double", 0, 1)))
    suggest(Study(space, (AUC, SECONDS), observed(SearchSpace(space), 12, 0)))
    assert seen and set(seen) == {1}


def test_trials_that_were_stopped_early_count_as_bad_but_not_as_failures() -> None:
    plane = Space((Parameter("a", "double", 0, 1), Parameter("b", "double", 0, 1)))
    space = SearchSpace(plane)
    ended = list(observed(space, 14, 0, failures=0.0))
    ended[::3] = [replace(one, values={}, failed=True, stopped=True) for one in ended[::3]]
    study = Study(plane, (Metric("auc"),), tuple(ended), budget=30)
    known = history(space, study)
    assert known.stopped.tolist() == known.failed.tolist() == [n % 3 == 0 for n in range(14)]
    assert not (known.feasible & known.stopped).any()
    assert space.contains(suggest(study))
    failed = replace(study, observations=tuple(replace(one, stopped=False) for one in ended))
    assert suggest(failed) != suggest(study)
