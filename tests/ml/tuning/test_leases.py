from __future__ import annotations

from typing import Any

import pytest

from ml.tuning.leases import Leases
from ml.tuning.service import TuningService
from tests.helpers.tuning import Clock, connect, definition, refused

VALUES = [{"name": "auc", "value": 0.75}]


@pytest.fixture
def identity(service: TuningService) -> str:
    """Id of an experiment with a budget of two."""
    return connect(service).experiments().create(**definition(observation_budget=2)).id


def worker(service: TuningService, identity: str, name: str) -> Any:
    return connect(service, worker=name).experiments(identity)


def test_a_lease_is_at_least_three_beats() -> None:
    with pytest.raises(ValueError, match="lease must be at least 3 beats, 30 s, but is 29 s"):
        Leases(beat=10, lease=29)


def test_a_restarted_worker_gets_its_open_suggestion_again(service: TuningService, identity: str) -> None:
    first = worker(service, identity, "a").suggestions().create()
    other = worker(service, identity, "b").suggestions().create()
    assert worker(service, identity, "a").suggestions().create().assignments == first.assignments
    assert other.id != first.id
    worker(service, identity, "a").observations().create(suggestion=first.id, values=VALUES)
    refused(worker(service, identity, "a").suggestions().create, 409, "of 2, 1 are observed and 1 belong to open suggestions")


@pytest.mark.parametrize("how", ["metadata", "headers"])
def test_other_ways_to_name_a_worker(service: TuningService, identity: str, how: str) -> None:
    headers = {"x-evergreen-worker": "a"} if how == "headers" else {}
    metadata = {"evergreen_worker": "a"} if how == "metadata" else None
    suggestions = connect(service, headers=headers).experiments(identity).suggestions()
    first, again = (suggestions.create(metadata=metadata) for _ in range(2))
    assert first.id == again.id
    assert first.to_json()["lease"]["worker"] == "a"


def test_a_worker_that_died_returns_its_budget(service: TuningService, identity: str, clock: Clock) -> None:
    for name in ("a", "b"):
        worker(service, identity, name).suggestions().create()
    clock.now += 29
    refused(worker(service, identity, "c").suggestions().create, 409)
    clock.now += 2
    taken = [worker(service, identity, name).suggestions().create() for name in ("c", "d")]
    assert len({str(one.assignments) for one in taken}) == 2
    refused(worker(service, identity, "a").suggestions().create, 409)  # its budget is gone


def test_heartbeats_renew_a_lease(service: TuningService, identity: str, clock: Clock) -> None:
    own = worker(service, identity, "a")
    suggestion = own.suggestions().create()
    worker(service, identity, "b").suggestions().create()
    for beat in range(10):
        clock.now += 20
        if beat % 2:
            own.suggestions(suggestion.id).update(metadata={"beat": beat})
        else:
            connect(service).impl.request(
                "POST", ["experiments", identity, "suggestions", suggestion.id, "heartbeat"], {}, None
            )
    worker(service, identity, "c").suggestions().create()  # in place of b, which was silent
    refused(worker(service, identity, "d").suggestions().create, 409)
    assert own.suggestions(suggestion.id).fetch().to_json()["lease"]["expires"] == clock.now + 30


def test_a_late_result_is_accepted_once(service: TuningService, identity: str, clock: Clock) -> None:
    late = worker(service, identity, "a")
    suggestion = late.suggestions().create()
    clock.now += 31
    for name in ("b", "c"):
        other = worker(service, identity, name)
        other.observations().create(suggestion=other.suggestions().create().id, values=VALUES)
    stored = [late.observations().create(suggestion=suggestion.id, values=VALUES) for _ in range(2)]
    assert stored[0] == stored[1]
    assert late.fetch().progress.observation_count == 3


def test_a_result_of_a_deleted_suggestion_is_accepted(service: TuningService, identity: str) -> None:
    own = worker(service, identity, "a")
    suggestion = own.suggestions().create()
    own.suggestions(suggestion.id).delete()
    assert own.suggestions().create().id != suggestion.id
    own.observations().create(suggestion=suggestion.id, values=VALUES)
    assert own.fetch().progress.observation_count == 1


def test_a_worker_takes_up_its_expired_suggestion_if_budget_is_left(
    service: TuningService, identity: str, clock: Clock
) -> None:
    suggestion = worker(service, identity, "a").suggestions().create()
    clock.now += 31
    worker(service, identity, "b").suggestions().create()
    assert worker(service, identity, "a").suggestions().create().id == suggestion.id
    refused(worker(service, identity, "c").suggestions().create, 409)


def test_workers_without_a_name_are_not_limited(service: TuningService, identity: str) -> None:
    tuned = connect(service).experiments(identity)
    assert len({tuned.suggestions().create().id for _ in range(3)}) == 3
    refused(worker(service, identity, "a").suggestions().create, 409, "3 belong to open suggestions")
