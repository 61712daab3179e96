"""Reads assignments, and relates stored assignments to the space of an experiment, which can change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ml.tuning.definition import Assignments, Parameter, Space, Value
from ml.tuning.errors import ApiError, invalid
from ml.tuning.parse.parameters import value_of
from ml.tuning.values import Reader, as_text

MAX_METADATA, MAX_KEYS, MAX_KEY = 500, 100, 100  # characters of a string, keys, and characters of a key
_ROUNDING = 1e-9  # relative error of a weighted sum


def assignments(data: Any, space: Space, path: str = "assignments") -> dict[str, Value]:
    """Return assignments of all parameters whose conditions are met.

    Values can lie outside the bounds, for example from an earlier experiment.

    Raises:
        ApiError: A value is missing, unknown or of the wrong type, or a linear constraint is not satisfied.
    """
    reader = Reader(data, path)
    found: dict[str, Value] = {}
    for conditional in space.conditionals:
        found[conditional.name] = reader.text(conditional.name, choices=conditional.values)
    for parameter in space.parameters:
        if exists(parameter, found):
            found[parameter.name] = value_of(parameter, reader.raw(parameter.name, required=True), reader.path(parameter.name))
        elif reader.raw(parameter.name) is not None:
            raise reader.error(parameter.name, "must be absent, because the conditions of the parameter are not met")
    reader.close()
    broken = _broken(found, space)
    if broken is not None:
        raise invalid(path, f"do not satisfy linear_constraints[{broken}]")
    return found


def accepted(data: Any, space: Space) -> dict[str, Value] | None:
    """Return assignments of all parameters, see `assignments`; None if they are not valid."""
    try:
        return assignments(data, space)
    except ApiError:
        return None


def exists(parameter: Parameter, found: Mapping[str, Value]) -> bool:
    """Whether the conditions of a parameter are met."""
    return all(found.get(name) in allowed for name, allowed in parameter.conditions.items())


def in_space(stored: Assignments, space: Space, any_value: Collection[str] = ()) -> dict[str, Value] | None:
    """Return stored assignments as the current space of the experiment has them.

    A parameter that was added later has its default value, and one that was removed is dropped.

    Args:
        stored: The assignments.
        space: The current space.
        any_value: Names of parameters whose stored values may lie outside the bounds.

    Returns:
        The assignments; None if they are outside the space, so that a search engine cannot use them.
    """
    found: dict[str, Value] = {}
    for conditional in space.conditionals:
        value = stored.get(conditional.name)
        if value not in conditional.values:
            return None
        found[conditional.name] = value
    for parameter in space.parameters:
        if not exists(parameter, found):
            continue
        value = stored.get(parameter.name, parameter.default)
        allowed = parameter.name in stored and parameter.name in any_value
        if value is None or not (allowed or within(parameter, value)):
            return None
        found[parameter.name] = value
    return None if _broken(found, space) is not None else found


def within(parameter: Parameter, value: Value) -> bool:
    """Whether a value lies within the bounds of a parameter, or is one of its grid or categories."""
    if parameter.kind == "categorical":
        return value in parameter.categories
    if isinstance(value, str) or parameter.low is None or parameter.high is None:
        return False
    return value in parameter.grid if parameter.grid else parameter.low <= value <= parameter.high


def same_values(before: Space, after: Space) -> set[str]:
    """Return the names of the parameters that have the same values in two spaces: type, scale, bounds, grid and categories."""
    kept = {parameter.name: _values(parameter) for parameter in before.parameters}
    return {parameter.name for parameter in after.parameters if kept.get(parameter.name) == _values(parameter)}


def _values(parameter: Parameter) -> Parameter:
    """Return a parameter without what does not limit its values."""
    return replace(parameter, prior=None, conditions={}, default=None)


def _broken(found: Mapping[str, Value], space: Space) -> int | None:
    """Return the index of the first linear constraint that is not satisfied."""
    for index, constraint in enumerate(space.constraints):
        terms = [weight * float(found[name]) for name, weight in constraint.weights.items()]
        slack = _ROUNDING * max(abs(constraint.threshold), *(abs(term) for term in terms))
        distance = sum(terms) - constraint.threshold
        if (distance if constraint.kind == "less_than" else -distance) > slack:
            return index
    return None


def metadata(reader: Reader, key: str = "metadata") -> dict[str, Any] | None:
    """Return metadata of a user: an object of numbers and of strings of at most 500 characters. Keys with null are dropped."""
    given = reader.object(key)
    if given is None:
        return None
    for name, value in given.items():
        path = f"{reader.path(key)}.{name}"
        if len(name) > MAX_KEY:
            raise reader.error(key, f"keys can have at most {MAX_KEY} characters, but one has {len(name)}")
        if isinstance(value, str):
            if len(value) > MAX_METADATA:
                as_text(value, path, limit=MAX_METADATA)
        elif isinstance(value, list | Mapping):
            raise invalid(path, "must be a string, a number, a boolean or null")
    kept = {name: value for name, value in given.items() if value is not None}
    if len(kept) > MAX_KEYS:
        raise reader.error(key, f"can have at most {MAX_KEYS} keys, but has {len(kept)}")
    return kept
