from __future__ import annotations

import sigopt

from ml.tuning.records import tokens
from ml.tuning.service import TuningService
from tests.helpers.tuning import DIMENSION, connect, definition, refused


def test_the_client_creates_and_fetches_an_experiment(connection: sigopt.Connection) -> None:
    created = connection.experiments().create(**definition(parameters=[DIMENSION], observation_budget=20))
    fetched = connection.experiments(created.id).fetch()
    assert fetched == created
    assert (fetched.name, fetched.observation_budget, fetched.state) == ("DLRM", 20, "active")
    assert fetched.parameters[0].grid == [16, 64, 128]
    assert (fetched.parameters[0].bounds.min, fetched.parameters[0].bounds.max) == (16, 128)
    assert fetched.progress.observation_count == 0


def test_unknown_paths_and_verbs(connection: sigopt.Connection) -> None:
    refused(connection.organizations().fetch, 404, "There is no /v1/organizations")
    refused(lambda: connection.impl.request("MERGE", ["experiments"], {}, None), 405, "accepts GET, POST, not MERGE")


def test_tokens(service: TuningService) -> None:
    with service.database.transaction() as database:
        tokens.ensure(database, "secret", 0)
    known = connect(service, client_token="secret")
    assert known.experiments().create(**definition()).id == "1"
    known.set_client_token("other")
    refused(known.experiments(1).fetch, 401, "The token is unknown")
