"""Training of consecutive days: warm starts, whole partitions, and predictions of their models."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from ml.artifacts.snapshot import SnapshotMismatch, digest
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.lake import Lake, MissingPartition
from ml.metrics import auc
from ml.models.predict import predict
from ml.training.day import DayOptions, train_day
from ml.training.first_state import first_state
from ml.training.load import load_model
from ml.training.passes import train_pass
from ml.training.report import TrainedDay
from ml.training.state_dict import load_snapshot
from tests.helpers.snapshots import OPTIMIZER_FILE, WEIGHTS_FILE
from tests.helpers.training_days import made_spec, small_recipe, write_days

STAGE, ALL = "tuned_models/dlrm", ("train", "validation", "test")


def train_days(lake: Lake, days: list[str], **overrides: object) -> list[TrainedDay]:
    return [
        train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**overrides), progress=False)) for day in days
    ]


def batches_of(lake: Lake, day: str, size: int = 100) -> list[Batch]:
    return list(BlockReader(lake, made_spec(), [day], splits=ALL, batch_size=size))


def test_each_day_goes_on_from_the_day_before(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, days=3, rows=300)
    trained = train_days(lake, days)
    assert [t.base for t in trained] == [None, *((STAGE, day) for day in days[:2])]
    assert [t.rows_so_far for t in trained] == [300, 600, 900]

    state = first_state(lake, spec, days[0], small_recipe())
    for day in days:
        state.begin_pass()
        train_pass(state, batches_of(lake, day, size=32), total_steps=10)
    model, batch = load_model(lake, spec, days[-1]), batches_of(lake, days[0])[0]
    assert torch.equal(model(batch.dense, batch.sparse), state.model.eval()(batch.dense, batch.sparse))


def test_the_manifest_says_what_was_trained_from_what(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=2, rows=300)
    first, second = train_days(lake, days)
    manifest = lake.manifest(STAGE, "made", days[1])
    assert manifest["base"] == f"{STAGE}/{days[0]}"
    assert manifest["trained_from"]["parent"] == first.digest == digest(lake.partition(STAGE, "made", days[0]))
    assert manifest["digest"] == second.digest != first.digest
    assert manifest["fingerprint"] == made_spec().fingerprint
    assert manifest["recipe_fingerprint"] == small_recipe().fingerprint
    assert manifest["metrics"]["rows"] == 300
    assert manifest["metrics"]["loss"] == second.report.loss
    assert {p.name for p in second.folder.iterdir()} == {
        "manifest.json",
        WEIGHTS_FILE,
        OPTIMIZER_FILE,
        "state.json",
    }


def test_a_rerun_gives_the_same_bytes(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=2, rows=300)
    once = [t.digest for t in train_days(lake, days)]
    assert [t.digest for t in train_days(lake, days)] == once
    assert train_days(lake, days[1:])[0].digest == once[1]


def test_only_the_splits_of_the_recipe_are_trained_on(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=1, rows=300)
    assert train_days(lake, days, splits=["train"])[0].report.rows == 270
    assert train_days(lake, days)[0].report.rows == 300


def test_a_model_learns_and_scores_the_next_day(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=3, rows=4000)
    train_days(lake, days[:2])
    batches = batches_of(lake, days[2])
    probabilities = predict(load_model(lake, made_spec(), days[1]), iter(batches))
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    assert probabilities.shape == labels.shape
    assert probabilities.dtype == np.float32
    assert (auc(labels, probabilities) or 0) > 0.8
    assert probabilities.mean() == pytest.approx(labels.mean(), rel=0.15)


def test_predicting_changes_nothing_and_does_not_depend_on_the_batches(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=1, rows=300)
    train_days(lake, days)
    folder = lake.require(STAGE, "made", days[0])
    state = load_snapshot(folder)
    state.model.train()
    tables = [t for bags in state.bags.values() for t in (*bags.weights().values(), *bags.training_state().values())]
    before = [t.clone() for t in (*tables, *state.model.parameters())]
    whole = predict(state.model, batches_of(lake, days[0], size=300))
    small = predict(state.model, batches_of(lake, days[0], size=7))
    np.testing.assert_allclose(whole, small, rtol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip((*tables, *state.model.parameters()), before, strict=True))
    assert state.model.training
    assert predict(state.model, []).shape == (0,)


def test_a_missing_day_is_said_with_the_way_out(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=3, rows=100)
    with pytest.raises(MissingPartition, match=rf"made/tuned_models/dlrm of {days[0]} .* --partition {days[0]}"):
        train_days(lake, days[1:2])
    with pytest.raises(MissingPartition, match="made/mds_datasets of 2026-01-04"):
        train_days(lake, [*days, "2026-01-04"])
    with pytest.raises(MissingPartition, match="made/tuned_models/dlrm of 2026-01-05"):
        load_model(lake, made_spec(), "2026-01-05")


def test_a_recipe_of_another_shape_can_not_go_on_and_leaves_no_trace(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=2, rows=100)
    train_days(lake, days[:1])
    with pytest.raises(SnapshotMismatch, match=r"tables\.a\.kind: 'collisionless' in the snapshot, 'hashed'"):
        train_days(lake, days[1:], tables={"default": {"kind": "hashed", "rows": 128}})
    assert lake.days(STAGE, "made") == days[:1]


def test_a_log_without_dense_features_trains(lake: Lake) -> None:
    spec = made_spec(dense=0)
    (day,) = write_days(lake, spec, days=1, rows=300)
    trained = train_day(spec, day, lake, options=DayOptions(recipe=small_recipe(), progress=False))
    assert trained.report.rows == 300


def test_an_empty_day_passes_the_model_on(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, days=1, rows=100) + write_days(lake, spec, days=2, rows=0)[1:]
    write_days(lake, spec, days=1, rows=100)
    first, empty = train_days(lake, days)
    assert empty.report.rows == 0
    assert "loss" not in empty.metrics
    weights = [(t.folder / WEIGHTS_FILE).read_bytes() for t in (first, empty)]
    assert weights[0] == weights[1]
    manifests = [lake.manifest("tuned_models/dlrm", "made", day) for day in days]
    assert [manifest["kept_from"] for manifest in manifests] == [None, days[0]]
    assert manifests[0]["digest"] == manifests[1]["digest"] == empty.digest
    assert empty.metrics["rows_so_far"] == first.metrics["rows_so_far"] > 0
    assert {name: table.rows for name, table in empty.report.tables.items()} == {
        name: table.rows for name, table in first.report.tables.items()
    }
    assert not lake.is_outdated("tuned_models/dlrm", "made", days[1])


def test_days_without_rows_keep_the_model_without_loading_it_and_say_so(
    lake: Lake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = write_days(lake, made_spec(), days=5, rows=0)
    write_days(lake, made_spec(), days=1, rows=100)
    options = DayOptions(recipe=small_recipe(), progress=False)
    train_day(made_spec(), days[0], lake, options=options)
    with monkeypatch.context() as patched:
        patched.setattr("ml.training.day.load_snapshot", None)
        kept = [train_day(made_spec(), day, lake, options=options) for day in days[1:]]
    assert {day.kept_from for day in kept} == {days[0]}
    assert f"of {days[4]}: no rows to train on; the model of {days[0]} is kept" in caplog.text
    other = DayOptions(recipe=small_recipe(batch_size=16), progress=False)
    assert train_day(made_spec(), days[4], lake, options=other).kept_from is None, "another recipe is recorded in the snapshot"


def test_progress_goes_to_the_log_where_there_is_no_terminal(
    lake: Lake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = write_days(lake, made_spec(), days=1, rows=300)
    monkeypatch.setattr("ml.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="ml.training.progress"):
        train_day(made_spec(), days[0], lake, options=DayOptions(recipe=small_recipe()))
    assert any("made dlrm 2026-01-01: 300 of 300 rows, loss 0." in line for line in caplog.messages)
