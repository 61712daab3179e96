"""Reads the linear constraints of another tool's file, and keeps warm-up before decay."""

from __future__ import annotations

from typing import Any

from ml.recipes.dialects.numbers import as_number
from ml.recipes.dialects.parameters import ParameterReader
from ml.recipes.dialects.report import Report

_TYPES = ("less_than", "greater_than")


def read_constraints(items: Any, parameters: ParameterReader, report: Report) -> list[dict[str, Any]]:
    """Returns the linear constraints of a file.

    Terms of positions that have become fractions get the weight of the same constraint on fractions.

    Args:
        items: The list of constraints; None for none.
        parameters: The parameters of the file.
        report: Receives faults and notes.
    """
    found: list[dict[str, Any]] = []
    if not isinstance(items, list | None):
        report.fault(["linear_constraints"], "expected a list of constraints")
        return found
    for index, item in enumerate(items or []):
        constraint = _constraint(["linear_constraints", index], item, parameters, report)
        found += [constraint] if constraint else []
    return found


def _constraint(at: list[str | int], item: Any, parameters: ParameterReader, report: Report) -> dict[str, Any] | None:
    terms = item.get("terms") if isinstance(item, dict) else None
    plain = (
        isinstance(terms, list)
        and terms
        and all(isinstance(term, dict) and isinstance(term.get("name"), str) for term in terms)
    )
    if not isinstance(terms, list) or not plain or item.get("type") not in _TYPES:
        report.fault(at, f"expected the keys type ({' or '.join(_TYPES)}), threshold, and terms, each with name and weight")
        return None
    names = [term["name"] for term in terms]
    if skipped := parameters.skipped & set(names):
        report.note(at, f"is left out, because {', '.join(sorted(skipped))} is left out")
        return None
    if fixed := [name for name in names if name in parameters.found and not parameters.found[name].bounds]:
        report.fault(at, f"{fixed[0]} has no bounds, so it cannot be in a constraint; skip linear_constraints")
        return None
    numbers = [as_number(value) for value in (item.get("threshold"), *(term.get("weight") for term in terms))]
    if not all(isinstance(number, int | float) for number in numbers):
        report.fault(at, "expected numbers as threshold and weights")
        return None
    threshold, *weights = numbers
    scales = [parameters.scale.get(name, 1) for name in names]
    if len(set(scales)) > 1:
        weights = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    elif scales[0] != 1:
        threshold /= scales[0]  # both sides are divided, so that weights stay small
    return {
        "type": item["type"],
        "threshold": threshold,
        "terms": [{"name": name, "weight": weight} for name, weight in zip(names, weights, strict=True)],
    }


def _named(term: Any) -> bool:
    return isinstance(term, dict) and isinstance(term.get("name"), str)


def keep_order(constraints: list[dict[str, Any]], parameters: ParameterReader, report: Report) -> list[dict[str, Any]]:
    """Returns constraints that keep the end of the warm-up before the start of the decay, if both are searched and overlap."""
    by_key = {parameter.key: parameter for parameter in parameters.found.values()}
    warm_up, decay = by_key.get("schedule.warm_up"), by_key.get("schedule.decay_start")
    if not (warm_up and decay and warm_up.bounds and decay.bounds) or warm_up.bounds.max <= decay.bounds.min:
        return constraints
    names = {warm_up.name, decay.name}
    if any({term["name"] for term in constraint["terms"]} == names for constraint in constraints):
        return constraints
    report.note(["parameters"], f"a constraint is added, because {warm_up.name} has to end before {decay.name}")
    terms = [{"name": decay.name, "weight": 1}, {"name": warm_up.name, "weight": -1}]
    return [*constraints, {"type": "greater_than", "threshold": 0, "terms": terms}]
