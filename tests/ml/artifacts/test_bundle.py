"""A bundle scores a raw row as its model scores the features of that row: in MLflow, from an export, and over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from ml.artifacts.raw_columns import RawColumns, typed_array, typed_series
from ml.artifacts.snapshot import DamagedSnapshot, digest
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
from tests.helpers.training_days import FIRST, made_spec, small_recipe, write_days

HOUR = 3_600_000_000
SECOND = "2026-01-02"
ROWS = 600
COLUMNS = {"time": "int", "who": "int", "what": "int", "page": "int", "tags": "string", "price": "float", "member": "bool"}
KNOWN: dict[str, Any] = {
    "name": "kiosk",
    "description": "Made for tests.",
    "source": {"files": "*.csv", "format": "csv", "columns": COLUMNS},
    "time": {"column": "time", "timezone": "America/Sao_Paulo"},
    "partitions": {"start": FIRST},
    "user": "who",
    "item": "what",
    "dense": [{"name": "price", "log1p": True}, {"name": "is_member", "column": "member"}],
    "sparse": [
        {"name": "article", "column": "what"},
        "page",
        {"name": "tags", "split": "|"},
        {"name": "hour", "hour_of_day": True},
        {"name": "price_bucket", "column": "price", "bucketise": [1, 5]},
        {"name": "who_x_page", "cross": ["who", "page"]},
    ],
}
CLICKED = DatasetSpec.model_validate(
    KNOWN | {"source": KNOWN["source"] | {"columns": COLUMNS | {"clicked": "int"}}, "label": {"column": "clicked"}}
)
SAMPLED = DatasetSpec.model_validate(
    KNOWN
    | {
        "label": {"negatives": {"per_positive": 1, "window_hours": 24, "recent": {"busy": 1}}},
        "dense": [{"name": "busy"}],
        "sparse": [*KNOWN["sparse"], {"name": "read", "history": 2}],
    }
)


LIMITED = DatasetSpec.model_validate(
    CLICKED.model_dump(mode="json", exclude_unset=True)
    | {"sparse": [{"name": "page", "vocabulary": {"min_count": 60}}, {"name": "tags", "split": "|", "vocabulary": {}}, "what"]}
)


def rows_of(spec: DatasetSpec, start: int = 1_767_240_000_000_000, seed: int = 5) -> pa.Table:
    """A day's raw rows, in time order, with values missing here and there."""
    rng = np.random.default_rng(seed)
    some: Callable[[float], np.ndarray] = lambda share: rng.random(ROWS) < share  # noqa: E731
    columns = {
        "event_time": pa.array(start + np.cumsum(rng.integers(1, HOUR // 30, ROWS))),
        "who": pa.array(rng.integers(0, 30, ROWS), mask=some(0.1)),
        "what": pa.array(rng.integers(0, 20, ROWS)),
        "page": pa.array(rng.integers(2**60, 2**60 + 5, ROWS), mask=some(0.2)),
        "tags": pa.array(rng.choice(["p|q", "q", ""], ROWS), mask=some(0.2)),
        "price": pa.array(rng.choice([0.5, 2.0, 7.0], ROWS), mask=some(0.2)),
        "member": pa.array(some(0.5), mask=some(0.2)),
        "clicked": pa.array(some(0.4).astype(np.int64)),
    }
    return pa.table({name: columns[name] for name in ("event_time", *spec.source.columns) if name != "time"}).append_column(
        "time", pa.nulls(ROWS, pa.int64())
    )


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


def exact(rows: pa.Table) -> pd.DataFrame:
    """A frame whose ints stay ints beside missing values."""
    return rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


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


LIST = pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.Series([2.0**53, np.nan]), pa.int64()),
        (pd.Series([2.0**53, None], dtype=object), pa.int64()),
        (pd.Series([2**24, 1], dtype=np.float32), pa.int64()),
        (pd.Series([[1, -(2.0**53)], None]), LIST),
        (pd.Series([np.array([2**24, 1], np.float32), None]), LIST),
        (pd.Series([1 + 2j]), pa.float64()),
        (pd.Series([pd.Timestamp("2026-01-01")]), pa.bool_()),
    ],
)
def test_ambiguous_and_unreadable_values_are_refused_by_column(values: pd.Series, kind: pa.DataType) -> None:
    with pytest.raises(TypeError, match="column 'who': declared"):
        typed_series("who", values, kind)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.Series([2.0**53 - 1, np.nan]), pa.int64()),
        (pd.Series([2**24 - 1, 1], dtype=np.float32), pa.int64()),
        (pd.Series([2**53, None], dtype="Int64"), pa.int64()),
        (pd.Series([[2**53 + 1, 1], None, []]), LIST),
    ],
)
def test_exact_values_are_read(values: pd.Series, kind: pa.DataType) -> None:
    assert typed_series("who", values, kind).to_pylist()[0] in (2**53 - 1, 2**24 - 1, 2**53, [2**53 + 1, 1])


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
        (folder / file).write_bytes(whole)


def test_vocabularies_of_another_specification_are_refused(lake: Lake) -> None:
    """Their ids can differ from the ids that the model was trained with."""
    with lake.write("cleaned_features", LIMITED.name, FIRST) as staging:
        lake.write_manifest(staging, {"fingerprint": "of another time"})
    with pytest.raises(StalePartition, match="under the fingerprint of another time"):
        vocabulary_states(lake, LIMITED, FIRST, "dlrm")


def test_vocabularies_made_again_after_training_are_refused(lake: Lake, mlflow_home: Path) -> None:
    """Export and MLflow refuse them until the model is trained again on the new features."""
    clean(lake, LIMITED, FIRST, rows_of(LIMITED))
    train(lake, LIMITED)
    clean(lake, LIMITED, FIRST, rows_of(LIMITED))
    assert set(vocabulary_states(lake, LIMITED, FIRST, "dlrm")) == {"page", "tags"}, "the same bytes"
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


@pytest.mark.parametrize("declared", [pa.int64(), LIST])
@pytest.mark.parametrize(("kind", "exact_below"), [(pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_floats_of_a_record_batch_are_read_as_ints_or_refused(
    declared: pa.DataType, kind: pa.DataType, exact_below: int
) -> None:
    def column(number: int) -> pa.Array:
        values = pa.array([float(number), None, 1.0], kind)
        return values if declared == pa.int64() else pa.ListArray.from_arrays(pa.array([0, 3]), values)

    read = typed_array("who", column(exact_below - 1), declared)
    assert read.type == declared and (read if declared == pa.int64() else read.flatten())[0].as_py() == exact_below - 1
    with pytest.raises(TypeError, match=r"column 'who': declared .* ints were sent as floats that are too large"):
        typed_array("who", column(-exact_below), declared)


def test_record_batches_of_another_schema_are_checked_again() -> None:
    check = RawColumns(CLICKED)
    (batch,) = rows_of(CLICKED).combine_chunks().to_batches()
    tags = pa.array([text or None for text in batch["tags"].to_pylist()], pa.string())
    batch = batch.set_column(batch.schema.get_field_index("tags"), "tags", tags)
    assert check(batch).column("who").equals(batch["who"]) and check(batch) is batch
    at = batch.schema.get_field_index("who")
    as_text = batch.set_column(at, "who", batch["who"].cast(pa.string()))
    assert check(as_text).column("who").equals(batch["who"]) and check(batch) is batch
    as_floats = batch.set_column(at, "who", pa.array([2.0**53] * ROWS))
    for _ in range(2):
        with pytest.raises(TypeError, match="column 'who': declared int64: ints were sent as floats"):
            check(as_floats)


def test_a_column_that_occurs_twice_is_refused() -> None:
    (batch,) = rows_of(CLICKED).combine_chunks().to_batches()
    frame = exact(rows_of(CLICKED))
    twice = pa.RecordBatch.from_arrays([*batch.columns, batch["who"]], names=[*batch.schema.names, "who"])
    with pytest.raises(KeyError, match="who"):
        RawColumns(CLICKED)(twice)
    with pytest.raises(TypeError, match=r"'who'.* occur more than once"):
        RawColumns(CLICKED)(pd.concat([frame, frame[["who"]]], axis=1))


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_missing_text_is_null_however_it_is_sent(missing: object) -> None:
    check = RawColumns(CLICKED)
    for values in ([missing] * 3, ["p", missing, "q"]):
        expected = [v if v in ("p", "q") else None for v in values]
        assert check(pd.DataFrame({"tags": values})).column("tags").to_pylist() == expected
        if not isinstance(missing, float):
            for _ in range(2):
                assert (
                    check(pa.RecordBatch.from_pydict({"tags": pa.array(values, pa.string())}))["tags"].to_pylist() == expected
                )
    texts = ["7", missing]
    assert check(pd.DataFrame({"who": texts})).column("who").to_pylist() == [7, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/Sao_Paulo"])
def test_times_are_read_in_their_own_unit(unit: str, zone: str | None) -> None:
    micros = 1_767_276_000_000_000
    stamps = pa.array([micros, None], pa.timestamp("us", zone and "UTC")).cast(pa.timestamp(unit, zone))
    assert typed_array("event_time", stamps, pa.int64()).to_pylist() == [micros, None]
    series = pd.Series(stamps.to_pandas())
    for held in (series, series.astype(object)):
        assert typed_series("event_time", held, pa.int64()).to_pylist() == [micros, None]


def test_durations_are_not_ints() -> None:
    for column in (pd.Series(pd.to_timedelta([1, 2], unit="s")), pd.Series(pd.to_timedelta([1, 2], unit="s"), dtype=object)):
        with pytest.raises(TypeError, match="column 'who': declared int64, found duration"):
            typed_series("who", column, pa.int64())


def test_columns_of_a_record_batch_are_cast_or_refused_by_name() -> None:
    text = pa.array(["7", None])
    assert typed_array("who", text, pa.int64()).to_pylist() == [7, None]
    encoded = text.dictionary_encode()
    assert typed_array("who", encoded, pa.string()) is encoded
    with pytest.raises(TypeError, match="column 'who': declared int64"):
        typed_array("who", pa.array(["seven"]), pa.int64())


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
