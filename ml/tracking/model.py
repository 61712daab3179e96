"""Logging of a trained day's model in MLflow as a bundle, with its signature and an example of its input.

MLflow's own `log_model` loads the model to score the example, and reads back the metrics of the run. This module writes the
same files without running the model.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema, TensorSpec
from upath import UPath

from ml.artifacts.bundle import vocabulary_states, write_inputs
from ml.artifacts.raw_columns import FLOAT_LIMIT, raw_columns, time_column
from ml.artifacts.snapshot import copy_weights
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.recipes.recipe import recipe_of
from ml.schema import LABEL, FeatureSchema
from ml.stages import RAW_LOGS, tuned_models

EXAMPLE_ROWS = 5
_BUNDLE = "bundle"  # name of the artifact, known to pyfunc_entry.py
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "safetensors", "pyarrow", "pydantic", "numba")


def log_model(
    client: MlflowClient,
    run_id: str,
    lake: Lake,
    spec: DatasetSpec,
    day: str,
    model: str,
    example_rows: int = EXAMPLE_ROWS,
    stage: str | None = None,
) -> LoggedModel:
    """Log the model of a trained day as an output of a run.

    Args:
        client: MLflow's client.
        run_id: The run that trained the day.
        lake: Where the trained day is stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        model: Name of the model.
        example_rows: Number of rows of the day's raw log to store with the model as an example, where all readers of the model
            can read them; 0 for none.
        stage: Stage of the trained day; by default the stage of the daily training.

    Returns:
        The logged model. `mlflow.pyfunc.load_model` takes its `model_uri`.

    Raises:
        StalePartition: The dataset has vocabularies, and the day's features were made again after the model was trained.
    """
    stage = stage or tuned_models(model)
    vocabularies = vocabulary_states(lake, spec, day, stage)
    experiment = client.get_run(run_id).info.experiment_id
    facts = {"dataset": spec.name, "model": model, "day": day}
    logged = client.create_logged_model(experiment, f"{model} {day}", run_id, {f"evergreen.{k}": v for k, v in facts.items()})
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        bundle = Path(scratch) / _BUNDLE
        bundle.mkdir()
        inputs = write_inputs(bundle, spec, vocabularies)
        copy_weights(require_model(lake, stage, spec.name, day), bundle, inputs)
        mlflow.pyfunc.save_model(
            path=f"{scratch}/saved",
            mlflow_model=Model(logged.artifact_location, run_id, model_id=logged.model_id),
            python_model=str(Path(__file__).with_name("pyfunc_entry.py")),
            artifacts={_BUNDLE: str(bundle)},
            signature=signature_of(spec, labels_of(spec, model)),
            input_example=example_of(lake, spec, day, example_rows),  # pyright: ignore[reportArgumentType]
            pip_requirements=list(_PACKAGES),
            metadata={**facts, "columns": {name: str(kind) for name, kind in raw_columns(spec).items()}},
        )
        client.log_model_artifacts(logged.model_id, f"{scratch}/saved")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def labels_of(spec: DatasetSpec, model: str) -> tuple[str, ...]:
    """Return the names of the labels that a model of the dataset predicts, the main label first."""
    labels = FeatureSchema.of(spec).labels
    return labels[:1] if recipe_of(spec, model).model.kind == "two_tower" else labels


def signature_of(spec: DatasetSpec, labels: Sequence[str] = (LABEL,)) -> ModelSignature:
    """Describe input and output: the names of the raw columns, and of the log's time column, all optional; and the labels.

    The bundle checks types, because MLflow would refuse the floats into which pandas turns an int column with a missing value.
    With one label, the output is one column without a name.
    """
    names = dict.fromkeys([*raw_columns(spec), *filter(None, [time_column(spec)])])
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name, required=False) for name in names]
    several = len(labels) > 1
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.float, name if several else None) for name in labels]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def example_of(lake: Lake, spec: DatasetSpec, day: str, count: int) -> pd.DataFrame | None:
    """Read the first rows of the day's raw log, in the form in which a caller sends them.

    Columns that are joined to the log, and counts, have missing values in the example.

    Returns:
        `count` rows, or None if the lake has no raw log of the day or `count` is 0.
    """
    parts = raw_parts(lake, spec.name, day) if count and lake.has(RAW_LOGS, spec.name, day) else []
    types = raw_columns(spec)
    for part in map(UPath, parts):
        with part.open("rb") as file, pq.ParquetFile(file) as parquet:
            held = [name for name in parquet.schema_arrow.names if name in types]
            if rows := next(parquet.iter_batches(count, columns=held), None):
                columns = {n: rows[n].cast(kind) if n in held else pa.nulls(len(rows), kind) for n, kind in types.items()}
                return pa.table({n: _sendable(column) for n, column in columns.items()}).to_pandas(integer_object_nulls=True)
    return None


def _sendable(column: pa.Array) -> pa.Array:
    """Convert ints to text if pandas would turn them into ambiguous floats."""
    if not pa.types.is_integer(column.type) or not 0 < column.null_count < len(column):
        return column
    return column.cast(pa.string()) if max(map(abs, column.drop_null().to_pylist())) >= FLOAT_LIMIT else column
