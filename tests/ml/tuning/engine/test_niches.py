"""Niches: which results count as different solutions, and suggestions for experiments that look for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from ml.tuning.definition import Metric, Observation, Parameter, Space, Study, Value
from ml.tuning.engine import suggest
from ml.tuning.engine.history import history
from ml.tuning.engine.niches import distances, niche_radius, niches, other_niches, positions
from ml.tuning.engine.space import SearchSpace

MIXED = Space(
    (
        Parameter("dim", "int", 16, 128, grid=(16, 64, 128)),
        Parameter("lr", "double", 1e-4, 1.0, log=True),
        Parameter("net", "categorical", categories=("dcn", "dot", "mlp")),
    )
)
PLANE = Space((Parameter("a", "double", -5.0, 5.0), Parameter("b", "double", -5.0, 5.0)))
LOSS = (Metric("loss", "minimize"),)


def himmelblau(x: Mapping[str, Value]) -> float:
    """Four minima of zero (Himmelblau 1972)."""
    a, b = float(x["a"]), float(x["b"])
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def tuned(space: Space, loss: Callable[[Mapping[str, Value]], float], study: Study) -> tuple[Observation, ...]:
    """Return the observations of an experiment with the budget of a study."""
    while len(study.observations) < (study.budget or 0):
        found = suggest(study)
        assert SearchSpace(space).contains(found)
        study = replace(study, observations=(*study.observations, Observation(found, {"loss": loss(found)})))
    return study.observations


def test_distances_scale_numbers_and_count_different_categories_once() -> None:
    space = SearchSpace(MIXED)
    tried = [
        {"dim": 16, "lr": 1e-4, "net": "dcn"},
        {"dim": 128, "lr": 1e-4, "net": "dcn"},
        {"dim": 16, "lr": 1e-2, "net": "mlp"},
        {"dim": 17, "lr": 1e-4, "net": "dcn"},  # is not in the space
        {"dim": 17, "lr": 1e-4, "net": "dcn"},
    ]
    points = positions(space, tried)
    assert distances(space, points, points[0]) == pytest.approx([0, 2 / 3, (0.5**2 + 1) ** 0.5, 1, 1])


def test_a_niche_shrinks_with_the_number_of_solutions() -> None:
    one, two = (SearchSpace(Space(PLANE.parameters[:n])) for n in (1, 2))
    assert niche_radius(one, 1) == 2 * niche_radius(one, 2)
    assert niche_radius(two, 4) == pytest.approx(2**0.5 * niche_radius(one, 2))


def test_the_best_results_that_differ_are_solutions() -> None:
    space = SearchSpace(PLANE)
    tried = [{"a": a, "b": 0.0} for a in (0.0, 0.5, 4.5, 4.0, -4.0)]
    losses = np.array([0.1, 0.2, 0.4, 0.3, 0.9])
    assert niches(space, tried, losses, 3) == [0, 3, 4]
    assert niches(space, tried, losses, 2) == [0, 3]
    assert niches(space, tried[:2], losses[:2], 2) == [0]
    assert niches(space, [], losses[:0], 2) == []


def test_suggestions_avoid_one_solution_after_the_other() -> None:
    tried = [Observation({"a": a, "b": 0.0}, {"loss": abs(a)}) for a in (0.0, 0.4, 4.0)]
    study = Study(PLANE, LOSS, tuple(tried), solutions=2, budget=30)
    space, seen = SearchSpace(PLANE), []
    for count in (3, 2):
        found = other_niches(space, history(space, replace(study, observations=tuple(tried[:count]))), 2)
        seen.append(found and (found.centres, found.inside.tolist()))
    assert seen[0] == ([0], [True, True, False])
    assert seen[1] is None  # the results differ too little for a second niche
    assert other_niches(space, history(space, study), 1) is None
    failed = replace(study, observations=(Observation({"a": 0.0, "b": 0.0}, {}, failed=True),))
    assert other_niches(space, history(space, failed), 2) is None


def test_a_suggestion_for_another_solution_is_outside_of_the_best_niche() -> None:
    xs = np.linspace(-5, 5, 9)
    tried = tuple(Observation({"a": a, "b": b}, {"loss": (a - 1.5) ** 2 + (b - 1.5) ** 2}) for a in xs for b in xs[::2])
    space = SearchSpace(PLANE)
    best = min(tried, key=lambda one: one.values["loss"])
    for number in range(2):  # results and open suggestions together say whose turn it is
        study = Study(PLANE, LOSS, tried, ({"a": -5.0, "b": -4.9},) * number, budget=200, solutions=2)
        points = positions(space, [suggest(study), best.assignments])
        gap = distances(space, points, points[1])[0]
        others = other_niches(space, history(space, study), 2)
        assert others is not None
        assert (gap >= 0.8 * others.radius) == (tried[others.centres[0]] == best)


@pytest.mark.slow
def test_several_solutions_are_better_than_those_of_a_search_for_one() -> None:
    space = SearchSpace(PLANE)
    worst: dict[int, list[float]] = {1: [], 4: []}
    for seed in range(100, 105):
        for solutions, found in worst.items():
            done = tuned(PLANE, himmelblau, Study(PLANE, LOSS, budget=40, seed=seed, solutions=solutions))
            losses = np.array([one.values["loss"] for one in done])
            best = niches(space, [one.assignments for one in done], losses, 4)
            found.append(losses[best].max() if len(best) == 4 else np.inf)
    assert np.median(worst[4]) < np.median(worst[1]) / 2


def test_both_of_two_equal_categories_are_found() -> None:
    space = Space(
        (Parameter("net", "categorical", categories=("dcn", "dot", "mlp")), Parameter("lr", "double", 1e-4, 1.0, log=True))
    )
    peaks = {"dcn": 1e-3, "dot": 1e-1}

    def loss(x: Mapping[str, Value]) -> float:
        return abs(np.log10(float(x["lr"]) / peaks[str(x["net"])])) if x["net"] in peaks else 3.0

    done = tuned(space, loss, Study(space, LOSS, budget=24, seed=3, solutions=2))
    least = {net: min(one.values["loss"] for one in done if one.assignments["net"] == net) for net in peaks}
    assert max(least.values()) < 0.1


def test_a_large_space_is_searched_outside_of_the_other_solutions() -> None:
    wide = Space(tuple(Parameter(f"p{n}", "double", 0.0, 1.0) for n in range(25)))
    rng = np.random.default_rng(0)
    points = [{f"p{n}": float(x) for n, x in enumerate(row)} for row in rng.random((60, 25))]
    tried = tuple(Observation(one, {"loss": sum(one.values())}) for one in points)
    study = Study(wide, LOSS, tried, budget=90, solutions=3, seed=1)
    assert SearchSpace(wide).contains(suggest(study))
    assert suggest(study) != suggest(replace(study, solutions=1))
