"""Fits the rates of a machine to measured training times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from ml.advisor.typical_rates import TYPICAL_RATES

PRIOR = 0.2  # weight of the typical rates: a shape's relative error of 1 % weighs as much as a rate's deviation of 5 %


def fit_rates(units: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> tuple[dict[str, float], float]:
    """Solve for the rates that explain measured times.

    Some terms always grow together, so that a few times with errors of several percent cannot tell their rates apart. Each rate
    is therefore drawn towards its typical proportion to the others (`ml.advisor.typical_rates`), with a small weight. A rate
    of which no time depends has its typical proportion.

    Args:
        units: Units by term of each measurement.
        seconds: Its time.

    Returns:
        Seconds per unit of each term, which are not negative, and the root mean square of the relative errors.

    Example:
        >>> rates, error = fit_rates([{"steps": 1, "values": 0}], [2 * TYPICAL_RATES["steps"]])
        >>> round(rates["values"] / TYPICAL_RATES["values"], 3), round(error, 3)
        (2.0, 0.0)
    """
    names = list(TYPICAL_RATES)
    typical = np.array([[each.get(name, 0.0) * TYPICAL_RATES[name] for name in names] for each in units])  # [M, terms]
    times = np.asarray(seconds)  # [M]
    machine = float(np.median(times / typical.sum(axis=1)))  # how many times slower it is than the typical machine
    relative = machine * typical / times[:, None]  # relative errors count: each equation is divided by its time
    weights = PRIOR * np.eye(len(names))
    found, _ = nnls(np.vstack([relative, weights]), np.concatenate([np.ones(len(times)), weights.sum(axis=1)]))
    rates = {name: float(machine * TYPICAL_RATES[name] * factor) for name, factor in zip(names, found, strict=True)}
    return rates, float(np.sqrt(np.mean((relative @ found - 1) ** 2)))
