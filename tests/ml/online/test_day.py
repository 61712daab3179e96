"""Days of online training: what they start from, what they measure, and that a rerun gives the same bytes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml.artifacts.predictor import TorchPredictor
from ml.datasets.reader import BlockReader
from ml.lake import BusyPartition, Lake, MissingPartition
from ml.metrics import auc, summary
from ml.online import day as module
from ml.online.day import OnlineDay, OnlineOptions, online_day
from ml.online.record import PREDICTIONS_FILE, SLICES, SLICES_FILE
from ml.recipes.recipe import Recipe
from ml.training.day import DayOptions, train_day
from ml.training.loop import steps
from ml.training.state_dict import load_snapshot
from tests.helpers.training_days import made_spec, small_recipe, write_days
from tests.helpers.training_states import same_weights, weights

SPEC, STAGE, BATCH = made_spec(), "online_updates/dlrm", "tuned_models/dlrm"
ALL = ("train", "validation", "test")


def recipe_of(online: dict[str, object] | None = None, **overrides: object) -> Recipe:
    return small_recipe(**{"online": {"slices": 6, **(online or {})}, **overrides})


def run(lake: Lake, day: str, recipe: Recipe | None = None) -> OnlineDay:
    return online_day(SPEC, day, lake, options=OnlineOptions(recipe or recipe_of(), progress=False))


def train(lake: Lake, day: str, recipe: Recipe | None = None) -> None:
    train_day(SPEC, day, lake, options=DayOptions(recipe=recipe or recipe_of(), progress=False))


@pytest.fixture
def days(lake: Lake) -> list[str]:
    """Four days of data, of which the first three have daily models."""
    written = write_days(lake, SPEC, days=4, rows=400)
    for day in written[:3]:
        train(lake, day)
    return written


def files(lake: Lake, day: str) -> dict[str, bytes]:
    """All files of a partition except the manifest, which has durations."""
    folder = Path(str(lake.partition(STAGE, SPEC.name, day)))
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def test_the_first_time_a_day_starts_from_the_daily_model(lake: Lake, days: list[str]) -> None:
    """The state is that of training the daily model further, at constant rates, with the batches cut at the ends of slices."""
    done = run(lake, days[1])
    assert done.manifest["base"] == f"{BATCH}/{days[0]}"
    assert done.manifest["run"]["first_day"] == days[1] and done.manifest["run"]["version"] == 6
    state = load_snapshot(lake.partition(BATCH, SPEC.name, days[0]), recipe=recipe_of(schedule={"decay_to": 1.0}))
    state.begin_pass()
    for part in BlockReader(lake, SPEC, [days[1]], splits=ALL, batch_size=32).slices(count=6):
        for _ in steps(state, part, total_steps=len(part)):
            pass
    assert same_weights(load_snapshot(done.folder), state)


def test_batches_within_the_day_can_be_smaller(lake: Lake, days: list[str]) -> None:
    """The state is that of training the daily model further with batches of this size."""
    done = run(lake, days[1], recipe_of({"batch_size": 8}))
    state = load_snapshot(lake.partition(BATCH, SPEC.name, days[0]), recipe=recipe_of(schedule={"decay_to": 1.0}))
    state.begin_pass()
    for part in BlockReader(lake, SPEC, [days[1]], splits=ALL, batch_size=8).slices(count=6):
        for _ in steps(state, part, total_steps=len(part)):
            pass
    assert same_weights(load_snapshot(done.folder), state) and done.record.rows == 400
    assert not same_weights(load_snapshot(run(lake, days[1]).folder), state)


def test_a_day_continues_its_own_day_before(lake: Lake, days: list[str]) -> None:
    first, second = run(lake, days[1]), run(lake, days[2])
    assert second.manifest["base"] == f"{STAGE}/{days[1]}"
    assert second.manifest["run"] == first.manifest["run"] | {"version": 12}
    assert second.record.slices_table()["version"].to_pylist() == list(range(6, 12))
    assert second.manifest["lineage"][f"{STAGE}/{days[1]}"] == first.manifest["digest"]
    assert second.manifest["metrics"]["rows_so_far"] == 1200


def test_with_base_daily_each_day_starts_from_the_daily_model(lake: Lake, days: list[str]) -> None:
    recipe = recipe_of({"base": "daily"})
    runs = [run(lake, day, recipe).manifest for day in days[1:3]]
    assert [of["base"] for of in runs] == [f"{BATCH}/{day}" for day in days[:2]]
    assert runs[0]["run"]["run_id"] != runs[1]["run"]["run_id"]


def test_a_structural_change_begins_a_run(lake: Lake, days: list[str]) -> None:
    run(lake, days[1])
    wider = recipe_of(model={"embedding_dim": 4, "bottom": [16], "top": [8]})
    fresh = Lake.at(lake.root.parent / "wider")
    write_days(fresh, SPEC, days=4, rows=400)
    for day in days[:3]:
        train(fresh, day, wider)
    assert run(fresh, days[1], wider).manifest["run"]["first_day"] == days[1]
    place = Path(str(fresh.partition(STAGE, SPEC.name, days[1])))
    place.rename(place.with_name("away"))
    Path(str(lake.partition(STAGE, SPEC.name, days[1]))).rename(place)
    changed = run(fresh, days[2], wider)
    assert changed.manifest["base"] == f"{BATCH}/{days[1]}"
    assert changed.manifest["run"] == changed.manifest["run"] | {"first_day": days[2], "version": 6}


def test_a_change_of_rates_continues_the_run(lake: Lake, days: list[str]) -> None:
    first = run(lake, days[1])
    second = run(lake, days[2], recipe_of({"learning_rate": 0.5, "slices": 3}))
    assert second.manifest["run"]["run_id"] == first.manifest["run"]["run_id"]
    assert second.manifest["base"] == f"{STAGE}/{days[1]}"


def test_the_daily_models_do_not_read_online_states(lake: Lake, days: list[str]) -> None:
    before = lake.digest(BATCH, SPEC.name, days[2])
    for day in days[1:3]:
        run(lake, day)
    train(lake, days[2])
    assert lake.digest(BATCH, SPEC.name, days[2]) == before


def test_the_first_day_of_a_dataset_starts_from_nothing(lake: Lake, days: list[str]) -> None:
    first, second = run(lake, days[0]), run(lake, days[1])
    assert first.manifest["base"] is None and set(first.manifest["scores"]) == {"online"}
    assert second.manifest["run"]["run_id"] == first.manifest["run"]["run_id"]
    assert second.manifest["trained_from"]["compared_with"] == {"stale": days[0], "retrained": days[0]}


def test_a_day_without_a_state_to_start_from_is_refused(lake: Lake) -> None:
    days = write_days(lake, SPEC, days=2, rows=100)
    with pytest.raises(MissingPartition, match=f"made/{BATCH} of {days[0]}"):
        run(lake, days[1])


def test_a_day_without_rows_keeps_the_state(lake: Lake, days: list[str]) -> None:
    first = run(lake, days[1])
    empty = Lake.at(lake.root.parent / "empty")
    write_days(empty, SPEC, days=3, rows=0)
    for stage, day in ((BATCH, days[0]), (BATCH, days[1]), (STAGE, days[1])):
        source, place = (Path(str(of.partition(stage, SPEC.name, day))) for of in (lake, empty))
        place.parent.mkdir(parents=True, exist_ok=True)
        source.rename(place)
    kept = run(empty, days[2])
    assert kept.record.slices == [] and kept.manifest["scores"] == {} and kept.metrics["rows"] == 0
    assert kept.manifest["run"] == first.manifest["run"]
    one, other = (load_snapshot(empty.partition(STAGE, SPEC.name, day)) for day in days[1:3])
    assert same_weights(one, other)


def test_slices_and_predictions_are_those_of_the_models(lake: Lake, days: list[str]) -> None:
    """`stale` and `retrained` predict as loaded models do, and each row has the metrics of its slice."""
    run(lake, days[1])
    done = run(lake, days[2])
    slices, predictions = (pq.read_table(str(done.folder / name)) for name in (SLICES_FILE, PREDICTIONS_FILE))
    assert slices.schema.equals(SLICES) and slices.num_rows == 6
    assert sum(slices["rows"].to_pylist()) == predictions.num_rows == 400
    batch = next(iter(BlockReader(lake, SPEC, [days[2]], splits=ALL, batch_size=400, order="time")))
    assert np.array_equal(predictions["label"].to_numpy(), batch.labels.numpy())
    for name, until in (("stale", days[0]), ("retrained", days[1])):
        expected = TorchPredictor.load(lake.partition(BATCH, SPEC.name, until)).predict(batch, sampled=True)
        np.testing.assert_allclose(predictions[name].to_numpy(), expected, rtol=1e-5)
        assert done.manifest["scores"][name]["auc"] == auc(predictions["label"].to_numpy(), predictions[name].to_numpy())
    labels, online = predictions["label"].to_numpy(), predictions["online"].to_numpy()
    begin = 0
    for row in slices.to_pylist():
        of_slice = slice(begin, begin + row["rows"])
        found = summary(labels[of_slice], online[of_slice])
        assert [row[f"online_{m}"] for m in ("auc", "log_loss", "calibration")] == [
            found[m] for m in ("auc", "log_loss", "calibration")
        ]
        begin += row["rows"]


def test_the_first_slice_is_predicted_by_the_state_that_the_day_starts_from(lake: Lake, days: list[str]) -> None:
    done = run(lake, days[1])
    predictions, first = done.record.predictions_table(), done.record.slices[0]["rows"]
    online, retrained = (predictions[name].to_numpy()[:first] for name in ("online", "retrained"))
    np.testing.assert_allclose(online, retrained, rtol=1e-4)
    assert not np.allclose(predictions["online"].to_numpy(), predictions["retrained"].to_numpy(), rtol=1e-2)


def test_age_is_the_time_since_the_newest_event_that_a_model_knew(lake: Lake, days: list[str]) -> None:
    run(lake, days[1])
    done = run(lake, days[2])  # the rows of a day are 1 microsecond apart, from midnight on
    slices = done.record.slices
    assert slices[3]["online_age_seconds"] == pytest.approx(1e-6 * (1 + (slices[3]["rows"] - 1) / 2))
    assert slices[0]["retrained_age_seconds"] == pytest.approx(0, abs=1e-3)
    assert slices[0]["stale_age_seconds"] == pytest.approx(86_400, abs=1e-3)


@pytest.mark.parametrize("online", [{}, {"minutes": 1e-6}, {"schedule": "slice"}, {"sync": {"rows": "int8", "dense_every": 4}}])
def test_a_rerun_gives_the_same_bytes(lake: Lake, days: list[str], online: dict[str, object]) -> None:
    recipe = recipe_of(online)
    once = run(lake, days[1], recipe)
    kept = files(lake, days[1])
    again = run(lake, days[1], recipe)
    assert files(lake, days[1]) == kept and set(kept) >= {SLICES_FILE, PREDICTIONS_FILE, "state.json"}
    assert again.manifest["digest"] == once.manifest["digest"]
    assert again.manifest["run"] == once.manifest["run"]


def test_with_a_label_wait_a_slice_is_scored_on_the_rows_whose_labels_are_known(lake: Lake, days: list[str]) -> None:
    """The rows are 1 microsecond apart, and 100 microseconds pass until a label is known."""
    done = run(lake, days[1], recipe_of({"label_wait": 100 / 60e6}))
    table, slices = done.record.predictions_table(), done.record.slices
    labels, online = table["label"].to_numpy(), table["online"].to_numpy()
    ends = np.cumsum([row["rows"] for row in slices])
    revealed = np.cumsum([row["rows_scored"] for row in slices])
    assert revealed.tolist() == [max(end - 100, 0) for end in ends]
    assert slices[0]["online_auc"] is None and slices[0]["rows_scored"] == 0
    for row, begin, end in zip(slices[2:], revealed[1:], revealed[2:], strict=False):
        assert row["online_auc"] == auc(labels[begin:end], online[begin:end])
    assert done.manifest["scores"]["online"]["auc"] == auc(labels, online), "all labels of a whole day are known"
    assert done.record.scores(known=True)["online"]["auc"] == auc(labels[:300], online[:300])
    assert [row["learned_to"] for row in slices][-1] == slices[-1]["event_to"]
    assert slices[4]["learned_to"] == slices[2]["event_to"], "labels of slice 3 are not known at the end of slice 4"
    assert done.manifest["run"]["version"] == slices[-1]["version"] + 1


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Stop before the training of a slice, after a checkpoint of it was written."""
    real: Callable[..., None] = module.Checkpoints.after_step

    def stop(self: module.Checkpoints, state: object, position: module._Position, beside: object) -> None:
        if position.state_dict()["batches"] == number:
            self._saved_at = -1e9  # a checkpoint is due
            real(self, state, position, beside)  # type: ignore[arg-type]
            self.wait()
            raise KeyboardInterrupt
        real(self, state, position, beside)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Checkpoints, "after_step", stop)


@pytest.mark.parametrize("number", [0, 1, 4])
@pytest.mark.parametrize(
    "online",
    [{}, {"sync": {"dense_every": 3}}, {"sync": {"dense_every": 0, "rows": "float16"}}, {"label_wait": 1.5e-6}],
)
def test_an_interrupted_day_gives_the_same_bytes(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch, number: int, online: dict[str, object]
) -> None:
    recipe = recipe_of(online)
    run(lake, days[1], recipe)
    expected = run(lake, days[2], recipe)
    kept = files(lake, days[2])
    lake.discard(STAGE, SPEC.name, days[2])
    with monkeypatch.context() as patched:
        interrupt_at(patched, number)
        with contextlib.suppress(KeyboardInterrupt):
            run(lake, days[2], recipe)
    assert not lake.has(STAGE, SPEC.name, days[2])
    resumed = run(lake, days[2], recipe)
    assert resumed.resumed_at == number
    assert files(lake, days[2]) == kept
    assert resumed.manifest["scores"] == expected.manifest["scores"]
    assert resumed.manifest["synced"] == expected.manifest["synced"]
    assert not lake.days("online_checkpoints/dlrm", SPEC.name)


def test_a_second_trainer_of_a_day_is_refused_before_it_trains(
    lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "online_slices")
    with lake.write(STAGE, SPEC.name, days[1]) as staging:
        with pytest.raises(BusyPartition, match="is being written by another run"):
            run(lake, days[1])
        lake.write_manifest(staging, {})


def test_a_checkpoint_of_another_recipe_is_not_used(lake: Lake, days: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        with contextlib.suppress(KeyboardInterrupt):
            run(lake, days[1])
    assert run(lake, days[1], recipe_of({"learning_rate": 0.5})).resumed_at == 0


def test_rows_expire_at_the_end_of_the_day(lake: Lake, days: list[str]) -> None:
    ttl = {"features": {"b": {"kind": "hashed", "rows": 64}, "tags": {"kind": "collisionless", "ttl_seconds": 3600.0}}}
    recipe = recipe_of(tables=ttl)
    run(lake, days[0], recipe)
    second = run(lake, days[1], recipe)
    held = load_snapshot(second.folder)
    assert second.manifest["tables"]["tags"]["expired"] >= 0
    assert sum(stats.rows for stats in held.stats().values()) == sum(of["rows"] for of in second.manifest["tables"].values())


def test_the_learning_rate_is_a_factor_of_both_rates(lake: Lake, days: list[str]) -> None:
    """A tiny factor leaves the state almost as it was, and the snapshot has the recipe's own rates."""
    done = run(lake, days[1], recipe_of({"learning_rate": 1e-9}, dense_optimizer={"weight_decay": 0.0}))
    before = load_snapshot(lake.partition(BATCH, SPEC.name, days[0]))
    shared = [(a, b) for a, b in zip(weights(before), weights(load_snapshot(done.folder)), strict=True) if a.shape == b.shape]
    assert all(np.allclose(a.numpy(), b.numpy(), atol=1e-6) for a, b in shared if a.is_floating_point())
    assert load_snapshot(done.folder).recipe.dense_optimizer == recipe_of(dense_optimizer={"weight_decay": 0.0}).dense_optimizer


def test_a_daily_model_that_was_removed_is_left_out(lake: Lake, days: list[str], caplog: pytest.LogCaptureFixture) -> None:
    run(lake, days[1])
    run(lake, days[2])
    lake.discard(BATCH, SPEC.name, days[0])
    with caplog.at_level(logging.WARNING, "evergreen"):
        done = run(lake, days[2])
    assert set(done.manifest["scores"]) == {"online", "retrained"}
    assert "called stale" in caplog.text


def test_online_training_gains_over_a_stale_model(lake: Lake) -> None:
    """The label depends on ids that the stale model has barely seen, so learning within the day must help."""
    days = write_days(lake, SPEC, days=2, rows=3000)
    recipe = recipe_of({"slices": 20}, table_optimizer={"lr": 0.2})
    train(lake, days[0], small_recipe(table_optimizer={"lr": 1e-6}, dense_optimizer={"lr": 1e-6}))
    done = run(lake, days[1], recipe)
    gain = done.manifest["gains"]["stale"]["auc"]
    assert gain["value"] > 0.1 and gain["p_above"] < 0.001
    assert done.metrics["auc_gain_over_stale"] == gain["value"]
