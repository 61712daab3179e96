"""Whatever a caller sends is answered or refused with a status between 400 and 499."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from ml.tuning.errors import ApiError
from ml.tuning.service import TuningService
from tests.helpers.tuning import DIMENSION, INTERACTION, LAYERS, definition

NESTED: list[Any] = []
for _ in range(200):
    NESTED = [NESTED]
HOSTILE = [
    *(None, True, "", "x" * 10_000, "\0", "\ud800", "\udfff\udfff", "name", [], {}, [[]], {"": ""}, NESTED, [None], -1, 0, 1),
    *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, 2**53 + 1, 2**63, 2**64, -(2**70), 10**400, 0.5),
    *({"\0": 1}, {"\ud800": 1}, {"object": "x"}, "9" * 30, "²", "٣", "-1", "1.0", "0x10", "1e3", "' OR 1=1 --", "%", "NaN"),
]
EXPERIMENT = definition(
    parameters=[
        {**LAYERS, "conditions": {"arch": ["deep"]}},
        {
            "name": "dropout",
            "type": "double",
            "bounds": {"min": 0, "max": 1},
            "prior": {"name": "normal", "mean": 0.1, "scale": 1},
        },
        {"name": "decay", "type": "double", "bounds": {"min": 0, "max": 1}},
        DIMENSION,
        INTERACTION,
    ],
    conditionals=[{"name": "arch", "values": ["deep", "wide"]}],
    linear_constraints=[
        {"type": "less_than", "threshold": 1, "terms": [{"name": "dropout", "weight": 1}, {"name": "decay", "weight": 1}]}
    ],
    metrics=[{"name": "auc", "threshold": 0.1}, {"name": "seconds", "objective": "minimize"}],
    observation_budget=50,
    parallel_bandwidth=2,
    metadata={"a": 1},
)
ASSIGNMENTS = {"arch": "deep", "layers": 2, "dropout": 0.5, "decay": 0.1, "dimension": 16, "interaction": "dcn"}
VALUES = [{"name": "auc", "value": 0.5, "value_stddev": 0.1}, {"name": "seconds", "value": 1}]
CALLS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("POST", ["experiments"], EXPERIMENT),
    ("PUT", ["experiments", 1], {key: EXPERIMENT[key] for key in ("name", "metrics", "metadata", "parallel_bandwidth")}),
    ("GET", ["experiments", 1], {}),
    ("GET", ["experiments"], {"limit": "3", "before": "9", "state": "all"}),
    ("POST", ["experiments", 1, "suggestions"], {"assignments": ASSIGNMENTS, "metadata": {"evergreen_worker": "a"}}),
    ("PUT", ["experiments", 1, "suggestions", 1], {"metadata": {"a": 1}}),
    ("POST", ["experiments", 1, "queued_suggestions"], {"assignments": ASSIGNMENTS}),
    ("GET", ["experiments", 1, "queued_suggestions", 1], {}),
    ("POST", ["experiments", 1, "observations"], {"assignments": ASSIGNMENTS, "values": VALUES, "metadata": {"a": 1}}),
    ("POST", ["experiments", 1, "observations"], {"suggestion": "1", "failed": True, "task": None}),
    ("POST", ["experiments", 1, "observations", "batch"], {"observations": [{"suggestion": 1, "values": VALUES}]}),
    ("PUT", ["experiments", 1, "observations", 1], {"assignments": ASSIGNMENTS, "values": VALUES}),
    ("GET", ["experiments", 1, "observations"], {"after": "0", "limit": "2", "ascending": "true"}),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place in a JSON value: the object or list, and the key or index."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.parametrize("seed", range(8))
def test_no_call_fails_with_anything_but_an_api_error(service: TuningService, seed: int) -> None:
    service.handle("POST", ["experiments"], EXPERIMENT)
    service.handle("POST", ["experiments", "1", "suggestions"], {"assignments": ASSIGNMENTS})
    service.handle("POST", ["experiments", "1", "observations"], {"assignments": ASSIGNMENTS, "values": VALUES})
    generator = random.Random(seed)
    for _ in range(120):
        method, path, body = copy.deepcopy(generator.choice(CALLS))
        for _ in range(generator.choice((1, 1, 2))):
            whole = [path[1:], body]
            holder, key = generator.choice([place for place in places(whole) if place[0] is not whole] or [(body, "x")])
            if generator.random() < 0.2 and isinstance(holder, dict):
                key = generator.choice(["x", "\0", "object", "task", "id"])
            holder[key] = copy.deepcopy(generator.choice(HOSTILE))
            path[1:] = whole[0]
        try:
            answer = service.handle(method, path, body)
            if answer and answer.get("object") == "experiment" and method == "POST":
                service.handle("POST", ["experiments", answer["id"], "suggestions"])
        except ApiError as error:
            assert 400 <= error.status < 500
            json.dumps(error.body()).encode()
        else:
            json.dumps(answer, allow_nan=False)
    assert service.handle("GET", ["experiments", "1"])["name"]  # type: ignore[index]
    service.handle("GET", ["experiments", "1", "observations"])
