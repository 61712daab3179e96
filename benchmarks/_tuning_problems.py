"""Test problems with two optimized metrics and thresholds, for the tuning engine. Their sources are in their docstrings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ml.tuning.definition import Metric, Parameter, Space, Value

Measure = Callable[[Mapping[str, Value], np.random.Generator], dict[str, float]]


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        name: The name.
        space: What can be tried.
        metrics: Two optimized metrics with thresholds, and constraint metrics.
        measure: Returns the metrics of a trial, some with noise.
        best: Values that no trial reaches. Hypervolume is a share of the box between them and the thresholds.
    """

    name: str
    space: Space
    metrics: tuple[Metric, ...]
    measure: Measure
    best: tuple[float, float]


def _lower(name: str, threshold: float, strategy: str = "optimize") -> Metric:
    return Metric(name, "minimize", "constraint" if strategy == "constraint" else "optimize", threshold)


def branin_currin() -> Problem:
    """Return the constrained Branin-Currin problem (Belakaria et al. 2019, with the disk constraint of Gelbart et al. 2014)."""

    def measure(x: Mapping[str, Value], rng: np.random.Generator) -> dict[str, float]:
        a, b = float(x["a"]), float(x["b"])
        u, v = 15 * a - 5, 15 * b
        branin = (
            (v - 5.1 / (4 * math.pi**2) * u**2 + 5 / math.pi * u - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(u) + 10
        )
        factor = 1 - math.exp(-1 / (2 * b)) if b > 0 else 1.0
        currin = factor * (2300 * a**3 + 1900 * a**2 + 2092 * a + 60) / (100 * a**3 + 500 * a**2 + 4 * a + 20)
        return {"branin": branin, "currin": currin, "disk": (u - 2.5) ** 2 + (v - 7.5) ** 2}

    space = Space((Parameter("a", "double", 0.0, 1.0), Parameter("b", "double", 0.0, 1.0)))
    return Problem(
        "Branin-Currin",
        space,
        (_lower("branin", 30.0), _lower("currin", 8.0), _lower("disk", 50.0, "constraint")),
        measure,
        (0.0, 1.0),
    )


def c2_dtlz2() -> Problem:
    """Return C2-DTLZ2 (Jain and Deb 2014) with four parameters and two metrics: the front is interrupted."""
    names, radius = ("a", "b", "c", "d"), 0.2

    def measure(x: Mapping[str, Value], rng: np.random.Generator) -> dict[str, float]:
        first, *rest = (float(x[name]) for name in names)
        length = 1 + sum((one - 0.5) ** 2 for one in rest)
        f = np.array([length * math.cos(first * math.pi / 2), length * math.sin(first * math.pi / 2)])
        corners = min((f[0] - 1) ** 2 + f[1] ** 2, (f[1] - 1) ** 2 + f[0] ** 2) - radius**2
        middle = float(((f - 1 / math.sqrt(2)) ** 2).sum()) - radius**2
        return {"first": float(f[0]), "second": float(f[1]), "gap": min(corners, middle)}

    space = Space(tuple(Parameter(name, "double", 0.0, 1.0) for name in names))
    return Problem(
        "C2-DTLZ2", space, (_lower("first", 1.1), _lower("second", 1.1), _lower("gap", 0.0, "constraint")), measure, (0.0, 0.0)
    )


def dlrm() -> Problem:
    """Return a surface with the shape of tuning DLRM: eight mixed parameters, noisy AUC and training seconds."""
    bottoms = {"512-256": 0.9, "256-128": 0.6, "128-64": 0.35, "64": 0.12}  # seconds of a small layer, as shares of the largest
    tops = {"1024-512-256": 1.0, "512-256": 0.55, "256-128": 0.3, "128": 0.1}

    def measure(x: Mapping[str, Value], rng: np.random.Generator) -> dict[str, float]:
        rate, batch, dim = float(x["learning_rate"]), float(x["batch_size"]), float(x["dim"])
        bottom, top = bottoms[str(x["bottom"])], tops[str(x["top"])]
        steps = 4e6 / batch
        ideal = 0.3 * (batch / 2048) ** 0.5  # the rate of the best AUC grows with the root of the batch size
        off = math.log(rate / ideal)
        warm, decay = float(x["warmup"]), float(x["decay_start"])
        schedule = 0.004 * (warm - 0.1) ** 2 / 0.04 + 0.006 * (decay - 0.7) ** 2 / 0.25 + (0.02 if decay < warm else 0.0)
        capacity = 0.009 * math.exp(-dim / 24) + 0.004 * math.exp(-4 * bottom) + 0.006 * math.exp(-4 * top)
        fit = 0.0035 * off**2 * (1.6 if off > 0 else 1.0) + 0.006 * math.exp(-steps / 700)
        dropout = 0.03 * abs(float(x["dropout"]) - 0.05) ** 1.5
        auc = max(0.809 - schedule - capacity - fit - dropout, 0.5) + rng.normal() * 3e-4
        seconds = (250 + 22 * dim + 1500 * bottom + 1900 * top) * (0.45 + 0.55 * (2048 / batch) ** 0.6)
        return {"auc": auc, "seconds": seconds * math.exp(rng.normal() * 0.015)}

    space = Space(
        (
            Parameter("learning_rate", "double", 0.001, 10.0, log=True),
            Parameter("batch_size", "int", grid=(512, 1024, 2048, 4096, 8192, 16384)),
            Parameter("dim", "int", 4, 128),
            Parameter("bottom", "categorical", categories=tuple(sorted(bottoms))),
            Parameter("top", "categorical", categories=tuple(sorted(tops))),
            Parameter("warmup", "double", 0.0, 0.5),
            Parameter("decay_start", "double", 0.2, 1.0),
            Parameter("dropout", "double", 0.0, 0.5),
        )
    )
    return Problem("DLRM", space, (Metric("auc", threshold=0.795), _lower("seconds", 2500.0)), measure, (0.808, 300.0))
