"""Advice on the definition of an experiment."""

from __future__ import annotations

from ml.tuning.definition import Parameter
from ml.tuning.experiment import Experiment

PER_PARAMETER = 10  # observations per parameter that a search by model needs
SPAN = 100  # ratio of the bounds from which a logarithmic scale is advised
MAX_PARAMETERS = 20


def violations(found: Experiment) -> list[str]:
    """Return what makes the search less effective, as sentences."""
    parameters = found.space.parameters
    found_violations = [
        f"The bounds of {one.name} span a factor of {one.high / one.low:g}; `transformation: log` searches them evenly"
        for one in parameters
        if _spans(one) and one.low and one.high
    ]
    if len(parameters) > MAX_PARAMETERS:
        found_violations.append(f"{len(parameters)} parameters are searched; a model learns more from at most {MAX_PARAMETERS}")
    if found.budget is None:
        found_violations.append(f"`{found.budget_key}` is missing; the search plans better with it")
    elif found.kind == "offline" and found.budget < PER_PARAMETER * len(parameters):
        found_violations.append(
            f"`{found.budget_key}` is {found.budget:g}; {len(parameters)} parameters need at least "
            f"{PER_PARAMETER * len(parameters)} observations"
        )
    if found.bandwidth is not None and found.kind == "offline" and found.bandwidth > max(1, len(parameters)):
        found_violations.append(
            f"`parallel_bandwidth` is {found.bandwidth}, more than the number of parameters; many suggestions are made before "
            "the results of earlier ones are known"
        )
    return found_violations


def _spans(parameter: Parameter) -> bool:
    """Whether a double parameter has positive bounds far apart, but a linear scale."""
    if parameter.kind != "double" or parameter.log or parameter.grid or parameter.low is None or parameter.high is None:
        return False
    return parameter.low > 0 and parameter.high / parameter.low >= SPAN
