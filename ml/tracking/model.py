"""Logging a trained day's model in MLflow, with its signature and an example of its input. The model is `ml.artifacts.scorer`.

MLflow's own `log_model` would load the model to score the example, and read back the run's metrics; here the same files are
written, and nothing is run.
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

from ml.artifacts.scorer import ARTIFACT, FLOAT_LIMIT, SPEC, VOCABULARIES, raw_columns
from ml.artifacts.snapshot import copy_for_predictions
from ml.catalog.log_spec import RAW_LOGS
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.training.load import stage_of

FEATURES = "cleaned_features"
EXAMPLE_ROWS = 5
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "safetensors", "pyarrow", "pydantic", "numba")


def log_model(
    client: MlflowClient,
    run_id: str,
    lake: Lake,
    spec: DatasetSpec,
    day: str,
    model: str,
    example_rows: int = EXAMPLE_ROWS,
) -> LoggedModel:
    """Log the model of a trained day as an output of a run. Its `model_uri` is for `mlflow.pyfunc.load_model`.

    example_rows: of the day's raw log, which lie beside the model for all to see who see that; with 0 there is no example.
    """
    experiment = client.get_run(run_id).info.experiment_id
    facts = {"dataset": spec.name, "model": model, "day": day}
    logged = client.create_logged_model(experiment, f"{model} {day}", run_id, {f"evergreen.{k}": v for k, v in facts.items()})
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*An input example was not provided")  # without rows, or none wanted
        mlflow.pyfunc.save_model(
            path=f"{scratch}/saved",
            mlflow_model=Model(logged.artifact_location, run_id, model_id=logged.model_id),
            python_model=str(Path(__file__).with_name("pyfunc_entry.py")),
            artifacts={ARTIFACT: str(_folder(Path(scratch) / ARTIFACT, lake, spec, day, model))},
            signature=signature_of(spec),
            input_example=example_of(lake, spec, day, example_rows),  # pyright: ignore[reportArgumentType]  # None is its default
            pip_requirements=list(_PACKAGES),
            metadata={**facts, "columns": {name: str(kind) for name, kind in raw_columns(spec).items()}},
        )
        client.log_model_artifacts(logged.model_id, f"{scratch}/saved")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def signature_of(spec: DatasetSpec) -> ModelSignature:
    """Names of the columns that features are made from. Types are checked by the scorer, not by MLflow: to pandas an int
    column with a missing value is a float one, which MLflow would refuse."""
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name, required=False) for name in raw_columns(spec)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.float)]))


def example_of(lake: Lake, spec: DatasetSpec, day: str, count: int) -> pd.DataFrame | None:
    """The first rows of the day's raw logs, as one would send them; None where the lake holds none, or none is asked for.

    Columns that are joined to the log, or counted beside it, are not in there, and missing in the example.
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
    """Text in place of ints that would not come through pandas as they are."""
    if not pa.types.is_integer(column.type) or not 0 < column.null_count < len(column):
        return column
    return column.cast(pa.string()) if max(map(abs, column.drop_null().to_pylist())) >= FLOAT_LIMIT else column


def _folder(folder: Path, lake: Lake, spec: DatasetSpec, day: str, model: str) -> Path:
    """What the scorer is made of, gathered in a new folder."""
    folder.mkdir()
    copy_for_predictions(lake.require(stage_of(model), spec.name, day), folder)
    (folder / SPEC).write_text(spec.model_dump_json())
    if limited := [f"{feature.name}.parquet" for feature in spec.sparse if feature.vocabulary]:
        (folder / VOCABULARIES).mkdir()
        _copy(lake.require(FEATURES, spec.name, day) / VOCABULARIES, folder / VOCABULARIES, limited)
    return folder


def _copy(source: UPath, target: Path, names: Sequence[str]) -> None:
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
