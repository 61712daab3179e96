"""Versions and aliases in a real registry, on a SQLite store."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ml.tracking.registry import CHALLENGER, CHAMPION, DAY, DIGEST, MODEL, point, register, versions
from ml.tracking.run import Tracker

FIRST, SECOND = "2026-01-01", "2026-01-02"


@pytest.fixture
def client(mlflow_home: Path) -> MlflowClient:
    return Tracker(mlflow_home).client()


def logged(client: MlflowClient) -> LoggedModel:
    run = client.create_run("0")
    made = client.create_logged_model("0", "dlrm", run.info.run_id)
    return client.finalize_logged_model(made.model_id, "READY")


def aliases(client: MlflowClient) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model("made").aliases.items()}


def test_a_day_of_a_model_is_one_version_however_often_it_is_registered(client: MlflowClient) -> None:
    for model, day, digest in (("dlrm", FIRST, "a"), ("deepfm", FIRST, "b"), ("dlrm", SECOND, "c"), ("dlrm", FIRST, "d")):
        register(client, "made", logged(client), model, day, digest)
    held = {int(v.version): v.tags for v in client.search_model_versions("name = 'made'")}
    assert held == {
        2: {MODEL: "deepfm", DAY: FIRST, DIGEST: "b"},
        3: {MODEL: "dlrm", DAY: SECOND, DIGEST: "c"},
        4: {MODEL: "dlrm", DAY: FIRST, DIGEST: "d"},
    }
    [version] = versions(client, "made", "dlrm", FIRST)
    assert version.run_id and client.get_model_version_download_uri("made", "4").endswith("/artifacts")


def test_registering_leaves_mlflows_global_uri_unchanged(client: MlflowClient) -> None:
    register(client, "made", logged(client), "dlrm", FIRST, "a")
    assert not mlflow.is_tracking_uri_set() and not os.environ.get("MLFLOW_TRACKING_URI")


def test_aliases_move_to_the_version_that_replaces_a_day(client: MlflowClient) -> None:
    register(client, "made", logged(client), "dlrm", FIRST, "a")
    register(client, "made", logged(client), "deepfm", FIRST, "b")
    point(client, "made", {CHAMPION: ("dlrm", FIRST), CHALLENGER: ("deepfm", FIRST)})
    client.set_registered_model_alias("made", "mine", "1")
    assert aliases(client) == {CHAMPION: 1, CHALLENGER: 2, "mine": 1}
    register(client, "made", logged(client), "dlrm", FIRST, "a")
    assert aliases(client) == {CHAMPION: 3, CHALLENGER: 2, "mine": 3}
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version("made", "1")


def test_an_alias_without_a_version_stays_and_an_unwanted_alias_is_removed(client: MlflowClient) -> None:
    wanted = {CHAMPION: ("dlrm", FIRST), CHALLENGER: None}
    assert point(client, "made", wanted) == {CHAMPION: None, CHALLENGER: None}, "nothing was ever registered"
    register(client, "made", logged(client), "dlrm", FIRST, "a")
    register(client, "made", logged(client), "deepfm", FIRST, "b")
    point(client, "made", {CHAMPION: ("dlrm", FIRST), CHALLENGER: ("deepfm", FIRST)})
    found = point(client, "made", {CHAMPION: ("deepfm", SECOND), CHALLENGER: ("dlrm", FIRST)})
    assert found[CHAMPION] is None
    assert aliases(client) == {CHAMPION: 1, CHALLENGER: 2}, "both move or none, otherwise both would point at one model"
    point(client, "made", wanted)
    assert aliases(client) == {CHAMPION: 1}
