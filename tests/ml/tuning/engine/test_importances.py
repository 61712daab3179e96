"""Importances of parameters."""

from __future__ import annotations

import numpy as np
import pytest

from ml.tuning.definition import Conditional, Metric, Observation, Parameter, Space, Study, Value
from ml.tuning.engine.importances import importances

SPACE = Space(
    (
        Parameter("lr", "double", 0.001, 1, log=True),
        Parameter("dim", "int", grid=(16, 32, 64)),
        Parameter("layers", "int", 1, 4, conditions={"net": ("deep",)}),
        Parameter("fixed", "int", 3, 3),
    ),
    (Conditional("net", ("deep", "wide")),),
)


def study(count: int, flat: bool = False) -> Study:
    rng = np.random.default_rng(0)
    found = []
    for n in range(count):
        tried: dict[str, Value] = {
            "net": ("deep", "wide")[n % 2],
            "lr": float(10 ** rng.uniform(-3, 0)),
            "fixed": 3,
        }
        tried |= {"dim": (16, 32, 64)[n % 3]} | ({"layers": 1 + n % 4} if n % 2 == 0 else {})
        value = 0.0 if flat else float(np.log10(float(tried["lr"]))) + 0.001 * float(tried["dim"])
        found.append(Observation(tried, {"auc": value}, failed=n == 5))
    return Study(SPACE, (Metric("auc"),), tuple(found))


def test_shares_rank_the_parameters() -> None:
    shares = importances(study(30), "auc")
    assert next(iter(shares)) == "lr" and shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"net", "lr", "dim", "layers", "fixed"} and shares["layers"] == shares["fixed"] == 0
    assert shares == importances(study(30), "auc")


def test_few_or_equal_results_have_no_importances() -> None:
    assert importances(study(3), "auc") == {}
    assert importances(study(30, flat=True), "auc") == {}
    assert importances(study(30), "seconds") == {}
