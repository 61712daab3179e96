"""Tuning services and experiments for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sigopt
from sigopt.exception import ApiException

from ml.tuning.driver import Driver
from ml.tuning.service import TuningService

LEARNING_RATE: dict[str, Any] = {
    "name": "learning_rate",
    "type": "double",
    "bounds": {"min": 1e-4, "max": 0.1},
    "transformation": "log",
}
LAYERS: dict[str, Any] = {"name": "layers", "type": "int", "bounds": {"min": 1, "max": 8}}
DIMENSION: dict[str, Any] = {"name": "dimension", "type": "int", "grid": [128, 64, 16]}
INTERACTION: dict[str, Any] = {"name": "interaction", "type": "categorical", "categorical_values": ["original", "dcn"]}


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_800_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def connect(service: TuningService | None = None, **arguments: Any) -> sigopt.Connection:
    """Return the sigopt client on a service in this process."""
    return sigopt.Connection(driver=Driver, service=service, **arguments)


def definition(**changes: Any) -> dict[str, Any]:
    """Return an experiment with one metric and three parameters; a change to None removes the key."""
    body: dict[str, Any] = {"name": "DLRM", "parameters": [LEARNING_RATE, LAYERS, INTERACTION], "metrics": [{"name": "auc"}]}
    return {key: value for key, value in {**body, **changes}.items() if value is not None}


def refused(call: Any, status: int = 400, text: str = "") -> str:
    """Check that a call of the client is refused, and return the message."""
    with pytest.raises(ApiException) as refusal:
        call()
    assert refusal.value.status_code == status, refusal.value
    assert refusal.value.to_json() == {"message": refusal.value.message, "status": status}
    assert text in (refusal.value.message or "")
    return refusal.value.message or ""


def sqlite(folder: Path) -> str:
    """Return the path of a database in a folder."""
    return str(folder / "tuning.db")


def try_suggestions(
    tuned: Any, parameter: str, pause: float = 0.0, acknowledge: Callable[[str, float], object] = lambda *_: None
) -> None:
    """Try suggestions until the budget of an experiment is used up, as a worker does. The metric is the parameter's value.

    Args:
        tuned: The experiment.
        parameter: Name of a parameter.
        pause: Seconds that a trial takes.
        acknowledge: Called with the suggestion and the value of each observation that the service has acknowledged.
    """
    while tuned.fetch().progress.observation_count < tuned.fetch().observation_budget:
        try:
            suggestion = tuned.suggestions().create()
        except ApiException as error:
            if error.status_code != 409:
                raise
            time.sleep(0.05)
            continue
        value = suggestion.assignments[parameter]
        time.sleep(pause)
        tuned.observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": value}])
        acknowledge(suggestion.id, value)
