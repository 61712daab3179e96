"""The serving copy predicts what the trained model predicted at the last synchronisation, and reports what was sent."""

from __future__ import annotations

import copy
from itertools import islice

import numpy as np
import pytest
import torch

from ml.artifacts.snapshot import Tensors
from ml.days import MICROSECONDS_PER_HOUR
from ml.models.predict import predict
from ml.online.serving import ServingCopy
from ml.recipes.online import SyncRecipe
from ml.training.loop import steps
from ml.training.state import TrainState
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA, begun

BATCHES = list(make_batches(SCHEMA, 60))
HOUR = MICROSECONDS_PER_HOUR


def train(state: TrainState, first: int, count: int = 4) -> tuple[int, int]:
    """Train on some batches, and return the first and the last event time."""
    for _ in steps(state, islice(BATCHES, first, first + count), total_steps=60):
        pass
    return int(BATCHES[first].event_time[0]), int(BATCHES[first + count - 1].event_time[-1])


def logits(predictions: np.ndarray) -> np.ndarray:
    return np.log(predictions / (1 - predictions))


@pytest.mark.parametrize("rows", ["float32", "float16", "int8"])
def test_it_changes_only_when_it_is_synchronised(rows: str) -> None:
    state = begun()
    train(state, 0)
    serving = ServingCopy(state, SyncRecipe.model_validate({"rows": rows}))
    for number, first in enumerate(range(4, 20, 4), 1):
        before = predict(state.model, BATCHES[-1:])
        learned = train(state, first)
        assert np.allclose(serving.predict(BATCHES[-1]), before, atol={"float32": 1e-6, "float16": 1e-4, "int8": 1e-3}[rows])
        assert not np.allclose(predict(state.model, BATCHES[-1:]), before, atol=1e-3)
        stats = serving.sync(state, number, learned)
        assert (stats.kind, stats.version, stats.has_dense) == ("delta", number, True)
        assert stats.rows == sum(stats.rows_by_table.values()) > 0


def test_float32_rows_are_exact() -> None:
    state = begun()
    serving = ServingCopy(state, SyncRecipe())
    serving.sync(state, 1, train(state, 0, 20))
    again = ServingCopy(state, SyncRecipe())
    assert np.array_equal(serving.predict(BATCHES[-1]), again.predict(BATCHES[-1]))
    assert np.allclose(serving.predict(BATCHES[-1]), predict(state.model, BATCHES[-1:]), atol=1e-6)


def test_smaller_rows_send_fewer_bytes() -> None:
    sent = {}
    for rows in ("float32", "float16"):
        state = begun()
        serving = ServingCopy(state, SyncRecipe.model_validate({"rows": rows, "dense_every": 0}))
        stats = serving.sync(state, 1, train(state, 0))
        sent[rows] = stats.nbytes / stats.rows
    assert sent == {"float32": 8 + 4 * 4, "float16": 8 + 2 * 4}  # an id, and four weights


def test_nothing_is_sent_if_nothing_was_trained() -> None:
    state = begun()
    serving = ServingCopy(state, SyncRecipe(), version=7)
    stats = serving.sync(state, 0, None)
    assert (stats.version, stats.rows, stats.deleted, stats.nbytes) == (7, 0, 0, 0)


def dense_of_copy(serving: ServingCopy) -> Tensors:
    return {name: tensor for name, tensor in serving.tensors().items() if not name.startswith("serving.")}


def dense_sent(sync: SyncRecipe, times: list[tuple[int, int]]) -> list[bool]:
    state = begun()
    serving = ServingCopy(state, sync)
    found = []
    for number, learned in enumerate(times, 1):
        train(state, number)
        before = dense_of_copy(serving)
        found.append(serving.sync(state, number, learned).has_dense)
        assert any(not torch.equal(before[name], t) for name, t in dense_of_copy(serving).items()) == found[-1]
    return found


def test_dense_parameters_have_a_cadence_of_their_own() -> None:
    every = [(n, n + 1) for n in range(6)]
    assert dense_sent(SyncRecipe(), every) == [True] * 6
    assert dense_sent(SyncRecipe(dense_every=3), every) == [False, False, True, False, False, True]
    assert dense_sent(SyncRecipe(dense_every=0), every) == [False] * 6


def test_dense_parameters_are_sent_once_a_day_at_an_hour() -> None:
    hours = [(h * HOUR, (h + 5) * HOUR) for h in range(1, 49, 6)]  # 1 to 6, 7 to 12, ...
    assert dense_sent(SyncRecipe(dense_hour=3), hours) == [n in (0, 4) for n in range(8)]


def test_a_snapshot_sends_the_whole_model() -> None:
    state = begun()
    serving = ServingCopy(state, SyncRecipe(snapshot_every=2, dense_every=0))
    kinds = [serving.sync(state, number, train(state, number)) for number in range(1, 5)]
    assert [stats.kind for stats in kinds] == ["delta", "snapshot", "delta", "snapshot"]
    assert [stats.has_dense for stats in kinds] == [False, True, False, True]
    assert kinds[1].nbytes > kinds[0].nbytes


@pytest.mark.parametrize("sync", [{}, {"dense_every": 2}, {"dense_every": 0}, {"dense_hour": 2}, {"rows": "int8"}])
def test_it_resumes_beside_a_checkpoint(sync: dict[str, object]) -> None:
    """The checkpoint has the trained state after a synchronisation, and the serving model may lag behind it."""
    recipe = SyncRecipe.model_validate(sync)
    state = begun()
    serving = ServingCopy(state, recipe)
    serving.sync(state, 1, train(state, 0))
    kept: Tensors = {name: tensor.clone() for name, tensor in serving.tensors().items()}
    resumed_state = copy.deepcopy(state)
    resumed = ServingCopy(resumed_state, recipe, version=1, tensors=kept)
    for number in (2, 3):
        learned = train(state, 4 * number)
        train(resumed_state, 4 * number)
        assert np.array_equal(serving.predict(BATCHES[-1]), resumed.predict(BATCHES[-1]))
        assert serving.sync(state, number, learned) == resumed.sync(resumed_state, number, learned)
    assert np.array_equal(serving.predict(BATCHES[-1]), resumed.predict(BATCHES[-1]))
