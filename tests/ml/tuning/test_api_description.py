"""Requests that are generated from the OpenAPI description, valid and invalid ones, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case

from ml.tuning.database import Database
from ml.tuning.openapi import describe
from ml.tuning.routes import ROUTES
from ml.tuning.service import TuningService
from tests.helpers.trials import TRIALS
from tests.helpers.tuning import definition, sqlite
from tests.helpers.tuning_http import TOKEN, connect_http, served

pytestmark = pytest.mark.slow

AUTH = (TOKEN, "")
KEPT = 3  # experiments of each module that exist before the first generated request
DESCRIPTION = describe(ROUTES)
# Schemathesis also has to generate the bodies of MERGE, for which OpenAPI has no place; here they are those of PATCH.
for methods in DESCRIPTION["paths"].values():
    if "x-merge" in methods:
        methods["patch"] = methods.pop("x-merge")
CONFIG = {
    "generation": {"mode": "all", "allow-x00": False},
    "phases": {"coverage": {"enabled": TRIALS > 1}},
}  # `make soak` also tries all bounds
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))
EXISTING = {"client": "1", "project": "recsys", "token": "self"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with experiments, runs, observations, tags and files, which must all survive."""
    with served(TuningService(Database(sqlite(tmp_path_factory.mktemp("tuning"))))) as url:
        client = connect_http(url)
        project = client.clients(1).projects
        project().create(id="recsys", name="Recommenders")
        for _ in range(KEPT):
            core = client.experiments(client.experiments().create(**definition(type="random")).id)
            core.observations().create(suggestion=core.suggestions().create().id, values=[{"name": "auc", "value": 1}])
            core.queued_suggestions().create(assignments=dict(core.suggestions().create().assignments))
            made = project("recsys").aiexperiments().create(**definition(type="random"))
            run = client.aiexperiments(made.id).training_runs().create(name="run")
            client.training_runs(run.id).checkpoints().create(values=[{"name": "auc", "value": 1}])
        yield url
        states = [requests.get(f"{url}/v1/experiments/{1 + index}", auth=AUTH) for index in range(2 * KEPT)]
        assert [one.status_code for one in states] == [200] * 2 * KEPT
        for index in range(KEPT):
            assert requests.get(f"{url}/v1/training_runs/{1 + index}", auth=AUTH).status_code == 200


def aimed(case: Case) -> None:
    """Let most requests concern objects that exist."""
    for name, value in dict(case.path_parameters or {}).items():
        digest = crc32(f"{value!r} {case.body!r} {case.query!r}".encode(errors="replace"))
        if digest % 8:  # the others stay as they were generated
            existing = str(1 + digest % KEPT * (2 if name == "experiment" else 1) + ("/aiexperiments" in case.path))
            case.path_parameters[name] = EXISTING.get(name, existing)


@SCHEMA.parametrize()
@settings(max_examples=20 * TRIALS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
def test_generated_requests_are_answered_or_refused(case: Case, url: str) -> None:
    aimed(case)
    arguments: dict[str, Any] = case.as_transport_kwargs(base_url=url)
    method = "MERGE" if case.method == "PATCH" else case.method
    arguments.pop("method", None)
    try:
        response = requests.request(method, **{**arguments, "auth": AUTH}, timeout=60)
    except (UnicodeError, requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader):
        return  # requests does not send what is no URL or header
    assert response.status_code < 500, (method, arguments, response.text)
    if response.status_code >= 400:
        body = response.json()
        assert set(body) == {"message", "status"} and body["status"] == response.status_code and body["message"]
    elif response.status_code != 204:
        json.dumps(response.json(), allow_nan=False)
