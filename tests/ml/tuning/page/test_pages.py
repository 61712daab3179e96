"""The pages of experiments: what they show, to whom, and that they load nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ml.tuning.database import Database
from ml.tuning.page.figures import figures
from ml.tuning.page.results import read, with_importances
from ml.tuning.service import TuningService
from tests.helpers.tuning import DIMENSION, INTERACTION, LAYERS, LEARNING_RATE, connect, definition, sqlite
from tests.helpers.tuning_http import TOKEN, served

AUTH = (TOKEN, "")
HOSTILE = "</script><script>alert(1)</script>"
TWO = definition(
    type="random",
    observation_budget=20,
    parameters=[LEARNING_RATE, LAYERS, DIMENSION, INTERACTION],
    metrics=[{"name": "auc", "threshold": 0.5}, {"name": "seconds", "objective": "minimize", "threshold": 6}],
)
CONDITIONAL = definition(
    parameters=[LEARNING_RATE, {**LAYERS, "name": "dcn_layers", "conditions": {"arch": ["dcn"]}}],
    conditionals=[{"name": "arch", "values": ["dot", "dcn"]}],
)


@pytest.fixture
def service(tmp_path: Path) -> TuningService:
    return TuningService(Database(sqlite(tmp_path)))


def tuned(service: TuningService, body: dict[str, Any]) -> Any:
    connection = connect(service)
    created: Any = connection.experiments().create(**body)
    return connection.experiments(created.id)


def tried(service: TuningService, body: dict[str, Any], count: int) -> str:
    """Create an experiment with results, of which the third one is a failure, and return its id."""
    experiment = tuned(service, body)
    names = [metric["name"] for metric in body["metrics"]]
    for number in range(count):
        suggestion = experiment.suggestions().create()
        if number == 2:
            experiment.observations().create(suggestion=suggestion.id, failed=True, metadata={"log": HOSTILE})
            continue
        value = float(suggestion.assignments.get("layers", number))
        experiment.observations().create(suggestion=suggestion.id, values=[{"name": name, "value": value} for name in names])
    return experiment.fetch().id


def titles(service: TuningService, identity: str) -> list[str]:
    with service.database.transaction(write=False) as connection:
        results = with_importances(*read(service.call(connection, service.authenticate(TOKEN), {"experiment": identity})))
    return list(figures(results))


@pytest.fixture
def url(service: TuningService) -> Iterator[str]:
    with served(service) as url:
        yield url


def test_two_metrics(service: TuningService, url: str) -> None:
    identity = tried(service, TWO, 8)
    assert titles(service, identity) == [
        "Pareto front",
        "History of auc",
        "History of seconds",
        "Importances for auc",
        "Importances for seconds",
        "Parallel coordinates",
    ]
    page = requests.get(f"{url}/experiment/{identity}", auth=AUTH).text
    assert len(re.findall(r'<tr class="(?:best|feasible|infeasible)">', page)) == 7
    assert page.count('<tr class="failed">') == 1
    assert "<strong>8 / 20</strong>" in page


def test_trials_that_were_stopped_early(service: TuningService, url: str) -> None:
    experiment = tuned(service, TWO)
    identity = experiment.fetch().id
    assert "stopped early" not in requests.get(f"{url}/experiment/{identity}", auth=AUTH).text
    suggestion = experiment.suggestions().create()
    experiment.observations().create(suggestion=suggestion.id, stopped=True, metadata={"log": "by median_rule"})
    page = requests.get(f"{url}/experiment/{identity}", auth=AUTH).text
    assert page.count('<tr class="stopped">') == 1 and page.count('<tr class="failed">') == 0
    assert "<span>stopped early</span>" in page and "by median_rule" in page


def test_one_metric_with_conditions(service: TuningService, url: str) -> None:
    identity = tried(service, CONDITIONAL, 6)
    assert titles(service, identity) == ["History of auc", "Importances for auc", "Parallel coordinates"]
    assert requests.get(f"{url}/experiment/{identity}", auth=AUTH).status_code == 200


def test_an_unnamed_metric(service: TuningService, url: str) -> None:
    experiment = tuned(service, definition(metrics=[{"objective": "maximize"}]))
    for _ in range(2):
        experiment.observations().create(suggestion=experiment.suggestions().create().id, values=[{"value": 1.0}])
    assert titles(service, experiment.fetch().id) == ["History of metric", "Parallel coordinates"]
    assert requests.get(f"{url}/experiment/{experiment.fetch().id}", auth=AUTH).status_code == 200


def test_without_results(service: TuningService, url: str) -> None:
    empty, failed = tuned(service, definition()).fetch().id, tuned(service, TWO)
    failed.observations().create(suggestion=failed.suggestions().create().id, failed=True)
    failed.suggestions().create()
    for identity in (empty, failed.fetch().id):
        page = requests.get(f"{url}/experiment/{identity}", auth=AUTH)
        assert page.status_code == 200 and "no results to draw" in page.text
    assert "<strong>1</strong><span>open suggestions</span>" in page.text


def test_the_list_of_experiments(service: TuningService, url: str) -> None:
    assert "There are no experiments yet" in requests.get(f"{url}/", auth=AUTH).text
    kept, archived = tried(service, definition(name=HOSTILE), 2), tuned(service, definition(name="archived"))
    archived.delete()
    page = requests.get(f"{url}/", auth=AUTH).text
    assert f'<a href="/experiment/{kept}">' in page and "archived" not in page


def test_names_and_logs_of_users_are_only_text(service: TuningService, url: str) -> None:
    identity = tried(service, definition(name=HOSTILE, metrics=[{"name": HOSTILE}]), 6)
    for path in ("", f"experiment/{identity}"):
        page = requests.get(f"{url}/{path}", auth=AUTH)
        assert "<script>alert" not in page.text and "</script>&lt;" not in page.text
        policy = page.headers["content-security-policy"]
        nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
        assert "default-src 'none'" in policy and nonce
        assert all(tag == f'<script nonce="{nonce[1]}">' for tag in re.findall(r"<script[^>]*>", page.text))
    assert requests.get(f"{url}/", auth=AUTH).headers["content-security-policy"] != policy


def test_pages_load_nothing_from_elsewhere(service: TuningService, url: str) -> None:
    page = requests.get(f"{url}/experiment/{tried(service, TWO, 6)}", auth=AUTH).text
    assert re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?([^"'>]*)""", page) == ["data:,"]


def test_pages_need_the_token(service: TuningService, url: str) -> None:
    identity = tried(service, definition(), 1)
    for path in ("/", f"/experiment/{identity}"):
        for auth in (None, ("wrong", "")):
            refused = requests.get(url + path, auth=auth)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    for wrong in ("99", "x", "1%2F2"):
        assert requests.get(f"{url}/experiment/{wrong}", auth=AUTH).status_code == 404
