"""Reads parameters, conditionals and linear constraints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from ml.tuning.definition import Conditional, LinearConstraint, Parameter, Prior, Space, Value
from ml.tuning.errors import invalid
from ml.tuning.values import Reader, as_integer, as_number, as_text

MAX_NAME, MAX_CATEGORY = 100, 50
MAX_INTEGER_TERMS = 10  # integer parameters with linear constraints
MAX_COMBINATIONS = 10_000  # of values of conditionals, of which each has to leave a parameter
MIN_DISTANCE = 1e-6  # from all linear constraints, as a share of what the constrained sum can span
_SHOWN = ("object", "precision", "tunable", "constraints")  # keys that the service shows and that have no effect


def space(reader: Reader, *, grid: bool = False, stored: bool = False) -> Space:
    """Return the space of an experiment.

    Args:
        reader: The experiment.
        grid: Whether it is a grid search, in which all values have to be listed.
        stored: Whether the space was checked when it was stored, so that expensive checks are omitted.
    """
    conditionals = tuple(_conditional(item, path) for path, item in reader.items("conditionals"))
    _distinct([one.name for one in conditionals], reader.path("conditionals"), "conditional")
    parsed = parameters(reader, conditionals, grid=grid)
    if grid and conditionals:
        raise reader.error("conditionals", "grid search experiments do not support conditional parameters")
    by_name = {parameter.name: parameter for parameter in parsed}
    constraints = tuple(
        _constraint(item, path, by_name, least=1 if stored else 2) for path, item in reader.items("linear_constraints")
    )
    used = {name for constraint in constraints for name in constraint.weights if by_name[name].kind == "int"}
    if len(used) > MAX_INTEGER_TERMS:
        raise reader.error("linear_constraints", f"can have at most {MAX_INTEGER_TERMS} integer parameters, not {len(used)}")
    found = Space(parsed, conditionals, constraints)
    if not stored:
        missing = _without_parameters(found)
        if missing:
            values = " and ".join(f"{name} = {value}" for name, value in missing.items())
            raise reader.error("conditionals", f"no parameter meets its conditions with {values}")
        if constraints and not _feasible(found):
            raise reader.error("linear_constraints", "no values between the bounds satisfy them all, except on their edges")
    return found


def parameters(reader: Reader, conditionals: tuple[Conditional, ...], *, grid: bool = False) -> tuple[Parameter, ...]:
    """Return the parameters of an experiment."""
    items = reader.items("parameters", required=True)
    if not items:
        raise reader.error("parameters", "an experiment must have at least one parameter")
    by_name = {conditional.name: conditional for conditional in conditionals}
    parsed = tuple(_parameter(item, path, by_name, grid=grid) for path, item in items)
    _distinct([parameter.name for parameter in parsed], reader.path("parameters"), "parameter")
    for (path, _), parameter in zip(items, parsed, strict=True):
        if parameter.name in by_name:
            raise invalid(f"{path}.name", f"there is a conditional named {parameter.name}, too")
    return parsed


def _parameter(item: Any, path: str, conditionals: Mapping[str, Conditional], *, grid: bool) -> Parameter:
    reader = Reader(item, path)
    name = reader.text("name", limit=MAX_NAME)
    kind = reader.text("type", choices=("double", "int", "categorical"))
    low: float | None = None
    high: float | None = None
    log = reader.optional_text("transformation", choices=("log", "none")) == "log"
    if log and kind != "double":
        raise reader.error("transformation", "is only valid for parameters of type double")
    points, categories = _grid(reader, kind, log=log), _categories(reader, kind)
    if kind != "categorical":
        low, high = _bounds(reader, kind, points, log=log)
        if grid and not points:
            raise reader.error("grid", "is required in a grid search")
    elif reader.has("bounds"):
        raise reader.error("bounds", "a categorical parameter cannot have bounds")
    parameter = Parameter(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        low=low,
        high=high,
        log=log,
        grid=points,
        categories=categories,
        prior=_prior(reader, kind, low, high, gridded=bool(points), log=log),
        conditions=_conditions(reader, conditionals),
    )
    default = reader.raw("default_value")
    reader.ignore(*_SHOWN)
    reader.close()
    if default is None:
        return parameter
    return Parameter(**{**vars(parameter), "default": value_of(parameter, default, reader.path("default_value"))})


def value_of(parameter: Parameter, value: Any, path: str) -> Value:
    """Return a value of a parameter. It may lie outside the bounds, since the bounds can change.

    Raises:
        ApiError: It has the wrong type, is not one of the grid or the categories, or is not positive on a log scale.
    """
    if parameter.kind == "categorical":
        return as_text(value, path, choices=parameter.categories)
    number = as_integer(value, path) if parameter.kind == "int" else float(as_number(value, path))
    if parameter.grid and number not in parameter.grid:
        raise invalid(path, f"must be one of {', '.join(f'{point:g}' for point in parameter.grid)}, not {number:g}")
    if parameter.log and number <= 0:
        raise invalid(path, "must be positive for a log-transformed parameter")
    return number


def _bounds(reader: Reader, kind: str, points: tuple[float, ...], *, log: bool) -> tuple[float, float]:
    shown = reader.object("bounds", required=not points)
    if shown is None:
        return points[0], points[-1]
    bounds = Reader(shown, reader.path("bounds"))
    bounds.ignore("object")
    low, high = (bounds.integer(key) if kind == "int" else float(bounds.number(key)) for key in ("min", "max"))
    bounds.close()
    if points and (low, high) != (points[0], points[-1]):
        raise reader.error("bounds", "a parameter with a grid cannot have bounds; they are inferred from the grid")
    if log and low <= 0:
        raise bounds.error("min", "must be positive for the log transformation")
    if not high > low:
        raise bounds.error("max", f"must be greater than min, which is {low:g}")
    return low, high


def _grid(reader: Reader, kind: str, *, log: bool) -> tuple[float, ...]:
    items = reader.items("grid")
    if not reader.has("grid"):
        return ()
    if kind == "categorical":
        raise reader.error("grid", "a categorical parameter cannot have a grid; its categorical_values are used as the grid")
    points = sorted(as_integer(item, path) if kind == "int" else float(as_number(item, path)) for path, item in items)
    if len(set(points)) != len(points):
        raise reader.error("grid", "cannot have duplicate values")
    if len(points) < 2:
        raise reader.error("grid", "must have at least 2 values")
    if log and points[0] <= 0:
        raise reader.error("grid", "values must be positive for the log transformation")
    return tuple(points)


def _categories(reader: Reader, kind: str) -> tuple[str, ...]:
    items = reader.items("categorical_values")
    if kind != "categorical":
        if reader.has("categorical_values"):
            raise reader.error("categorical_values", "a numerical parameter cannot have categorical_values")
        return ()
    names = []
    for path, item in items:
        if isinstance(item, Mapping):
            entry = Reader(item, path)
            entry.ignore("object", "enum_index")
            names.append(entry.text("name", limit=MAX_CATEGORY))
            entry.close()
        else:
            names.append(as_text(item, path, limit=MAX_CATEGORY))
    _distinct(names, reader.path("categorical_values"), "value")
    if len(names) < 2:
        raise reader.error("categorical_values", "a categorical parameter must have at least 2 values")
    return tuple(sorted(names))


def _prior(reader: Reader, kind: str, low: float | None, high: float | None, *, gridded: bool, log: bool) -> Prior | None:
    given = reader.object("prior")
    if given is None:
        return None
    if kind != "double" or gridded or log or low is None or high is None:
        raise reader.error("prior", "only a double parameter without grid and log transformation can have a prior")
    prior = Reader(given, reader.path("prior"))
    prior.ignore("object")
    name = prior.text("name", choices=("normal", "beta"))
    keys = ("mean", "scale") if name == "normal" else ("shape_a", "shape_b")
    first, second = (float(prior.number(key)) for key in keys)
    for key in {"mean", "scale", "shape_a", "shape_b"} - set(keys):
        if prior.raw(key) is not None:
            raise prior.error(key, f"does not belong to a {name} prior")
    prior.close()
    if name == "normal" and not low <= first <= high:
        raise prior.error("mean", "must be within the bounds of the parameter")
    for key, value in zip(keys, (first, second), strict=True):
        if key != "mean" and value <= 0:
            raise prior.error(key, "must be positive")
    return Prior(name, first, second)  # type: ignore[arg-type]


def _conditions(reader: Reader, conditionals: Mapping[str, Conditional]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    conditions = Reader(reader.object("conditions") or {}, reader.path("conditions"))
    for name in reader.object("conditions") or {}:
        if name not in conditionals:
            raise conditions.error(name, "there is no conditional with this name")
        given = conditions.raw(name)
        items = [(conditions.path(name), given)] if isinstance(given, str) else conditions.items(name)
        values = tuple(as_text(item, path, choices=conditionals[name].values) for path, item in items)
        if not values:
            raise conditions.error(name, "must have at least one value")
        found[name] = tuple(dict.fromkeys(values))
    return found


def _conditional(item: Any, path: str) -> Conditional:
    reader = Reader(item, path)
    reader.ignore("object")
    name = reader.text("name", limit=MAX_NAME)
    values = tuple(as_text(value, where, limit=MAX_CATEGORY) for where, value in reader.items("values", required=True))
    reader.close()
    _distinct(list(values), reader.path("values"), "value")
    if len(values) < 2:
        raise reader.error("values", "must have at least 2 values")
    return Conditional(name, values)


def _constraint(item: Any, path: str, by_name: Mapping[str, Parameter], *, least: int) -> LinearConstraint:
    reader = Reader(item, path)
    reader.ignore("object")
    kind = reader.text("type", choices=("less_than", "greater_than"))
    threshold = float(reader.number("threshold"))
    weights: dict[str, float] = {}
    for where, entry in reader.items("terms", required=True):
        term = Reader(entry, where)
        term.ignore("object")
        name, weight = term.text("name", limit=MAX_NAME), float(term.number("weight"))
        term.close()
        parameter = by_name.get(name)
        if parameter is None:
            raise term.error("name", f"there is no parameter {name}")
        for wrong, what in (
            (parameter.kind == "categorical", "categorical"),
            (bool(parameter.conditions), "conditioned"),
            (parameter.log, "log-transformed"),
            (bool(parameter.grid), "grid"),
        ):
            if wrong:
                raise term.error("name", f"a constraint cannot be defined on a {what} parameter, such as {name}")
        if name in weights:
            raise term.error("name", f"{name} occurs twice")
        if weight:
            weights[name] = weight
    reader.close()
    if len(weights) < least:  # earlier versions accepted a single term
        raise reader.error("terms", "must have at least two terms with a weight that is not 0; use bounds for one parameter")
    if len({by_name[name].kind for name in weights}) > 1:
        raise reader.error("terms", "cannot mix integers and doubles")
    return LinearConstraint(weights, threshold, kind)  # type: ignore[arg-type]


def _without_parameters(space: Space) -> dict[str, str]:
    """Return values of conditionals with which no parameter meets its conditions; empty if there are none."""
    conditions = [parameter.conditions for parameter in space.parameters]
    used = [one for one in space.conditionals if any(one.name in each for each in conditions)]
    if not all(conditions) or math.prod(len(one.values) for one in used) > MAX_COMBINATIONS:
        return {}
    for values in itertools.product(*(one.values for one in used)):
        chosen = {one.name: value for one, value in zip(used, values, strict=True)}
        if not any(all(chosen[name] in allowed for name, allowed in each.items()) for each in conditions):
            return chosen
    return {}


def _feasible(space: Space) -> bool:
    """Whether any values satisfy all linear constraints: of doubles, a region and not only a point or an edge."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    names = sorted({name for constraint in space.constraints for name in constraint.weights})
    by_name = {parameter.name: parameter for parameter in space.parameters}
    bounds = [(float(by_name[name].low or 0), float(by_name[name].high or 0)) for name in names]
    integer = [by_name[name].kind == "int" for name in names]
    rows, limits = [], []
    for one in space.constraints:  # the last column is the distance of the values from all constraints of doubles
        sign = 1 if one.kind == "less_than" else -1
        weights = [sign * one.weights.get(name, 0.0) for name in names]
        span = sum(abs(weight) * (high - low) for weight, (low, high) in zip(weights, bounds, strict=True))
        rows.append([*weights, 0.0 if any(whole and weight for whole, weight in zip(integer, weights, strict=True)) else span])
        limits.append(sign * one.threshold)
    result = milp(
        [*[0.0] * len(names), -1.0],
        integrality=[*map(int, integer), 0],
        bounds=Bounds([*(low for low, _ in bounds), 0.0], [*(high for _, high in bounds), 1.0]),  # type: ignore[arg-type]
        constraints=LinearConstraint(rows, -math.inf, limits),  # type: ignore[arg-type]
    )
    return result.status != 2 and (result.x is None or result.x[-1] > MIN_DISTANCE)  # 2: infeasible


def _distinct(names: list[str], path: str, what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise invalid(path, f"duplicate {what} name {name}")
