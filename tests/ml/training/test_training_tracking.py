"""What a day leaves in MLflow, read back through MLflow's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from made_days import made_spec, small_recipe, write_days
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ml.datasets.collate import batch_from_arrow
from ml.features.schema import FeatureSchema
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.training.daily import TrainedDay, train_day
from ml.training.loop import DivergedError
from ml.training.predict import load_model, predict
from ml.training.tracking import Tracker, flatten


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield Tracker(tmp_path / "home", tags={"dagster.run_id": "abc"})
    mlflow.set_tracking_uri("")  # else the default, a store in the working folder, would be named and made


def runs_of(tracker: Tracker) -> list[Run]:
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("made")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])


def trained(lake: Lake, day: str, tracker: Tracker, **overrides: object) -> TrainedDay:
    return train_day(made_spec(), day, lake, recipe=small_recipe(**overrides), tracker=tracker, progress=False)


def raw_rows(rows: int) -> pd.DataFrame:
    """Raw log columns, with values missing here and there, as pandas has them: ints with gaps are floats."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "d0": rng.standard_normal(rows),
            "d1": rng.standard_normal(rows),
            "a": rng.choice(["x", "y", None], rows),
            "b": rng.integers(0, 1000, rows).astype(float),
            "tags": rng.choice(["p|q", "q", "", None], rows),
        }
    )
    frame.loc[::7, ["d0", "b"]] = np.nan
    return frame


@pytest.mark.slow
def test_a_days_run_and_its_model_come_back(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, made_spec(), days=2, rows=3200)
    result = [trained(lake, day, tracker) for day in days][1]
    runs = runs_of(tracker)
    assert [run.info.run_name for run in runs] == [f"dlrm {day}" for day in days]
    run = runs[1]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.embedding_dim"] == "4"
    assert run.data.params["fingerprint"] == small_recipe().fingerprint
    wanted = {"evergreen.dataset": "made", "evergreen.day": days[1], "dagster.run_id": "abc", "evergreen.parent_day": days[0]}
    assert wanted.items() <= run.data.tags.items()
    assert run.data.tags["evergreen.digest"] == result.digest
    assert run.data.metrics["loss"] == pytest.approx(result.report.loss)
    curve = MlflowClient(tracker.uri).get_metric_history(run.info.run_id, "running_loss")
    assert [point.step for point in curve] == list(range(1, 101))
    assert np.mean([point.value for point in curve]) == pytest.approx(result.report.loss)

    (logged,) = run.outputs.model_outputs
    scorer = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    frame = raw_rows(50)
    features = compile_transforms(made_spec(), with_label=False)(
        pa.RecordBatch.from_pydict(
            {
                "event_time": pa.array(np.zeros(50, np.int64)),
                "d0": pa.Array.from_pandas(frame["d0"]),
                "d1": pa.Array.from_pandas(frame["d1"]),
                "a": pa.Array.from_pandas(frame["a"]),
                "b": pa.Array.from_pandas(frame["b"], type=pa.int64()),
                "tags": pa.Array.from_pandas(frame["tags"]),
            }
        )
    )
    table = pa.Table.from_batches([features])
    for name in ("label", "sample_rate"):
        table = table.append_column(name, pa.array(np.zeros(50, np.float32)))
    batch = batch_from_arrow(table, FeatureSchema.of(made_spec()))
    probabilities = scorer.predict(frame)
    np.testing.assert_array_equal(probabilities, predict(load_model(lake, made_spec(), days[1]), [batch]))
    assert probabilities.std() > 0.01

    files = [path.name for path in (tracker.home / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    with pytest.raises(Exception, match="no column 'a'"):
        scorer.predict(frame.drop(columns="a"))


@pytest.mark.slow
def test_a_day_that_runs_again_takes_the_place_of_its_older_run(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, made_spec(), days=2, rows=320)
    light = Tracker(tracker.home, log_model=False)
    for day in (*days, days[0]):
        trained(lake, day, light)
    runs = runs_of(tracker)
    assert [run.info.run_name for run in runs] == [f"dlrm {day}" for day in days]
    assert runs[0].info.start_time >= runs[1].info.start_time, "the later run of the first day is the one that stayed"


@pytest.mark.slow
def test_a_run_that_fails_says_so_and_leaves_the_older_one(lake: Lake, tracker: Tracker) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    light = Tracker(tracker.home, log_model=False)
    trained(lake, day, light)
    with pytest.raises(DivergedError):
        trained(lake, day, light, table_optimizer={"lr": 1e30}, dense_optimizer={"lr": 1e30})
    assert sorted(run.info.status for run in runs_of(tracker)) == ["FAILED", "FINISHED"]


def test_a_given_tracking_uri_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert Tracker(tmp_path).uri == "http://tracking.example:5000"


def test_flatten_keeps_every_leaf_of_a_recipe() -> None:
    flat = flatten(small_recipe().model_dump(mode="json"))
    assert flat["dense_optimizer.kind"] == "adam"
    assert flat["tables.features.b.rows"] == 64
    assert not any(isinstance(value, dict) and value for value in flat.values())


def test_names_that_mlflow_refuses_and_deleted_experiments_stop_nobody(lake: Lake, tmp_path: Path) -> None:
    spec, recipe = made_spec(), small_recipe(tables={"init_scale": 0.1, "features": {"größe|x": {"kind": "hashed", "rows": 8}}})
    tracker = Tracker(tmp_path, log_model=False)
    for _ in range(2):
        with tracker.follow(lake, spec, "dlrm", "2026-01-01", recipe, 10) as run:
            assert run is not None
        client = MlflowClient(tracker.uri)
        [found, *_] = client.search_runs([run.experiment])
        assert found.info.status == "FINISHED" and found.data.params["tables.features.gr_f6__df_e_7c_x.rows"] == "8"
        client.delete_experiment(run.experiment)


def test_an_empty_uri_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tracker = Tracker(tmp_path)
    assert tracker.server is None and tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
