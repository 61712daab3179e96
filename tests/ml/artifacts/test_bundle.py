"""A bundle scores a raw row as its model scores the features of that row: in MLflow, from an export, and over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import _parse_json_data

from ml.artifacts.bundle import Bundle, vocabulary_states
from ml.artifacts.delta import ModelDelta, model_delta
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import STATE, DamagedSnapshot, digest, write_file
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.evaluation.rows import chunks
from ml.export.day import export_day
from ml.export.quantise import quantise
from ml.features.clean import clean_day
from ml.lake import Lake, StalePartition
from ml.logs.read import raw_table
from ml.models.predict import predict
from ml.recipes.export import ExportRecipe
from ml.schema import LABEL, FeatureSchema
from ml.tracking.model import EXAMPLE_ROWS, _sendable, example_of, log_model
from ml.tracking.run import Tracker
from ml.training.day import DayOptions, train_day
from ml.training.load import load_model
from ml.training.passes import train_pass
from ml.training.state_dict import load_snapshot
from tests.helpers.raw_rows import CLICKED, HOUR, LIMITED, ROWS, SAMPLED, exact, rows_of
from tests.helpers.training_days import FIRST, made_spec, small_recipe, write_days

SECOND = "2026-01-02"


def clean(lake: Lake, spec: DatasetSpec, day: str, rows: pa.Table) -> None:
    """Write a day's raw log and its features."""
    with lake.write("raw_logs", spec.name, day) as staging:
        (staging / "rows").mkdir()
        pq.write_table(rows, str(staging / "rows" / "part-00000.parquet"))
        lake.write_manifest(staging, {"rows": ROWS, "fingerprint": spec.log.fingerprint})
    clean_day(spec, day, lake, "", LocalRunner())


def train(lake: Lake, spec: DatasetSpec) -> None:
    """Train on the first day's features."""
    write_day(spec, FIRST, lake, LocalRunner(), block_rows=64, window_blocks=2)
    recipe = small_recipe(tables={"init_scale": 0.3})
    train_day(spec, FIRST, lake, options=DayOptions(recipe=recipe, progress=False))


@pytest.fixture
def served(lake: Lake, mlflow_home: Path) -> Callable[[DatasetSpec], PyFuncModel]:
    """Trains a day of a spec from raw logs, and loads the registered model."""

    def serve(spec: DatasetSpec) -> PyFuncModel:
        clean(lake, spec, FIRST, rows_of(spec))
        write_day(spec, FIRST, lake, LocalRunner(), block_rows=64, window_blocks=2)
        tracker = Tracker(mlflow_home)
        train_day(spec, FIRST, lake, options=DayOptions(recipe=small_recipe(tables={}), tracker=tracker, progress=False))
        mlflow.set_tracking_uri(tracker.uri)
        return mlflow.pyfunc.load_model(f"models:/{spec.name}/1")

    return serve


def of_features(lake: Lake, spec: DatasetSpec, day: str = FIRST) -> np.ndarray:
    """Predictions of the first day's model on a day's features, for logged rows without sampled negatives."""
    table = pa.concat_tables(chunks(lake, spec, day))
    if spec.label.negatives:
        table = table.filter(pc.field(LABEL) == 1)
    return predict(load_model(lake, spec, FIRST), [batch_from_arrow(table, FeatureSchema.of(spec))])


def over_http(model: PyFuncModel, body: str) -> np.ndarray:
    """Predict as MLflow's scoring server does."""
    return model.predict(_parse_json_data(body, model.metadata, model.metadata.get_input_schema()).data)


def test_a_raw_row_is_scored_as_its_features_are(lake: Lake, served: Callable[[DatasetSpec], PyFuncModel]) -> None:
    model = served(CLICKED)
    raw = raw_table(lake, CLICKED.name, FIRST)
    wanted = of_features(lake, CLICKED)
    assert wanted.std() > 0.001
    np.testing.assert_array_equal(model.predict(exact(raw)), wanted)
    loose = raw.to_pandas().assign(page=raw["page"].cast(pa.string()).to_pylist())
    assert loose["who"].dtype == np.float64, "ints beside missing values are floats to pandas"
    np.testing.assert_array_equal(model.predict(loose), wanted)
    with pytest.raises(Exception, match=r"column 'page'.*from 9007199254740992 on, or.*send them as text"):
        model.predict(raw.to_pandas())

    example = model.input_example
    assert isinstance(example, pd.DataFrame) and len(example) == EXAMPLE_ROWS
    assert {*example.columns} == {*CLICKED.source.columns, "event_time"} - {"time", "clicked"}
    # Sums over few rows are rounded differently from sums over many.
    np.testing.assert_allclose(model.predict(example), wanted[:EXAMPLE_ROWS], rtol=1e-5)
    body = json.dumps({"dataframe_split": json.loads(example.to_json(orient="split", index=False))})
    np.testing.assert_allclose(over_http(model, body), wanted[:EXAMPLE_ROWS], rtol=1e-5)
    with pytest.raises(Exception, match="column 'page'"):
        model.predict(raw.to_pandas().assign(page="three"))
    with pytest.raises(Exception, match="no column 'event_time'"):
        model.predict(example.drop(columns="event_time"))


def test_a_model_of_several_labels_has_a_column_for_each(lake: Lake, served: Callable[[DatasetSpec], PyFuncModel]) -> None:
    spec = CLICKED.model_validate(
        CLICKED.model_dump(mode="json", exclude_unset=True) | {"labels": {"again": {"column": "clicked"}}}
    )
    model = served(spec)
    found = model.predict(exact(raw_table(lake, spec.name, FIRST)))
    assert isinstance(found, pd.DataFrame) and list(found.columns) == ["label", "again"]
    assert model.metadata.get_output_schema().input_names() == ["label", "again"]
    np.testing.assert_allclose(found["label"], of_features(lake, spec), rtol=1e-5)
    assert np.abs(found["again"] - found["label"]).max() > 1e-6, "each label has a head of its own"
    one = model.predict(model.input_example)
    assert len(one) == EXAMPLE_ROWS and list(one.columns) == ["label", "again"]


def test_an_example_has_as_many_raw_rows_as_asked_for(lake: Lake) -> None:
    with lake.write("raw_logs", CLICKED.name, FIRST) as staging:
        (staging / "rows").mkdir()
        pq.write_table(rows_of(CLICKED), str(staging / "rows" / "part-00000.parquet"))
        lake.write_manifest(staging, {"rows": ROWS, "fingerprint": CLICKED.log.fingerprint})
    three = example_of(lake, CLICKED, FIRST, 3)
    assert three is not None and len(three) == 3
    assert example_of(lake, CLICKED, FIRST, 0) is None


def test_ints_that_floats_cannot_represent_are_sent_as_text() -> None:
    assert _sendable(pa.array([2**53, None])).to_pylist() == [str(2**53), None]


def test_an_export_is_a_bundle_that_needs_no_lake(lake: Lake, tmp_path: Path) -> None:
    """Its vocabularies are as of the end of the day, and the next day's features are made with them."""
    for number, day in enumerate((FIRST, SECOND)):
        clean(lake, LIMITED, day, rows_of(LIMITED, 1_767_240_000_000_000 + number * 24 * HOUR, seed=number))
    train(lake, LIMITED)
    done = export_day(LIMITED, FIRST, lake, choice=ExportRecipe(rows="float32"))
    assert f"cleaned_features/{FIRST}" in lake.manifest("exported_models/dlrm", LIMITED.name, FIRST)["lineage"]
    folder = tmp_path / "elsewhere"
    shutil.copytree(str(done.folder), folder)
    shutil.move(str(lake.root), tmp_path / "gone")
    bundle = Bundle.load(folder)
    moved = Lake.at(tmp_path / "gone")
    rows = raw_table(moved, LIMITED.name, SECOND)
    wanted = of_features(moved, LIMITED, SECOND)
    assert wanted.std() > 0.001
    (batch,) = rows.combine_chunks().to_batches()
    for given in (batch, exact(rows), rows.select(list(bundle.columns)).combine_chunks().to_batches()[0]):
        np.testing.assert_allclose(bundle.predict(given), wanted, rtol=1e-6)
    ids = bundle.batch(batch).sparse["page"].values()
    assert set(ids.tolist()) > {0, 2, 3}, "missing, and values with ids of their own"
    for file in ("spec.json", "vocabulary/page.parquet"):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-1])
        with pytest.raises(DamagedSnapshot, match=f"{file} is not the file that state.json describes"):
            Bundle.load(folder)
        state = (folder / STATE).read_text()
        changed = json.loads(state)
        changed["files"][file] = write_file(folder, file, b"{}")
        (folder / STATE).write_text(json.dumps(changed))
        with pytest.raises(DamagedSnapshot, match=f"{file} cannot be read"):
            Bundle.load(folder)
        (folder / STATE).write_text(state)
        (folder / file).write_bytes(whole)


def test_vocabularies_of_another_specification_are_refused(lake: Lake) -> None:
    """Their ids can differ from the ids that the model was trained with."""
    with lake.write("cleaned_features", LIMITED.name, FIRST) as staging:
        lake.write_manifest(staging, {"fingerprint": "of another time"})
    with pytest.raises(StalePartition, match="under the fingerprint of another time"):
        vocabulary_states(lake, LIMITED, FIRST, "tuned_models/dlrm")


def test_vocabularies_made_again_after_training_are_refused(lake: Lake, mlflow_home: Path) -> None:
    """Export and MLflow refuse them until the model is trained again on the new features."""
    clean(lake, LIMITED, FIRST, rows_of(LIMITED))
    train(lake, LIMITED)
    clean(lake, LIMITED, FIRST, rows_of(LIMITED))
    assert set(vocabulary_states(lake, LIMITED, FIRST, "tuned_models/dlrm")) == {"page", "tags"}, "the same bytes"
    export_day(LIMITED, FIRST, lake, choice=ExportRecipe(rows="float32"))
    clean(lake, LIMITED, FIRST, rows_of(LIMITED, seed=6))
    said = f"kiosk/mds_datasets of {FIRST} was made from other contents of kiosk/cleaned_features.*mds_datasets,kiosk/tuned"
    with pytest.raises(StalePartition, match=said):
        export_day(LIMITED, FIRST, lake, choice=ExportRecipe(rows="float32"))
    with pytest.raises(StalePartition, match=said):
        log_model(Tracker(mlflow_home).client(), "no such run", lake, LIMITED, FIRST, "dlrm")
    write_day(LIMITED, FIRST, lake, LocalRunner(), block_rows=64, window_blocks=2)
    with pytest.raises(StalePartition, match=f"kiosk/tuned_models/dlrm of {FIRST} was made from other contents"):
        export_day(LIMITED, FIRST, lake, choice=ExportRecipe(rows="float32"))
    train(lake, LIMITED)
    export_day(LIMITED, FIRST, lake, choice=ExportRecipe(rows="float32"))
    assert not lake.is_outdated("exported_models/dlrm", LIMITED.name, FIRST)


def test_counts_and_histories_come_from_the_caller(lake: Lake, served: Callable[[DatasetSpec], PyFuncModel]) -> None:
    model = served(SAMPLED)
    raw = raw_table(lake, SAMPLED.name, FIRST)
    when, who, what = (raw[name].to_pylist() for name in ("event_time", "who", "what"))
    earlier = [[j for j in range(i - 1, -1, -1) if when[j] < when[i]] for i in range(ROWS)]
    frame = exact(raw)
    frame["busy"] = [sum(what[j] == what[i] and when[j] >= when[i] - HOUR for j in earlier[i]) for i in range(ROWS)]
    frame["history:read"] = [[what[j] for j in earlier[i] if who[i] is not None and who[j] == who[i]] for i in range(ROWS)]
    wanted = of_features(lake, SAMPLED)
    np.testing.assert_array_equal(model.predict(frame), wanted)
    assert (model.predict(frame.drop(columns="history:read")) != wanted).any()

    example = model.input_example
    assert isinstance(example, pd.DataFrame) and example[["busy", "history:read"]].isna().all(axis=None)
    assert np.isfinite(model.predict(example)).all()


MIXED = {
    "model": {"embedding_dim": 8, "bottom": [8], "top": [8]},
    "tables": {"features": {"b": {"kind": "hashed", "rows": 64}, "tags": {"kind": "static", "rows": 64}}},
}


def test_a_delta_brings_an_int8_bundle_to_what_a_fresh_export_predicts(lake: Lake, tmp_path: Path) -> None:
    """Collisionless, hashed and static tables and the dense part; a whole day of training between export and delta."""
    spec, choice = made_spec(), ExportRecipe(layers="int8", max_auc_loss=1.0)
    days = write_days(lake, spec, 2, rows=600)
    train_day(spec, days[0], lake, options=DayOptions(recipe=small_recipe(**MIXED), progress=False))
    bundle = Bundle.load(Path(str(export_day(spec, days[0], lake, choice=choice).folder)))
    whole = next(iter(BlockReader(lake, spec, [days[1]], splits=("train", "validation", "test"), batch_size=600)))
    state = load_snapshot(lake.require("tuned_models/dlrm", "made", days[0]))
    state.begin_pass()
    train_pass(state, BlockReader(lake, spec, [days[1]], splits=("train",), batch_size=32), total_steps=17)
    first, later = model_delta(state.model, bundle.steps), {path: bags.step for path, bags in state.bags.items()}
    before = bundle.score(whole)
    assert bundle.apply(ModelDelta.from_tensors(first.to_tensors())) and not bundle.apply(first)
    assert bundle.steps == later

    fresh = TorchPredictor(state.model.eval(), state.recipe, state.schema)
    quantise(fresh.model, choice, whole)
    assert fresh.predict(whole).tobytes() == bundle.score(whole).tobytes() != before.tobytes()
    # A bundle that has applied deltas is written and read like a fresh export.
    for name, predictor in (("fresh", fresh), ("updated", bundle.predictor)):
        (tmp_path / name).mkdir()
        assert isinstance(predictor, TorchPredictor)
        predictor.save(tmp_path / name)
    assert digest(tmp_path / "fresh") == digest(tmp_path / "updated")


def test_only_torch_models_take_deltas() -> None:
    class Constant:
        schema = FeatureSchema.of(CLICKED)

        def predict(self, batch: Batch, sampled: bool = False) -> np.ndarray:
            return np.full(len(batch), 0.5, np.float32)

    bundle = Bundle(CLICKED, Constant(), {})
    (rows,) = rows_of(CLICKED).combine_chunks().to_batches()
    assert (bundle.predict(rows) == 0.5).all() and len(bundle.predict(rows)) == ROWS
    with pytest.raises(TypeError, match="deltas apply to torch models, this bundle holds a Constant"):
        bundle.apply(ModelDelta({}, {}))
