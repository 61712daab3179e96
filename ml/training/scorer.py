"""A trained day's model as MLflow serves it: raw log columns in, probabilities out. Logging it lives here as well.

The logged artifact is a folder: the snapshot's weights and state, the dataset's spec and its vocabularies. MLflow builds
the model from code (`ml.training.pyfunc_entry`), so nothing is pickled, and `ml` must be importable where it is loaded.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema, TensorSpec
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.features.columns import ARROW_TYPES
from ml.features.schema import EVENT_TIME, LABEL, SAMPLE_RATE, FeatureSchema
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.training.predict import predict, stage_of
from ml.training.snapshot import copy_for_predictions, load_snapshot

SPEC, VOCABULARIES, ARTIFACT = "spec.json", "vocabulary", "model"
FEATURES = "cleaned_features"
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "safetensors", "pyarrow", "pydantic", "numba")


class RawLogScorer(PythonModel):
    """`predict` of a frame of N raw log rows gives probabilities, float32 [N], in the rows' order."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts[ARTIFACT])
        self.spec = DatasetSpec.model_validate_json((folder / SPEC).read_text())
        vocabularies = {path.stem: Vocabulary.read(UPath(path)) for path in (folder / VOCABULARIES).glob("*.parquet")}
        self.transform = compile_transforms(self.spec, vocabularies, with_label=False)
        self.schema = FeatureSchema.of(self.spec)
        self.model = load_snapshot(folder, for_training=False).model.eval()

    # MLflow declares that this gives None.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """model_input: the log's columns and the joined ones, as `spec` types them (missing values may be NaN or None), and
        event_time (int64, µs UTC), which may be left out where no feature is made from it. Raises `KeyError` and `TypeError`
        that name a column."""
        features = pa.Table.from_batches([self.transform(self._raw(model_input))])
        for name, value in ((LABEL, 0.0), (SAMPLE_RATE, 1.0)):
            features = features.append_column(name, pa.array(np.full(len(model_input), value, np.float32)))
        return predict(self.model, [batch_from_arrow(features, self.schema)])

    def _raw(self, frame: pd.DataFrame) -> pa.RecordBatch:
        columns = {}
        for name, kind in self.spec.column_types.items():
            if name not in frame.columns:
                continue
            try:
                columns[name] = pa.Array.from_pandas(frame[name], type=ARROW_TYPES[kind])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise TypeError(f"column {name!r}: declared {kind}: {error}") from error
        if EVENT_TIME in frame.columns:
            columns[EVENT_TIME] = pa.Array.from_pandas(frame[EVENT_TIME], type=pa.int64())
        elif not any(feature.hour_of_day for feature in self.spec.sparse):
            columns[EVENT_TIME] = pa.array(np.zeros(len(frame), np.int64))
        return pa.RecordBatch.from_pydict(columns)


def log_model(uri: str, run_id: str, lake: Lake, spec: DatasetSpec, day: str, model: str) -> str:
    """Log the model of a trained day on a run. Gives its URI, for `mlflow.pyfunc.load_model`."""
    mlflow.set_tracking_uri(uri)
    with (
        tempfile.TemporaryDirectory() as scratch,
        warnings.catch_warnings(),
        mlflow.start_run(run_id=run_id, nested=True, log_system_metrics=False),
    ):
        folder = Path(scratch) / ARTIFACT
        folder.mkdir()
        copy_for_predictions(lake.need(stage_of(model), spec.name, day), folder)
        (folder / SPEC).write_text(spec.model_dump_json())
        if limited := [f"{feature.name}.parquet" for feature in spec.sparse if feature.vocabulary]:
            (folder / VOCABULARIES).mkdir()
            _copy(lake.need(FEATURES, spec.name, day) / VOCABULARIES, folder / VOCABULARIES, limited)
        warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is written out
        logged = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            python_model=str(Path(__file__).with_name("pyfunc_entry.py")),
            artifacts={ARTIFACT: str(folder)},
            signature=_signature(spec),
            pip_requirements=list(_PACKAGES),
            metadata={"dataset": spec.name, "model": model, "day": day, "columns": dict(spec.column_types)},
        )
    return logged.model_uri


def _signature(spec: DatasetSpec) -> ModelSignature:
    """Names of the columns that features are made from. Types are checked by the scorer, not by MLflow: to pandas an int
    column with a missing value is a float one, which MLflow would refuse."""
    used = dict.fromkeys([d.column for d in spec.dense] + [c for s in spec.sparse for c in s.inputs])
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name, required=False) for name in used]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.float)]))


def _copy(source: UPath, target: Path, names: Sequence[str]) -> None:
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
