"""A trained day's model as MLflow serves it: raw log columns in, probabilities out. Logging it is `ml.tracking.model`.

It is made of a folder: the snapshot's weights and state, the dataset's spec and its vocabularies. MLflow builds the model
from code (`ml.tracking.pyfunc_entry`), so nothing is pickled, and `ml` must be importable where it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]
from upath import UPath

from ml.artifacts.snapshot import load_snapshot
from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.features.hashing import hash_values
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.models.predict import predict
from ml.schema import ARROW_TYPES, EVENT_TIME, HISTORY_PREFIX, LABEL, SAMPLE_RATE, FeatureSchema

SPEC, VOCABULARIES, ARTIFACT = "spec.json", "vocabulary", "model"
FLOAT_LIMIT = 2**53  # below it every int is a float64 of its own; pandas makes floats of ints beside missing values


def raw_columns(spec: DatasetSpec) -> dict[str, pa.DataType]:
    """What features are made from, with its type: columns of the log, joined ones and counts beside it; event_time (µs UTC)
    where an hour is asked for; and for each history, as `history:<feature>`, the user's last items, newest first."""
    used = [d.column for d in spec.dense] + [column for s in spec.sparse for column in s.inputs]
    columns = {name: ARROW_TYPES[spec.column_types[name]] for name in [*used, spec.user, spec.item] if name}
    if any(feature.hour_of_day for feature in spec.sparse):
        columns[EVENT_TIME] = pa.int64()
    histories = [feature.name for feature in spec.sparse if feature.history]
    return columns | {f"{HISTORY_PREFIX}{name}": pa.list_(columns[spec.item or ""]) for name in histories}


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
        """model_input: `raw_columns(spec)`; missing values may be NaN or None, ints may be text, and a history may be left out.
        Raises `KeyError` and `TypeError` that name a column."""
        features = pa.Table.from_batches([self.transform(self._raw(model_input))])
        for name, value in ((LABEL, 0.0), (SAMPLE_RATE, 1.0)):
            features = features.append_column(name, pa.array(np.full(len(model_input), value, np.float32)))
        return predict(self.model, [batch_from_arrow(features, self.schema)])

    def _raw(self, frame: pd.DataFrame) -> pa.RecordBatch:
        wanted = raw_columns(self.spec)
        columns = {name: _typed(frame, name, kind) for name, kind in wanted.items() if name in frame.columns}
        for feature in self.spec.sparse:
            if (name := f"{HISTORY_PREFIX}{feature.name}") in columns:
                columns[name] = self._ids(columns[name], feature.history)
        if EVENT_TIME not in wanted:
            columns[EVENT_TIME] = pa.array(np.zeros(len(frame), np.int64))
        return pa.RecordBatch.from_pydict(columns)

    def _ids(self, items: pa.Array, most: int | None) -> pa.Array:
        """Lists of items as lists of their ids, [N]; no list is an empty one."""
        kept = pc.call_function("list_slice", [items], pc.ListSliceOptions(0, most))
        lengths = pc.call_function("list_value_length", [kept]).fill_null(0).to_numpy()
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(hash_values(self.spec.item_feature or "", kept.flatten())))


def _typed(frame: pd.DataFrame, name: str, kind: pa.DataType) -> pa.Array:
    column: Any = frame[name]
    try:
        if pa.types.is_integer(kind) and pd.api.types.infer_dtype(column) == "string":
            return pa.Array.from_pandas(column, type=pa.string()).cast(kind)
        typed = pa.Array.from_pandas(column, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"column {name!r}: declared {kind}: {error}") from error
    listed = pa.types.is_list(kind)
    if pa.types.is_integer(kind.value_type if listed else kind) and _blurred(column.explode() if listed else column):
        raise TypeError(
            f"column {name!r}: declared {kind}: ints came as floats too large to tell one from the next (from {FLOAT_LIMIT} "
            f"on, or {_exact(np.float32)} as float32); beside missing values send them as text, or in pandas as Int64"
        )
    return typed


def _blurred(values: pd.Series) -> bool:
    """Whether floats are among them that stand for several ints."""
    if values.dtype.kind == "f":
        return bool((values.abs() >= _exact(values.dtype.type)).any())
    return values.dtype == object and any(isinstance(v, float | np.floating) and abs(v) >= _exact(type(v)) for v in values)


def _exact(kind: type) -> int:
    """Below it every int is a float of its own of that type."""
    return 2 ** (np.finfo(kind).nmant + 1)
