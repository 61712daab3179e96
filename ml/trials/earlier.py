"""The best trials of earlier tunings of a model, which a tuning tries again after the recipe's own values.

Their metrics are of other days, whose level differs. So they are not given to the search as results: their values are tried on
the window of the new tuning, as trials that count in its budget.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ml.lake import Lake
from ml.recipes.assignments import with_assignments
from ml.recipes.dialects.write import experiment_body
from ml.recipes.search import Search
from ml.stages import tuning_results
from ml.trials.experiment import Tried, metrics_of
from ml.tuning.definition import Metric, Value
from ml.tuning.engine.front import front, knee
from ml.tuning.engine.space import SearchSpace
from ml.tuning.parse.experiments import experiment

if TYPE_CHECKING:
    from ml.trials.tune import Tuning

TRIALS = "trials.json"
MOST, SHARE = 5, 6  # trials at most, and at most a sixth of the budget
OF_A_TUNING = 3  # trials of one earlier tuning
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class EarlierTrial:
    """One of the best trials of an earlier tuning.

    Attributes:
        day: The day that the tuning served.
        assignments: Its values by parameter of the new search.
    """

    day: str
    assignments: Mapping[str, Value]


def earlier_trials(tuning: Tuning) -> tuple[EarlierTrial, ...]:
    """Return what a tuning tries after the recipe's own values: the best trials of the newest tunings before its day.

    A tuning counts if it is of the same kind of model, optimizes the same metrics, and scored its trials on no day on which
    the new tuning judges its best one. Its best trials are the knee of its Pareto front, the rest of the front, and then the
    front of the others. Values are carried over by recipe key. A parameter that the earlier search did not have keeps the
    recipe's value. Trials with a value outside of the new search are left out.

    Args:
        tuning: The tuning. Only results of days before its day are used, so no trial owes anything to later days.

    Returns:
        At most `MOST` different trials, and at most one for `SHARE` trials of the budget; newest tunings first.
    """
    if not tuning.search.parameters:
        return ()
    most = min(MOST, tuning.search.observation_budget // SHARE)
    space = SearchSpace(experiment(experiment_body(tuning.search, tuning.model, None)).space)
    own = tuning.search.defaults(tuning.recipe)
    found: list[EarlierTrial] = []
    for day in reversed(_days(tuning)):
        limit = min(most, len(found) + OF_A_TUNING)
        if len(found) == limit:
            break
        for assignments in _best(tuning, day):
            values = space.completed(assignments)
            if values == own or values in [one.assignments for one in found] or not _fits(tuning, space, values):
                continue
            found.append(EarlierTrial(day, values))
            if len(found) == limit:
                break
    return tuple(found)


def _days(tuning: Tuning) -> list[str]:
    known = tuning.lake.days(tuning_results(tuning.model), tuning.spec.name)
    return [day for day in known if tuning.spec.first_day < day < tuning.day]


def _best(tuning: Tuning, day: str) -> Iterator[dict[str, Any]]:
    """Yield the values of the trials of a tuning for the parameters of the new search, the best trials first."""
    lake, stage, name = tuning.lake, tuning_results(tuning.model), tuning.spec.name
    manifest = lake.manifest(stage, name, day)
    try:
        search = Search.model_validate(manifest["search"])
    except (KeyError, ValidationError):
        _log.info("%s/%s of %s was written by another version; its trials are not tried again", name, stage, day)
        return
    if (scored := manifest.get("scored")) and scored[-1] >= min(tuning.judged, default=tuning.day):
        _log.info("%s/%s of %s has scored %s, which the best trial is judged on; not tried again", name, stage, day, scored[-1])
        return
    metrics = metrics_of(search)
    if manifest["recipe"]["model"]["kind"] != tuning.recipe.model.kind or _goals(metrics) != _goals(metrics_of(tuning.search)):
        return
    trials = _trials(lake, stage, name, day)
    for number in _ranked(metrics, trials):
        yield _carried_over(trials[number].assignments, search, tuning)


def _goals(metrics: Sequence[Metric]) -> set[tuple[str, str]]:
    return {(metric.name, metric.objective) for metric in metrics if metric.strategy == "optimize"}


def _trials(lake: Lake, stage: str, dataset: str, day: str) -> list[Tried]:
    return [Tried(**trial) for trial in json.loads((lake.require(stage, dataset, day) / TRIALS).read_text())]


def _ranked(metrics: Sequence[Metric], trials: Sequence[Tried]) -> Iterator[int]:
    """Yield the indexes of trials that meet all thresholds: front by front, each with its knee first."""
    left = list(range(len(trials)))
    while left:
        observations = [trials[n].observation for n in left]
        best, bend = front(metrics, observations), knee(metrics, observations)
        if not best:
            return
        order = [left[n] for n in ([bend] if bend is not None else []) + [n for n in best if n != bend]]
        yield from order
        left = [n for n in left if n not in order]


def _carried_over(assignments: Mapping[str, Any], search: Search, tuning: Tuning) -> dict[str, Any]:
    """Return the values of an earlier trial by parameter of the new search, whose names can differ, and by conditional."""
    names = {parameter.key: parameter.name for parameter in search.parameters}
    values = dict(tuning.search.defaults(tuning.recipe))
    for parameter in tuning.search.parameters:
        if parameter.key in names:
            values.pop(parameter.name, None)
            if names[parameter.key] in assignments:
                values[parameter.name] = assignments[names[parameter.key]]
    conditionals = {one["name"] for one in tuning.search.conditionals}
    return values | {name: value for name, value in assignments.items() if name in conditionals}


def _fits(tuning: Tuning, space: SearchSpace, values: Mapping[str, Value]) -> bool:
    """Whether values are in the new search, and make a valid recipe."""
    if not space.contains(values):
        return False
    try:
        with_assignments(tuning.recipe, tuning.search.parameters, values)
    except ValidationError:
        return False
    return True
