"""Experiments with the largest bounds and results that the service accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.tuning.database import Database
from ml.tuning.errors import ApiError
from ml.tuning.service import TuningService
from tests.helpers.tuning import definition, sqlite

PARAMETERS = [
    {"name": "lr", "type": "double", "bounds": {"min": 1e-300, "max": 1e300}, "transformation": "log"},
    {"name": "shift", "type": "double", "bounds": {"min": -1e300, "max": 1e300}},
    {"name": "seed", "type": "int", "bounds": {"min": -(2**53), "max": 2**53}},
]
RESULTS = {
    "huge": [1e300, -1e300, 1e299, 0.0, 5e-324] * 2,
    "tiny": [1e-320 * index for index in range(10)],
    "equal": [1.0] * 10,
    "failed": [None] * 10,
}


@pytest.mark.parametrize("results", RESULTS.values(), ids=RESULTS)
def test_the_engine_copes_with_extreme_values(tmp_path: Path, results: list[float | None]) -> None:
    service = TuningService(Database(sqlite(tmp_path)))
    service.handle("POST", ["experiments"], definition(parameters=PARAMETERS, observation_budget=20))
    suggestions, observations = (["experiments", "1", name] for name in ("suggestions", "observations"))
    for value in results:
        suggestion = service.handle("POST", suggestions) or {}
        body = {"failed": True} if value is None else {"values": [{"name": "auc", "value": value}]}
        service.handle("POST", observations, {"suggestion": suggestion["id"], **body})
    assignments = (service.handle("POST", suggestions) or {})["assignments"]
    assert all(one["bounds"]["min"] <= assignments[one["name"]] <= one["bounds"]["max"] for one in PARAMETERS)
    service.handle("GET", ["experiments", "1", "stopping_criteria"])
    service.handle("GET", ["experiments", "1", "best_assignments"])
    if len(set(results)) > 1:
        assert service.handle("GET", ["experiments", "1", "metric_importances"])
    else:
        with pytest.raises(ApiError, match="too few different results"):
            service.handle("GET", ["experiments", "1", "metric_importances"])
