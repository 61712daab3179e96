"""A snapshot is the whole state: it is loaded bit for bit, training continues from it, and misfits are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ml.artifacts.snapshot import STATE, DamagedSnapshot, SnapshotMismatch, digest
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from ml.training.state_dict import load_snapshot, save_snapshot
from tests.helpers.snapshots import OPTIMIZER_FILE, WEIGHTS_FILE, record_digests
from tests.helpers.training_days import FEATURES, HASHED, make_batches, small_recipe

SCHEMA = FeatureSchema(("x", "y"), ("a", "b"), ("m",), "fingerprint")
FILES = (WEIGHTS_FILE, OPTIMIZER_FILE, STATE)


def trained(steps: int = 10, **overrides: object) -> TrainState:
    state = new_state(small_recipe(**overrides), SCHEMA)
    state.begin_pass()
    train_pass(state, make_batches(SCHEMA, steps), total_steps=30)
    return state


def saved(state: TrainState, folder: Path) -> Path:
    folder.mkdir()
    save_snapshot(state, folder)
    return folder


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_a_saved_state_is_loaded_bit_for_bit(tmp_path: Path, kind: str) -> None:
    state = trained(dense_optimizer={"kind": kind})
    one = saved(state, tmp_path / "one")
    two = saved(load_snapshot(one), tmp_path / "two")
    assert [(one / name).read_bytes() for name in FILES] == [(two / name).read_bytes() for name in FILES]
    assert {p.name for p in one.iterdir()} == set(FILES)
    assert digest(one) == digest(two)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_training_continues_as_if_never_interrupted(tmp_path: Path, kind: str) -> None:
    batches = list(make_batches(SCHEMA, 30))
    undisturbed = new_state(small_recipe(dense_optimizer={"kind": kind}), SCHEMA)
    undisturbed.begin_pass()
    whole = train_pass(undisturbed, batches, total_steps=30)

    loaded = load_snapshot(saved(trained(12, dense_optimizer={"kind": kind}), tmp_path / "half"))
    rest = train_pass(loaded, batches[12:], total_steps=30)
    assert digest(saved(undisturbed, tmp_path / "a")) == digest(saved(loaded, tmp_path / "b"))
    assert (rest.rows, rest.steps, rest.loss, rest.rows_touched) == (whole.rows, whole.steps, whole.loss, whole.rows_touched)


def test_an_untrained_state_can_be_saved(tmp_path: Path) -> None:
    folder = saved(new_state(small_recipe(), SCHEMA), tmp_path / "new")
    assert load_snapshot(folder).running is None


def test_predictions_need_no_optimizer_state(tmp_path: Path) -> None:
    state = trained()
    folder = saved(state, tmp_path / "one")
    (folder / OPTIMIZER_FILE).unlink()
    model, batch = load_snapshot(folder, for_training=False).model.eval(), next(make_batches(SCHEMA, 1))
    assert torch.equal(model(batch.dense, batch.sparse), state.model.eval()(batch.dense, batch.sparse))


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"model": {"embedding_dim": 8}}, "recipe.model.embedding_dim: 4 in the snapshot, 8 asked for"),
        ({"model": {"top": [8, 4]}}, "recipe.model.top: [8] in the snapshot, [8, 4] asked for"),
        ({"tables": {"default": HASHED}}, r"recipe.tables.m.kind: 'collisionless' in the snapshot, 'hashed' asked for"),
        ({"dense_optimizer": {"kind": "adagrad"}}, "recipe.dense_optimizer.kind: 'adam' in the snapshot, 'adagrad' asked for"),
    ],
)
def test_other_shapes_are_refused_by_name(tmp_path: Path, overrides: dict[str, dict[str, object]], fault: str) -> None:
    folder = saved(trained(1), tmp_path / "one")
    merged = {"model": {"embedding_dim": 4, "bottom": [8], "top": [8]}, "tables": {"features": FEATURES}}
    for section, values in overrides.items():
        merged[section] = {**merged.get(section, {}), **values}
    with pytest.raises(SnapshotMismatch) as refused:
        load_snapshot(folder, recipe=small_recipe(**merged))
    assert fault in str(refused.value).splitlines()
    assert str(folder) in str(refused.value)


def test_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(trained(1), tmp_path / "one")
    with pytest.raises(SnapshotMismatch, match=r"schema\.fingerprint: 'fingerprint' in the snapshot, 'other' asked for"):
        load_snapshot(folder, schema=replace(SCHEMA, fingerprint="other"))
    with pytest.raises(SnapshotMismatch, match=r"schema\.single: \('a', 'b'\) in the snapshot, \('a',\) asked for"):
        load_snapshot(folder, schema=replace(SCHEMA, single=("a",)))


def test_other_learning_rates_are_used(tmp_path: Path) -> None:
    folder = saved(trained(1), tmp_path / "one")
    loaded = load_snapshot(folder, recipe=small_recipe(dense_optimizer={"lr": 0.5}, table_optimizer={"lr": 0.25}))
    assert loaded.set_learning_rates(1.0) == {"dense": 0.5, "tables": 0.25}


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder, other = saved(trained(1), tmp_path / "one"), saved(trained(1, tables={"default": HASHED}), tmp_path / "two")
    (folder / WEIGHTS_FILE).write_bytes((other / WEIGHTS_FILE).read_bytes())
    with pytest.raises(
        DamagedSnapshot, match=rf"{WEIGHTS_FILE} is not the file that state\.json describes; restore the folder"
    ):
        load_snapshot(folder)
    record_digests(folder)
    with pytest.raises(
        DamagedSnapshot, match=rf"{folder}: its tensors do not fit state\.json; train its day again: .*expected"
    ):
        load_snapshot(folder)
    described = json.loads((other / STATE).read_text())
    (other / STATE).write_text(json.dumps(described | {"format": 99}))
    with pytest.raises(SnapshotMismatch, match=r"format 99, this code reads 6; train its day again"):
        load_snapshot(other)
    (other / STATE).unlink()
    with pytest.raises(FileNotFoundError, match="one of an older format; train its day again"):
        load_snapshot(other)
