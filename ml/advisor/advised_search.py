"""What tuning searches, derived from advice: parameters around the advised values, constraints, metrics and budget."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ml.advisor.advice import Advice
from ml.advisor.draft import value_at
from ml.advisor.rules import Rules, Searched
from ml.advisor.wishes import Wishes
from ml.recipes.assignments import as_category
from ml.recipes.recipe import Recipe
from ml.recipes.search import TRIALS_PER_PARAMETER, Search

STEPS = 50  # fewest steps of a day that a searched batch size leaves
WARM_UP, DECAY_START = "schedule.warm_up", "schedule.decay_start"
DECAY_AFTER_WARM_UP = {
    "type": "greater_than",
    "threshold": 0,
    "terms": [{"name": "decay_start", "weight": 1}, {"name": "warm_up", "weight": -1}],
}


@dataclass(frozen=True)
class AdvisedSearch:
    """The search of one model, in SigOpt's terms.

    Attributes:
        parameters: SigOpt's parameters, each with the recipe key that it sets as `key`. Widths of layers are categories such as
            `128-64`.
        linear_constraints: SigOpt's constraints.
        metrics: SigOpt's metrics.
        observation_budget: Number of trials.
        parallel_bandwidth: Number of trials at a time.
    """

    parameters: tuple[dict[str, Any], ...]
    linear_constraints: tuple[dict[str, Any], ...]
    metrics: tuple[dict[str, Any], ...]
    observation_budget: int
    parallel_bandwidth: int

    @property
    def section(self) -> dict[str, Any]:
        """The section `sigopt` of a recipe."""
        return {
            "parameters": list(self.parameters),
            "linear_constraints": list(self.linear_constraints),
            "metrics": list(self.metrics),
            "observation_budget": self.observation_budget,
            "parallel_bandwidth": self.parallel_bandwidth,
        }


def advised_search(advice: Advice, wishes: Wishes | None = None, cores: float = 1.0) -> AdvisedSearch:
    """Derive what tuning searches from advice.

    The advised value of each parameter is within its bounds or among its values, grids ascend, and learning rates are searched
    on a logarithmic scale, between bounds within which no batch size of the search diverges.

    Args:
        advice: The advice.
        wishes: The user's limits. A limit of seconds a day becomes the threshold of the training time, for as many days as a
            trial trains on by default.
        cores: Number of cores for trials, each of which uses one.

    Returns:
        The search.

    Example:
        >>> from ml.advisor.advise import advise
        >>> from ml.advisor.hardware import Hardware
        >>> from ml.catalog.load import load_catalog
        >>> search = advised_search(advise(load_catalog()["criteo"], "dlrm", None, Hardware("a processor", 2, 8 << 30)))
        >>> search.parameters[0]["name"], search.parameters[0]["transformation"]
        ('dense_lr', 'log')
    """
    return search_over(parameters_around(advice.recipe, advice.rows, advice.rules), wishes, cores)


def parameters_around(
    recipe: Recipe, rows: float | None, rules: Rules, fixed: Collection[str] = ()
) -> tuple[dict[str, Any], ...]:
    """Return the parameters that tuning searches around a recipe, as `AdvisedSearch.parameters`.

    Args:
        recipe: The recipe.
        rows: Rows of a day; None if they are not known.
        rules: The rules.
        fixed: Recipe keys that will not be searched. If one of warm-up and decay start is fixed, the bounds of the other keep
            the warm-up before the decay.
    """
    searched = rules.searched(recipe.model.kind)
    grids = {one.key: _grid(one, recipe, rows) for one in searched if one.grid}
    return tuple(found for one in searched if (found := _parameter(one, recipe, rules, grids, fixed)))


def search_over(
    parameters: tuple[dict[str, Any], ...],
    wishes: Wishes | None = None,
    cores: float = 1.0,
    days_trained: int | None = None,
) -> AdvisedSearch:
    """Derive what tuning searches from its parameters.

    Args:
        parameters: The parameters.
        wishes: As for `advised_search`.
        cores: As for `advised_search`.
        days_trained: Number of training days of a trial, as `Search.days_trained`; by default, that of a search with defaults.
    """
    wishes = wishes or Wishes()
    names = {parameter["name"] for parameter in parameters}
    constraints = (DECAY_AFTER_WARM_UP,) if {"decay_start", "warm_up"} <= names else ()
    budget = TRIALS_PER_PARAMETER * len(parameters) if wishes.trials is None else wishes.trials
    return AdvisedSearch(
        parameters,
        constraints,
        tuple(_metrics(wishes, days_trained or Search().days_trained)),
        budget,
        wishes.parallel or max(1, int(cores)),
    )


def _parameter(
    one: Searched, recipe: Recipe, rules: Rules, grids: dict[str, tuple[int, ...]], fixed: Collection[str]
) -> dict[str, Any] | None:
    """Return a parameter; None if the recipe has no value for it, or there is only one to try."""
    value = value_at(recipe.model_dump(mode="json"), one.key)
    common = {"name": one.name, "key": one.key, "type": one.parameter_type}
    if value is None:
        return None
    if one.factor:
        low, high = _within(rules, one.key, recipe, grids, value / one.factor, value * one.factor)
        if not 0 < low < high:
            return None
        bounds = {"min": min(float(f"{low:.4g}"), value), "max": max(float(f"{high:.4g}"), value)}
        return common | {"bounds": bounds, "transformation": "log"}
    if one.range:
        low, high = _before_decay(one.key, min(one.range[0], value), max(one.range[1], value), recipe, fixed)
        if low == high:
            return None
        whole = one.type == "int"
        return common | {"bounds": {"min": int(low), "max": int(high)} if whole else {"min": low, "max": high}}
    if one.grid:
        grid = grids[one.key]
        return common | {"grid": list(grid)} if len(grid) > 1 else None
    if one.shapes:
        fits = recipe.model.embedding_dim if one.key == "model.bottom" else 0
        values = [as_category(shape) for shape in rules.lists[one.shapes] if shape[-1] >= fits]
    else:
        values = list(one.values)
    values = list(dict.fromkeys([*values, as_category(value)]))
    return common | {"categorical_values": values} if len(values) > 1 else None


def _before_decay(key: str, low: float, high: float, recipe: Recipe, fixed: Collection[str]) -> tuple[float, float]:
    """Return the part of a range, of warm-up or decay start, that keeps the warm-up before the decay if the other is fixed."""
    if key == WARM_UP and DECAY_START in fixed:
        high = min(high, recipe.schedule.decay_start)
    if key == DECAY_START and WARM_UP in fixed:
        low = max(low, recipe.schedule.warm_up)
    return low, high


def _grid(one: Searched, recipe: Recipe, rows: float | None) -> tuple[int, ...]:
    """Return the values that fit the data, in ascending order, with the advised one among them."""
    value, values = value_at(recipe.model_dump(mode="json"), one.key), set(one.grid)
    if value is None:
        return ()
    if one.key == "batch_size":
        # Without a profile, the number of rows is unknown, so only sizes near the advised one are searched.
        most = rows / STEPS if rows else 2 * value
        values = {size for size in values if value / 4 <= size <= most}
    return tuple(sorted(values | {value}))


def _within(
    rules: Rules, key: str, recipe: Recipe, grids: dict[str, tuple[int, ...]], low: float, high: float
) -> tuple[float, float]:
    """Return the part of a range that is safe with every batch size that is searched."""
    data = recipe.model_dump(mode="json")
    for bound in rules.bounds:
        if bound.key != key:
            continue
        for size in grids.get("batch_size", (recipe.batch_size,)):
            known = {name: value_at(data | {"batch_size": size}, name.removeprefix("recipe.")) for name in bound.names}
            limits = bound.of(known)
            if limits is not None:
                low, high = max(low, limits[0]), min(high, limits[1])
    return low, high


def _metrics(wishes: Wishes, days_trained: int) -> Iterator[dict[str, Any]]:
    name, threshold = wishes.target or ("auc", None)
    quality: dict[str, Any] = {"name": name, "objective": "maximize" if name == "auc" else "minimize", "strategy": "optimize"}
    # SigOpt allows thresholds of optimized metrics only if there are two of them.
    yield quality if threshold is None or wishes.seconds is None else quality | {"threshold": threshold}
    time: dict[str, Any] = {"name": "training_time", "objective": "minimize"}
    if wishes.seconds is None:
        yield time | {"strategy": "store"}
    else:  # the wish is about a day, and the metric about all days that a trial trains on
        yield time | {"strategy": "optimize", "threshold": wishes.seconds * days_trained}
