"""A model that is synchronised through a sync folder predicts the same as a copy in the process."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from ml.artifacts.bundle import write_inputs
from ml.online.published import PublishedServing
from ml.online.serving import ServingCopy
from ml.recipes.online import SyncRecipe
from ml.sync.folder import SyncFolder
from ml.training.loop import steps
from ml.training.state import TrainState
from tests.helpers.training_days import made_spec, make_batches
from tests.helpers.training_states import SCHEMA, begun

BATCHES = list(make_batches(SCHEMA, 60))


def inputs(folder: UPath) -> dict[str, str]:
    return dict(write_inputs(folder, made_spec(), {}))


def train(state: TrainState, first: int) -> tuple[int, int]:
    for _ in steps(state, islice(BATCHES, first, first + 4), total_steps=60):
        pass
    return int(BATCHES[first].event_time[0]), int(BATCHES[first + 3].event_time[-1])


@pytest.mark.parametrize(
    "sync", [{}, {"rows": "int8"}, {"dense_every": 2}, {"dense_every": 0}, {"dense_every": 0, "snapshot_every": 3}]
)
def test_it_predicts_as_a_copy_does(tmp_path: Path, sync: dict[str, object]) -> None:
    recipe = SyncRecipe.model_validate(sync)
    one = begun()
    train(one, 0)
    other = copy.deepcopy(one)
    served = PublishedServing(
        SyncFolder.at(tmp_path), one, inputs, dataset="made", model="dlrm", run_id="a1", sync=recipe
    )  # fmt: skip
    copied = ServingCopy(other, recipe)
    for number in range(7):
        learned = (train(one, 4 * number), train(other, 4 * number))[0] if number else None
        a, b = served.sync(one, number, learned), copied.sync(other, number, learned)
        assert (a.kind, a.version, a.rows, a.deleted, a.has_dense) == (b.kind, b.version, b.rows, b.deleted, b.has_dense)
        assert np.array_equal(served.predict(BATCHES[-1]), copied.predict(BATCHES[-1]))
    assert served.receiver.status.version == 6 and not served.receiver.status.refused


def test_a_refused_package_is_an_error(tmp_path: Path) -> None:
    state = begun()
    folder = SyncFolder.at(tmp_path)
    served = PublishedServing(folder, state, inputs, dataset="made", model="dlrm", run_id="a1", sync=SyncRecipe())
    learned = train(state, 0)
    real = folder.publish

    def damaged(*args: object) -> object:
        manifest = real(*args)  # type: ignore[arg-type]
        for file in (tmp_path / "a1" / "deltas").rglob("*.safetensors"):
            file.write_bytes(b"damaged")
        return manifest

    object.__setattr__(served._publisher, "folder", type("Damaged", (), {"publish": staticmethod(damaged)})())
    with pytest.raises(RuntimeError, match="is at version 0 after version 1 was published"):
        served.sync(state, 1, learned)
