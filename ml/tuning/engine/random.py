"""Suggestions that are drawn at random, evenly over the space."""

from __future__ import annotations

import math
import random

from ml.hashing import derive_seed
from ml.tuning.definition import Parameter, Study, Value

MAX_DRAWS = 10_000


def suggest(study: Study) -> dict[str, Value]:
    """Return assignments that satisfy all linear constraints, and that are neither open nor observed if that is possible."""
    tried = [*study.open, *(observation.assignments for observation in study.observations)]
    generator = random.Random(derive_seed(study.seed, "random", len(tried)))
    drawn: dict[str, Value] = {}
    for _ in range(MAX_DRAWS):
        drawn = _draw(study, generator)
        if drawn not in tried and all(
            (sum(weight * float(drawn[name]) for name, weight in one.weights.items()) <= one.threshold)
            == (one.kind == "less_than")
            for one in study.space.constraints
        ):
            break
    return drawn


def _draw(study: Study, generator: random.Random) -> dict[str, Value]:
    drawn: dict[str, Value] = {one.name: generator.choice(one.values) for one in study.space.conditionals}
    for parameter in study.space.parameters:
        if all(drawn[name] in allowed for name, allowed in parameter.conditions.items()):
            drawn[parameter.name] = _value(parameter, generator)
    return drawn


def _value(parameter: Parameter, generator: random.Random) -> Value:
    if parameter.grid or parameter.categories:
        return generator.choice(parameter.grid or parameter.categories)
    assert parameter.low is not None and parameter.high is not None
    if parameter.kind == "int":
        return generator.randint(int(parameter.low), int(parameter.high))
    if parameter.log:
        return min(
            max(math.exp(generator.uniform(math.log(parameter.low), math.log(parameter.high))), parameter.low), parameter.high
        )
    return generator.uniform(parameter.low, parameter.high)
