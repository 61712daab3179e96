"""The MLflow run of a day, read back through MLflow's own client."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock, Timeout
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.tracking import run as tracking
from ml.tracking import system_metrics as watching
from ml.tracking.registry import versions
from ml.tracking.run import Tracker, flatten, legal_keys
from ml.tracking.system_metrics import system_metrics
from ml.training.day import DayOptions, train_day
from ml.training.loop import DivergedError
from ml.training.report import Step, TrainedDay
from tests.helpers.training_days import made_spec, make_batches, small_recipe, write_days

BATCH = next(make_batches(FeatureSchema((), ("a",), (), "f"), 1))


@pytest.fixture
def tracker(mlflow_home: Path) -> Tracker:
    return Tracker(mlflow_home, tags={"dagster.run_id": "abc"})


def runs_of(tracker: Tracker) -> list[Run]:
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("made")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])


def trained(lake: Lake, day: str, tracker: Tracker, **overrides: object) -> TrainedDay:
    return train_day(
        made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**overrides), tracker=tracker, progress=False)
    )


@pytest.mark.slow
def test_the_run_of_a_day_and_its_model_are_read_back(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, made_spec(), days=2, rows=3200)
    result = [trained(lake, day, tracker) for day in days][1]
    runs = runs_of(tracker)
    assert [run.info.run_name for run in runs] == [f"dlrm {day}" for day in days]
    run = runs[1]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.embedding_dim"] == "4"
    assert run.data.params["fingerprint"] == small_recipe().fingerprint
    wanted = {"evergreen.dataset": "made", "evergreen.day": days[1], "dagster.run_id": "abc"}
    wanted["evergreen.base"] = f"tuned_models/dlrm/{days[0]}"
    assert wanted.items() <= run.data.tags.items()
    assert run.data.tags["evergreen.digest"] == result.digest
    assert run.data.metrics["loss"] == pytest.approx(result.report.loss)
    curve = MlflowClient(tracker.uri).get_metric_history(run.info.run_id, "running_loss")
    assert [point.step for point in curve] == list(range(1, 101))
    assert np.mean([point.value for point in curve]) == pytest.approx(result.report.loss)

    client = tracker.client()
    written = Path(client.download_artifacts(run.info.run_id, "recipe.yaml", str(tracker.home))).read_text()
    assert Recipe.model_validate(yaml.safe_load(written)) == small_recipe()
    (logged,) = run.outputs.model_outputs
    [version] = versions(client, "made", "dlrm", days[1])
    assert version.source == f"models:/{logged.model_id}" and version.tags["evergreen.digest"] == result.digest
    files = [path.name for path in (tracker.home / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


@pytest.mark.slow
def test_a_day_that_is_trained_again_replaces_its_older_run(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, made_spec(), days=2, rows=320)
    light = Tracker(tracker.home, log_model=False)
    for day in (*days, days[0]):
        trained(lake, day, light)
    runs = runs_of(tracker)
    assert [run.info.run_name for run in runs] == [f"dlrm {day}" for day in days]
    assert runs[0].info.start_time >= runs[1].info.start_time, "the later run of the first day is the one that stayed"


def test_a_model_that_is_logged_again_replaces_the_older_one(lake: Lake, tracker: Tracker) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    client = tracker.client()
    for _ in range(2):
        trained(lake, day, tracker)
        [version] = versions(client, "made", "dlrm", day)
        client.set_registered_model_alias("made", "champion", str(version.version))
    assert int(version.version) == 2
    (run,) = runs_of(tracker)
    assert [model.source_run_id for model in client.search_logged_models([run.info.experiment_id])] == [run.info.run_id]


def test_system_metrics_are_recorded_until_the_run_ends(lake: Lake, tracker: Tracker) -> None:
    pytest.importorskip("psutil")
    with pytest.raises(KeyboardInterrupt), tracker.follow(lake, made_spec(), "dlrm", "2026-01-01", small_recipe(), 10):
        raise KeyboardInterrupt
    (run,) = runs_of(tracker)
    assert run.info.status == "KILLED"
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= run.data.metrics.keys()
    assert "system-metrics" not in [thread.name for thread in threading.enumerate()]


def test_a_failing_store_of_system_metrics_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), system_metrics("nowhere://", "ab"):
        reached = True
    assert reached and "MLflow run ab: system metrics stopped" in caplog.text


def test_a_hanging_store_of_system_metrics_does_not_block_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(watching, "_watch", lambda *_: hangs.wait(60))
    monkeypatch.setattr(watching, "_PATIENCE", 0.01)
    with system_metrics("nowhere://", "ab"):
        pass
    assert "late or lost" in caplog.text and not hangs.is_set()
    hangs.set()


@pytest.mark.slow
def test_a_failed_run_is_marked_and_the_older_one_stays(lake: Lake, tracker: Tracker) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    light = Tracker(tracker.home, log_model=False)
    trained(lake, day, light)
    with pytest.raises(DivergedError):
        trained(lake, day, light, table_optimizer={"lr": 1e30}, dense_optimizer={"lr": 1e30})
    assert sorted(run.info.status for run in runs_of(tracker)) == ["FAILED", "FINISHED"]


class Unreliable(MlflowClient):
    """A client whose calls listed in `failing` raise."""

    failing: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> object:
        if name in Unreliable.failing:
            raise MlflowException(f"{name}: the server is away")
        return super().__getattribute__(name)


@pytest.fixture
def unreliable(monkeypatch: pytest.MonkeyPatch) -> type[Unreliable]:
    monkeypatch.setattr(tracking, "MlflowClient", Unreliable)
    monkeypatch.setattr(Unreliable, "failing", ())
    monkeypatch.setattr(tracking, "_SECONDS_BETWEEN_BATCHES", 0.0)
    return Unreliable


def test_an_unreliable_server_costs_no_trained_day(
    lake: Lake, tracker: Tracker, unreliable: type[Unreliable], caplog: pytest.LogCaptureFixture
) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    light = Tracker(tracker.home, log_model=False)
    with light.follow(lake, made_spec(), "dlrm", day, small_recipe(), 10) as run:
        unreliable.failing = ("log_batch",)
        for index in range(4):
            run.step(Step(index, 32, 32, 0.5, {}, BATCH, None))
        assert caplog.text.count("metrics are kept") == 1
        unreliable.failing = ()
    points = light.client().get_metric_history(run.run.info.run_id, "running_loss")
    assert [point.step for point in points] == [1, 2, 3, 4]
    unreliable.failing = ("set_tag", "set_terminated")
    assert trained(lake, day, light).report.rows == 320
    assert "Materialise it again" in caplog.text and "not marked as FINISHED" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_the_error_that_ended_a_day_is_raised_whatever_the_server_does(
    lake: Lake, tracker: Tracker, unreliable: type[Unreliable], kind: type[BaseException]
) -> None:
    with pytest.raises(kind, match="mine"), tracker.follow(lake, made_spec(), "dlrm", "2026-01-01", small_recipe(), 10) as run:
        run.step(Step(0, 32, 32, 0.5, {}, BATCH, None))
        unreliable.failing = ("log_batch", "set_terminated")
        raise kind("mine")


def test_the_run_that_started_later_stays_whichever_ends_first(lake: Lake, tracker: Tracker) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    light = Tracker(tracker.home, log_model=False)
    done = trained(lake, day, light)
    follow = lambda: light.follow(lake, made_spec(), "dlrm", day, small_recipe(), 10)  # noqa: E731
    with follow() as first:
        with follow() as second:
            first.finish(done)
        assert [run.info.run_id for run in runs_of(tracker)] != [first.run.info.run_id], "the second was in progress"
        second.finish(done)
        first.finish(done)
    assert [run.info.run_id for run in runs_of(tracker)] == [second.run.info.run_id]


def test_the_store_is_opened_by_one_at_a_time_and_an_experiment_created_once(
    lake: Lake, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(uri: str) -> MlflowClient:
        with pytest.raises(Timeout):
            FileLock(tracker.home / "mlflow.db.lock", timeout=0).acquire()
        return MlflowClient(uri)

    monkeypatch.setattr(tracking, "MlflowClient", opened)
    client = tracker.client()
    made = client.create_experiment("made")
    found, asked = client.get_experiment_by_name, iter([None])
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: next(asked, found(name)))
    assert tracker.experiment(client, made_spec()) == made


def test_a_given_tracking_uri_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert Tracker(tmp_path).uri == "http://tracking.example:5000"


def test_flatten_keeps_every_leaf_of_a_recipe() -> None:
    flat = flatten(small_recipe().model_dump(mode="json"))
    assert flat["dense_optimizer.kind"] == "adam"
    assert flat["tables.features.b.rows"] == 64
    assert not any(isinstance(value, dict) and value for value in flat.values())


def test_names_that_mlflow_refuses_and_deleted_experiments_are_handled(lake: Lake, mlflow_home: Path) -> None:
    spec, recipe = made_spec(), small_recipe(tables={"init_scale": 0.1, "features": {"größe|x": {"kind": "hashed", "rows": 8}}})
    tracker = Tracker(mlflow_home, log_model=False)
    for _ in range(2):
        with tracker.follow(lake, spec, "dlrm", "2026-01-01", recipe, 10) as run:
            assert run is not None
        client = MlflowClient(tracker.uri)
        experiment = run.run.info.experiment_id
        [found, *_] = client.search_runs([experiment])
        assert found.info.status == "FINISHED" and found.data.params["tables.features.gr_f6__df_e_7c_x.rows"] == "8"
        client.delete_experiment(experiment)


@pytest.mark.parametrize(
    "names",
    [
        ["漢" * 60],
        ["漢" * 199 + "字", "漢" * 199 + "子"],
        ["a" * 200, "b" * 200],
        ["ä", "_e4_"],
        ["ä" * 60, "_e4_" * 50],
        ["a|b", "a_7c_b", "😀"],
    ],
)
def test_long_names_and_names_with_equal_keys_are_logged_apart(lake: Lake, mlflow_home: Path, names: list[str]) -> None:
    features = {name: {"kind": "hashed", "rows": 8 + i} for i, name in enumerate(names)}
    recipe = small_recipe(tables={"init_scale": 0.1, "features": features})
    tracker = Tracker(mlflow_home, log_model=False)
    with tracker.follow(lake, made_spec(), "dlrm", "2026-01-01", recipe, 10) as run:
        assert run is not None
    params = MlflowClient(tracker.uri).get_run(run.run.info.run_id).data.params
    keys = legal_keys(flatten(recipe.model_dump(mode="json")))
    assert [params[keys[f"tables.features.{name}.rows"]] for name in names] == [str(8 + i) for i in range(len(names))]
    assert len(set(keys.values())) == len(keys)


def test_keys_do_not_depend_on_the_order_of_names() -> None:
    names = ["漢" * 60 + str(i) for i in range(50)] + ["ä", "_e4_", "a/b"]
    keys = legal_keys(names)
    assert keys == legal_keys(names[::-1]) and len(set(keys.values())) == len(names)
    assert keys["a/b"] == "a/b" and keys["_e4_"] == "_e4_"


def test_an_empty_uri_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tracker = Tracker(tmp_path)
    assert tracker.server is None and tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
