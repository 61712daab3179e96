"""Publishing a run: what a receiver rebuilds from a snapshot and deltas, equal bytes for equal streams, and old packages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from ml.artifacts.delta import apply_delta
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import STATE
from ml.artifacts.weights import weights_of
from ml.embeddings.delta import Gap
from ml.models.predict import predict
from ml.recipes.online import SyncRecipe
from ml.sync.folder import Acknowledgement, Head, RunConflict, SyncFolder
from ml.sync.manifest import RowFormat
from ml.sync.publisher import Publisher
from ml.sync.rows import DELTA_FILE, delta_from_bytes
from ml.sync.serving_copy import serving_copy
from ml.training.passes import train_pass
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA, begun

QUOTIENT = {"kind": "compositional", "family": "quotient_remainder", "operation": "mult", "rows": 32, "universe": 256}
MIXED = {
    "table_optimizer": {"kind": "rowwise_adagrad"},
    "tables": {"features": {"b": QUOTIENT, "m": {"kind": "static", "rows": 64}}},
}


def no_inputs(folder: UPath) -> Mapping[str, str]:
    return {}


def publisher(
    root: Path, state: TrainState, rows: RowFormat = "float32", run_id: str = "a1", version: int = 0, **keys: Any
) -> Publisher:
    recipe = SyncRecipe(rows=rows, **keys)
    return Publisher(
        SyncFolder.at(root), state, no_inputs, dataset="made", model="dlrm", run_id=run_id, recipe=recipe, version=version
    )


def train(state: TrainState, seed: int) -> tuple[int, int]:
    """Train on a few batches; a seed has its own ids. Returns the span of event times."""
    batches = list(make_batches(SCHEMA, 3, seed=seed))
    train_pass(state, batches, total_steps=3)
    return int(batches[0].event_time.min()), int(batches[-1].event_time.max())


def rebuilt(folder: SyncFolder, run_id: str = "a1", begin: int | None = None) -> TorchPredictor:
    """What a receiver holds that starts at a snapshot, by default the newest, and applies the deltas after it."""
    head = folder.head()
    assert head is not None
    begin = head.snapshot if begin is None else begin
    found = TorchPredictor.load(folder.package(run_id, "snapshot", begin))
    for version in range(begin + 1, head.version + 1):
        manifest = folder.manifest(run_id, "delta", version)
        assert found.steps == manifest.since
        assert apply_delta(found.model, delta_from_bytes(folder.read(manifest, DELTA_FILE), manifest.row_format))
        assert found.steps == manifest.steps
    return found


@pytest.mark.parametrize("keys", [{}, MIXED], ids=["collisionless and hashed", "static and compositional too"])
def test_snapshot_and_deltas_give_the_trainers_rows_bit_for_bit(tmp_path: Path, keys: dict[str, Any]) -> None:
    state = begun(**keys)
    train(state, 0)
    own = publisher(tmp_path, state)
    own.snapshot()
    for seed in range(1, 5):
        own.publish(train(state, seed))
        found, wanted = weights_of(rebuilt(own.folder).model), weights_of(serving_copy(state, "float32").model)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (batch,) = make_batches(SCHEMA, 1)
    assert (predict(rebuilt(own.folder).model, [batch]) == predict(serving_copy(state, "float32").model, [batch])).all()


def test_expired_ids_are_deleted_at_receivers(tmp_path: Path) -> None:
    state = begun(tables={"default": {"kind": "collisionless", "ttl_seconds": 60}, "features": {}})
    own = publisher(tmp_path, state)
    own.snapshot()
    learned = own.publish(train(state, 1)).manifest
    (batch,) = make_batches(SCHEMA, 1, size=4)
    train_pass(state, [replace(batch, event_time=batch.event_time + 3600 * 1_000_000)], total_steps=1)
    expired = own.publish(None).manifest
    assert expired.deleted > expired.rows > 0 and learned.deleted == 0
    found, wanted = weights_of(rebuilt(own.folder).model), weights_of(serving_copy(state, "float32").model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("rows", ["float16", "int8"])
def test_rounded_rows_equal_those_of_a_snapshot_in_the_same_format(tmp_path: Path, rows: RowFormat) -> None:
    state = begun()
    own = publisher(tmp_path, state, rows)
    own.snapshot()
    own.publish(train(state, 1))
    by_delta = weights_of(rebuilt(own.folder).model)
    own.snapshot()
    at_once = weights_of(TorchPredictor.load(own.folder.package("a1", "snapshot", 1)).model)
    assert all(torch.equal(by_delta[name], tensor) for name, tensor in at_once.items())


def test_the_same_stream_published_twice_gives_the_same_packages(tmp_path: Path) -> None:
    streams = []
    for name in ("one", "two"):
        state = begun()
        own = publisher(tmp_path / name, state)
        packages = [own.snapshot(), *(own.publish(train(state, seed)) for seed in range(3)), own.snapshot()]
        streams.append([package.manifest for package in packages])
    assert [one.contents for one in streams[0]] == [two.contents for two in streams[1]]
    assert [list(one.files) for one in streams[0][1:4]] == [[DELTA_FILE]] * 3 and STATE in streams[0][4].files


def test_a_run_that_is_repeated_publishes_nothing_new_and_another_history_is_refused(tmp_path: Path) -> None:
    first, again, other = begun(), begun(), begun(seed=1)
    before: list[float] = []
    for state in (first, again):
        own = publisher(tmp_path, state)
        own.snapshot()
        stamps = [own.publish(train(state, seed)).manifest.published_at for seed in range(3)]
        if state is first:
            before = stamps
    assert stamps == before
    with pytest.raises(RunConflict, match="another run id"):
        publisher(tmp_path, other).snapshot()
    publisher(tmp_path, other, run_id="b2").snapshot()
    assert SyncFolder.at(tmp_path).head() == Head("b2", 0, 0)


def test_the_dense_part_can_be_left_out(tmp_path: Path) -> None:
    state = begun()
    own = publisher(tmp_path, state)
    own.snapshot()
    before = {name: tensor for name, tensor in weights_of(rebuilt(own.folder).model).items() if name.startswith("dense/")}
    small = own.publish(train(state, 1), dense=False).manifest
    found = weights_of(rebuilt(own.folder).model)
    assert not small.has_dense and all(torch.equal(found[name], tensor) for name, tensor in before.items())
    whole = own.publish(train(state, 2)).manifest
    assert whole.has_dense and whole.nbytes > small.nbytes
    wanted = weights_of(serving_copy(state, "float32").model)
    found = weights_of(rebuilt(own.folder).model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_that_continues_begins_with_what_is_there_and_refuses_another_history(tmp_path: Path) -> None:
    state = begun()
    own = publisher(tmp_path, state)
    own.begin()
    own.publish(train(state, 1))
    own.snapshot(event_to=5)
    before = own.folder.manifest("a1", "snapshot", 1)
    publisher(tmp_path, state, version=1).begin()
    assert own.folder.manifest("a1", "snapshot", 1) == before
    other = begun(seed=1)
    train(other, 1)
    with pytest.raises(RunConflict):
        publisher(tmp_path, other, version=1).begin()
    own.publish(train(state, 2))
    resumed = publisher(tmp_path, state, version=2)
    resumed.begin()
    assert own.folder.versions("a1", "snapshot") == [1], "its deltas are there"


def test_a_snapshot_needs_its_delta_first(tmp_path: Path) -> None:
    state = begun()
    own = publisher(tmp_path, state)
    own.snapshot()
    train(state, 1)
    with pytest.raises(ValueError, match="publish a delta first"):
        own.snapshot()


def test_packages_are_kept_until_every_registered_receiver_has_passed_a_snapshot(tmp_path: Path) -> None:
    state = begun()
    own = publisher(tmp_path, state, receiver_ttl=1.0)
    own.snapshot()
    folder = own.folder

    def heard(name: str, version: int, ago: float = 0.0) -> None:
        folder.acknowledge(Acknowledgement(name, "a1", version, {}, time.time() - ago))

    def kept() -> tuple[list[int], list[int]]:
        return folder.versions("a1", "snapshot"), folder.versions("a1", "delta")

    heard("fast", 2)
    heard("slow", 0)
    for seed in range(2):
        own.publish(train(state, seed))
    own.snapshot()
    assert kept() == ([0, 2], [1, 2]), "the slow receiver is still behind the second snapshot"
    own.publish(train(state, 2))
    heard("slow", 2)
    heard("fast", 3)
    own.snapshot()
    assert kept() == ([2, 3], [3])
    heard("slow", 2, ago=4000)
    own.publish(train(state, 3))
    heard("fast", 4)
    own.snapshot()
    assert kept() == ([4], []), "a silent receiver is dropped"
    assert [one.name for one in folder.acknowledgements()] == ["fast"]


def test_packages_of_earlier_runs_are_deleted(tmp_path: Path) -> None:
    state = begun()
    first = publisher(tmp_path, state)
    first.snapshot()
    first.publish(train(state, 1))
    second = publisher(tmp_path, state, run_id="b2")
    second.snapshot()
    assert first.folder.versions("a1", "delta") == [] and first.folder.head() == Head("b2", 0, 0)


def test_a_gap_between_events_that_is_longer_than_the_ttl_does_not_end_the_run(tmp_path: Path) -> None:
    state = begun(tables={"default": {"kind": "collisionless", "ttl_seconds": 60}, "features": {}})
    own = publisher(tmp_path, state, receiver_ttl=1.0)
    own.snapshot()
    own.publish(train(state, 1))
    for hours in (3, 6):
        (batch,) = make_batches(SCHEMA, 1, size=4)
        train_pass(state, [replace(batch, event_time=batch.event_time + hours * 3600 * 1_000_000)], total_steps=1)
        own.publish(None)
    found, wanted = weights_of(rebuilt(own.folder).model), weights_of(serving_copy(state, "float32").model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_tables_drop_the_publisher_after_the_ttl_of_the_recipe(tmp_path: Path) -> None:
    state = begun(tables={"default": {"kind": "collisionless", "ttl_seconds": 60}, "features": {}})
    own = publisher(tmp_path, state, receiver_ttl=1.0)
    own.snapshot()
    train(state, 1)
    for hours in (2, 4):  # training without publishing
        (batch,) = make_batches(SCHEMA, 1, size=4)
        train_pass(state, [replace(batch, event_time=batch.event_time + hours * 3600 * 1_000_000)], total_steps=1)
        state.end_pass()
        state.begin_pass()
    with pytest.raises(Gap, match="load a snapshot"):
        own.publish(None)


def test_a_byte_budget_holds_rows_back_until_all_are_published(tmp_path: Path) -> None:
    state = begun(**MIXED)
    train(state, 0)
    own = publisher(tmp_path, state, byte_budget=2048)
    own.snapshot()
    full = [own.publish(train(state, seed)).manifest for seed in range(1, 4)]
    assert all(one.pending > 0 for one in full)
    delta = delta_from_bytes(own.folder.read(full[1], DELTA_FILE))
    assert sum(t.nbytes - t.deleted.nbytes for of in delta.tables.values() for t in of.tables.values()) <= 2048
    wanted = weights_of(serving_copy(state, "float32").model)
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in weights_of(rebuilt(own.folder).model).items())
    pending = full[2].pending
    while pending:
        rest = own.publish(None, dense=False).manifest
        assert rest.pending < pending
        pending = rest.pending
    found = weights_of(rebuilt(own.folder).model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_with_a_byte_budget_continues_from_a_checkpoint_with_equal_packages(tmp_path: Path) -> None:
    state = begun(**MIXED)
    own = publisher(tmp_path, state, byte_budget=2048)
    own.snapshot()
    own.publish(train(state, 1))
    saved = {name: tensor.clone() for name, tensor in own.tensors().items()}
    copied = load_state(state, tmp_path / "checkpoint")
    stamps = [own.publish(train(state, seed)).manifest.published_at for seed in (2, 3)]
    recipe = SyncRecipe(byte_budget=2048)
    keys: dict[str, Any] = {"dataset": "made", "model": "dlrm", "run_id": "a1", "recipe": recipe, "version": 1}
    with pytest.raises(ValueError, match="start a new run"):
        Publisher(own.folder, copied, no_inputs, **keys)
    again = Publisher(own.folder, copied, no_inputs, **keys, tensors=saved)
    assert [again.publish(train(copied, seed)).manifest.published_at for seed in (2, 3)] == stamps


def test_a_run_continues_without_tensors_after_a_delta_that_holds_back_nothing(tmp_path: Path) -> None:
    state = begun(**MIXED)
    own = publisher(tmp_path, state, byte_budget=2048)
    own.snapshot()
    assert own.publish(train(state, 1)).manifest.pending
    assert own.snapshot().manifest.pending, "receivers that follow deltas do not load it"
    keys: dict[str, Any] = {"dataset": "made", "model": "dlrm", "run_id": "a1", "recipe": SyncRecipe(byte_budget=2048)}
    with pytest.raises(ValueError, match="start a new run"):
        Publisher(own.folder, state, no_inputs, **keys, version=1)
    assert own.publish(None, everything=True).manifest.pending == 0
    next_day = Publisher(own.folder, state, no_inputs, **keys, version=2)
    next_day.publish(train(state, 2), everything=True)
    found, wanted = (weights_of(one.model) for one in (rebuilt(own.folder), serving_copy(state, "float32")))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def load_state(state: TrainState, folder: Path) -> TrainState:
    """A copy of a state, through a snapshot."""
    folder.mkdir()
    save_snapshot(state, folder)
    return load_snapshot(folder)
