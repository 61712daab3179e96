"""The section `sigopt` of a recipe: which of its keys are tuned, over which values, for which metrics, with how many trials.

The terms are SigOpt's, as in its `experiment.yml`. Each parameter also names the recipe key that it sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ml.catalog.strict import FAULT, FloatOrText, IntOrText, NumberOrText, Strict, fault
from ml.recipes.assignments import as_category, value_at, with_assignments
from ml.recipes.recipe import Recipe

MetricName = Literal["auc", "log_loss", "training_time", "model_bytes"]
TRIALS_PER_PARAMETER = 10  # SigOpt's guidance is 10 to 20


class Bounds(Strict):
    """Smallest and largest value of a parameter."""

    min: NumberOrText = Field(description="Smallest value.")
    max: NumberOrText = Field(description="Largest value.")


class SearchedParameter(Strict):
    """A parameter that tuning varies."""

    name: str = Field(min_length=1, max_length=100, description="Name of the parameter.")
    key: str = Field(
        min_length=1,
        description="The recipe key that it sets, such as `dense_optimizer.lr`; `model.deep.0` is an item of a list. A list of "
        "widths is set by a category such as `128-64`.",
    )
    type: Literal["double", "int", "categorical"] = Field(description="Type of the values.")
    bounds: Bounds | None = Field(default=None, description="Smallest and largest value of a `double` or an `int`.")
    grid: tuple[NumberOrText, ...] = Field(
        default=(), description="The only values of a `double` or an `int`, in ascending order."
    )
    categorical_values: tuple[str, ...] = Field(default=(), description="Values of a `categorical`.")
    transformation: Literal["log"] | None = Field(default=None, description="`log` to search the logarithm of the value.")
    prior: dict[str, Any] | None = Field(default=None, description="Prior belief about the value, as SigOpt defines it.")
    conditions: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Values of conditionals under which the parameter exists."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("bounds", "grid", "categorical_values") if getattr(self, name)]
        expected = ["categorical_values"] if self.type == "categorical" else ["bounds", "grid"]
        if len(given) != 1 or given[0] not in expected:
            found = " and ".join(given) or "none"
            raise fault("", f"parameter {self.name!r} of type {self.type}: expected {' or '.join(expected)}, found {found}")
        if self.bounds and not self.bounds.min < self.bounds.max:
            raise fault("bounds", f"expected min below max, found {self.bounds.min} and {self.bounds.max}")
        if self.grid and (len(set(self.grid)) < 2 or list(self.grid) != sorted(set(self.grid))):
            raise fault("grid", f"expected at least two values in ascending order, found {list(self.grid)}")
        if self.type == "categorical" and len(set(self.categorical_values)) != len(self.categorical_values):
            raise fault("categorical_values", "a value is given twice")
        if self.transformation and (self.type != "double" or not self.bounds or self.bounds.min <= 0):
            raise fault("transformation", "log requires type double and bounds above 0")
        return self

    def contains(self, value: Any) -> bool:
        """Whether a value of the recipe key is among the values that are searched."""
        if self.type == "categorical":
            return as_category(value) in self.categorical_values
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value in self.grid if self.bounds is None else self.bounds.min <= value <= self.bounds.max

    def assignment(self, value: Any) -> Any:
        """Returns the parameter's value for a value of the recipe key."""
        return as_category(value) if self.type == "categorical" else value


class SearchMetric(Strict):
    """A metric of a trial."""

    name: MetricName = Field(
        description="`auc` and `log_loss` of the scored days; `training_time` in CPU-seconds of the training loop on one core; "
        "`model_bytes` of the trained model without what only training needs."
    )
    objective: Literal["maximize", "minimize"] = Field(default="maximize", description="Which values are better.")
    strategy: Literal["optimize", "constraint", "store"] = Field(
        default="optimize",
        description="`optimize`; `constraint` if only the threshold matters; `store` if the metric is only recorded.",
    )
    threshold: FloatOrText | None = Field(default=None, description="Worst acceptable value.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        best = "maximize" if self.name == "auc" else "minimize"
        if self.objective != best:
            raise fault("objective", f"expected `objective: {best}`, because the metric is {self.name}")
        return self


LONGEST_WINDOW = 28
"""Most days before a day that a tuning of the day can depend on."""


class Search(Strict):
    """The parameters, metrics and budget of a tuning."""

    project: str | None = Field(default=None, description="SigOpt's project; by default the dataset.")
    experiment: str | None = Field(default=None, description="Name of the experiment; by default the model and the day.")
    window_days: IntOrText = Field(
        default=5,
        ge=2,
        le=LONGEST_WINDOW,
        description="Number of days with rows before the day that is served, in this order: days that trials train on, days "
        "that they score, days on which the best one is judged.",
    )
    scored_days: IntOrText | None = Field(
        default=None, ge=1, description="Number of days that a trial scores before it trains on them; by default, up to two."
    )
    judged_days: IntOrText = Field(
        default=1,
        ge=0,
        description="Number of days at the end of the window that trials do not see. They decide whether the best trial's "
        "recipe is used. 0 is only for searches whose result is not judged, such as the searches of studies.",
    )
    quality_margin: FloatOrText = Field(
        default=0.001,
        ge=0,
        description="With `training_time` or `model_bytes` among the optimized metrics: loss of AUC, or of log loss, within "
        "which a recipe that is clearly better in that metric is used.",
    )
    metrics: tuple[SearchMetric, ...] = Field(
        default=(SearchMetric(name="auc"), SearchMetric(name="training_time", objective="minimize", strategy="store")),
        min_length=1,
        description="Metrics of a trial; at most two of them are optimized.",
    )
    observation_budget: IntOrText = Field(default=30, ge=1, description="Number of trials.")
    parallel_bandwidth: IntOrText = Field(default=1, ge=1, description="Number of trials at a time.")
    early_stopping: bool = Field(
        default=False,
        description="Whether a trial is stopped early if all its optimized metrics are worse than the median of the other "
        "trials at the same point of their training, or if it will miss a threshold. A stopped trial counts in the budget, and "
        "is never the best.",
    )
    parameters: tuple[SearchedParameter, ...] = Field(default=(), description="The parameters.")
    conditionals: tuple[dict[str, Any], ...] = Field(default=(), description="SigOpt's conditionals: name and values.")
    linear_constraints: tuple[dict[str, Any], ...] = Field(
        default=(), description="SigOpt's linear constraints: type, threshold and terms."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, names in (("name", [p.name for p in self.parameters]), ("key", [p.key for p in self.parameters])):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise fault("parameters", f"more than one parameter has the {what} {', '.join(twice)}")
        scored = self.scored_days or 1
        if self.window_days < (needed := 1 + scored + self.judged_days):
            raise fault(
                "window_days",
                f"expected at least {needed}: 1 day to train on, {scored} to score (scored_days), {self.judged_days} to judge "
                f"the best trial on (judged_days); found {self.window_days}",
            )
        if sum(metric.strategy == "optimize" for metric in self.metrics) > 2:
            raise fault("metrics", "expected at most two metrics with the strategy optimize")
        if len({metric.name for metric in self.metrics}) < len(self.metrics):
            raise fault("metrics", "a metric is given twice")
        return self

    @property
    def days_scored(self) -> int:
        """Number of days that a trial scores."""
        return self.scored_days or min(2, self.window_days - self.judged_days - 1)

    @property
    def days_trained(self) -> int:
        """Number of days that a trial trains on: all that it sees but the last one."""
        return self.window_days - self.judged_days - 1

    @property
    def section(self) -> dict[str, Any]:
        """The section `sigopt` of a recipe as plain data, without what is not set."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"parameters"})
        parameters = [one.model_dump(mode="json", exclude_defaults=True) for one in self.parameters]
        return {name: value for name, value in data.items() if value != []} | {"parameters": parameters}

    def warnings(self) -> list[str]:
        """Returns what is allowed, but probably not meant."""
        needed = TRIALS_PER_PARAMETER * len(self.parameters)
        few = f"sigopt.observation_budget: {self.observation_budget} trials are few for {len(self.parameters)} parameters; "
        found = [f"{few}{needed} or more find better values"] if self.observation_budget < needed else []
        for index, parameter in enumerate(self.parameters):
            bounds = parameter.bounds
            if bounds and not parameter.transformation and bounds.min > 0 and bounds.max / bounds.min >= 100:
                found.append(
                    f"sigopt.parameters.{index} ({parameter.name}): from {bounds.min} to {bounds.max} without "
                    "`transformation: log`, small values are hardly tried"
                )
        return found

    def defaults(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the recipe's own values as assignments, for parameters whose values contain them."""
        known = recipe.model_dump(mode="json")
        values = {parameter.name: (parameter, value_at(known, parameter.key)) for parameter in self.parameters}
        return {name: parameter.assignment(value) for name, (parameter, value) in values.items() if parameter.contains(value)}


class UnsuitableParameter(ValueError):
    """A parameter does not fit the recipe.

    Args:
        index: Index of the parameter.
        name: Its name.
        problem: What is wrong.
        key: Which key of the parameter is wrong, if it is one.
    """

    def __init__(self, index: int, name: str, problem: str, key: str = "") -> None:
        super().__init__(f"sigopt.parameters.{index} ({name}): {key}{': ' if key else ''}{problem}")
        self.name, self.problem, self.key = name, problem, key


class UnknownKey(UnsuitableParameter):
    """The recipe has no such key.

    Args:
        index: Index of the parameter.
        name: Its name.
        recipe_key: The key.
        part: The part of the key that does not exist.
    """

    def __init__(self, index: int, name: str, recipe_key: str, part: str) -> None:
        super().__init__(index, name, f"the recipe has no key {recipe_key!r} ({part})", "key")
        self.recipe_key = recipe_key


class OutsideValues(UnsuitableParameter):
    """The recipe's own value, which can be advised or tuned, is not among the values that are searched."""


def check_search(search: Search, recipe: Recipe) -> None:
    """Refuses parameters that do not fit a recipe.

    Raises:
        UnsuitableParameter: A parameter's key is not one of the recipe's, its type is not the key's, one of its values is not a
            value of the key, or the recipe's own value is outside its values.
    """
    for error in unsuitable_parameters(search, recipe):
        raise error


def unsuitable_parameters(search: Search, recipe: Recipe) -> Iterator[UnsuitableParameter]:
    """Yields the first thing that is wrong with each parameter that does not fit a recipe."""
    known = recipe.model_dump(mode="json")
    for index, parameter in enumerate(search.parameters):
        try:
            value = value_at(known, parameter.key)
        except KeyError as error:
            yield UnknownKey(index, parameter.name, parameter.key, error.args[0])
            continue
        if isinstance(value, int) and not isinstance(value, bool) and parameter.type == "double":
            problem = f"expected int, because {parameter.key} is an integer"
            yield UnsuitableParameter(index, parameter.name, problem, "type")
        elif refused := next(refused_values(parameter, recipe), None):
            yield UnsuitableParameter(index, parameter.name, refused[1], refused[0])
        elif not parameter.contains(value):
            problem = f"the recipe's {parameter.key}, {as_category(value)}, is outside its values; include it or edit it"
            yield OutsideValues(index, parameter.name, problem)


def refused_values(parameter: SearchedParameter, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the listed or extreme values of a parameter that the recipe refuses.

    What several keys violate together is not reported, because parameters can set them together.

    Args:
        parameter: The parameter, whose key is one of the recipe's.
        recipe: The recipe.

    Yields:
        The key of the parameter that has the value, such as `bounds`, and the problem.
    """
    domain = next(name for name in ("bounds", "grid", "categorical_values") if getattr(parameter, name))
    bounds = parameter.bounds
    for value in (bounds.min, bounds.max) if bounds else parameter.grid or parameter.categorical_values:
        problem = f"{value!r} is not a value of {parameter.key}"
        try:
            with_assignments(recipe, [parameter], {parameter.name: value})
        except ValidationError as error:
            faults = [found for found in error.errors(include_url=False) if found["type"] not in ("value_error", FAULT)]
            if faults:
                yield domain, f"{problem}: {faults[0]['msg']}"
        except (ValueError, yaml.YAMLError):
            yield domain, problem
