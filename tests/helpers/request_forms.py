"""Forms in which a caller can hold the raw rows of a log: text, pandas in several ways, Arrow and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from ml.artifacts.raw_columns import raw_columns
from ml.catalog.spec import DatasetSpec
from ml.schema import ARROW_TYPES, EVENT_TIME
from ml.tracking.model import signature_of

Texts = dict[str, list[Any]]
"""Columns as text, with `event_time` as ints in microseconds and histories as lists of text."""
Sent = pa.RecordBatch | pd.DataFrame
PARSED: dict[pa.DataType, Callable[[str], Any]] = {
    pa.int64(): int,
    pa.float64(): float,
    pa.string(): str,
    pa.bool_(): lambda text: text in ("1", "true", "True"),
}


def null_tokens(spec: DatasetSpec) -> dict[str, tuple[str, ...]]:
    """Texts that are missing values, by column."""
    tokens = dict.fromkeys(spec.source.columns, spec.source.null_tokens)
    return tokens | {name: side.source.null_tokens for side in spec.join for name in side.columns}


def values(spec: DatasetSpec, texts: Texts) -> dict[str, list[Any]]:
    """Columns as Python's values, None for missing ones."""
    missing = null_tokens(spec)
    kinds = {name: ARROW_TYPES[kind] for name, kind in spec.source.columns.items()} | raw_columns(spec)

    def parse(name: str, kind: pa.DataType, text: Any) -> Any:
        if pa.types.is_list(kind):
            return [int(item) for item in text]
        return text if not isinstance(text, str) else None if text in missing.get(name, ()) else PARSED[kind](text)

    return {name: [parse(name, kinds[name], text) for text in column] for name, column in texts.items()}


def text_batch(spec: DatasetSpec, texts: Texts) -> Sent:
    """Text columns of Arrow."""
    return pa.RecordBatch.from_pydict({n: c if isinstance(c[0], list) else list(map(str, c)) for n, c in texts.items()})


def text_frame(spec: DatasetSpec, texts: Texts) -> Sent:
    """Text columns of pandas."""
    return pd.DataFrame({n: c if isinstance(c[0], list) else list(map(str, c)) for n, c in texts.items()})


def text_categories(spec: DatasetSpec, texts: Texts) -> Sent:
    """Text columns of pandas as categories."""
    return pd.DataFrame({n: c if isinstance(c[0], list) else pd.Categorical(list(map(str, c))) for n, c in texts.items()})


def _read_csv(spec: DatasetSpec, texts: Texts, kinds: dict[str, str], **how: Any) -> pd.DataFrame:
    """What pandas reads from a file with the columns, apart from lists."""
    flat = {name: column for name, column in texts.items() if not isinstance(column[0], list)}
    dtypes: Any = {name: kinds[str(kind)] for name, kind in raw_columns(spec).items() if name in flat and str(kind) in kinds}
    missing = {name: list(tokens) for name, tokens in null_tokens(spec).items() if name in flat}
    file = io.StringIO(pd.DataFrame(flat).to_csv(index=False))
    frame = pd.read_csv(file, dtype=dtypes, na_values=missing, keep_default_na=False, **how)
    return frame.assign(**{name: column for name, column in texts.items() if name not in flat})


def as_pandas_reads(spec: DatasetSpec, texts: Texts) -> Sent:
    """NumPy columns: ints beside missing values are floats. Times are timestamps in the log's zone."""
    frame = _read_csv(spec, texts, {"string": "object"})
    if EVENT_TIME in texts:
        frame[EVENT_TIME] = pd.to_datetime(frame[EVENT_TIME], unit="us", utc=True).dt.tz_convert(spec.time.timezone)
    return frame


def nullable_frame(spec: DatasetSpec, texts: Texts) -> Sent:
    """Nullable columns of pandas."""
    return _read_csv(spec, texts, {"int64": "Int64", "double": "Float64", "string": "string", "bool": "boolean"})


def arrow_frame(spec: DatasetSpec, texts: Texts) -> Sent:
    """Columns of pandas that Arrow holds."""
    return _read_csv(spec, texts, {"string": "string[pyarrow]"}, dtype_backend="pyarrow")


def object_frame(spec: DatasetSpec, texts: Texts) -> Sent:
    """Columns of Python's objects."""
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in values(spec, texts).items()})


def _records(spec: DatasetSpec, texts: Texts) -> list[dict[str, Any]]:
    typed = values(spec, texts)
    return json.loads(json.dumps([dict(zip(typed, row, strict=True)) for row in zip(*typed.values(), strict=True)]))


def json_batch(spec: DatasetSpec, texts: Texts) -> Sent:
    """JSON records as Arrow takes them."""
    return pa.RecordBatch.from_pylist(_records(spec, texts))


def json_frame(spec: DatasetSpec, texts: Texts) -> Sent:
    """JSON records as pandas takes them."""
    return pd.DataFrame(_records(spec, texts))


def mlflow_records(spec: DatasetSpec, texts: Texts) -> Sent:
    """The body of a request to MLflow's scoring server, as the server parses it."""
    return _as_mlflow(spec, {"dataframe_records": _records(spec, texts)})


def mlflow_split(spec: DatasetSpec, texts: Texts) -> Sent:
    """The other layout of such a body."""
    records = _records(spec, texts)
    names = list(records[0])
    return _as_mlflow(spec, {"dataframe_split": {"columns": names, "data": [list(row.values()) for row in records]}})


def _as_mlflow(spec: DatasetSpec, body: dict[str, Any]) -> pd.DataFrame:
    inputs = signature_of(spec).inputs
    frame: Any = _enforce_schema(infer_and_parse_data(json.loads(json.dumps(body)), inputs), inputs)
    return frame


FORMS: dict[str, Callable[[DatasetSpec, Texts], Sent]] = {
    form.__name__: form
    for form in (
        text_batch,
        text_frame,
        text_categories,
        as_pandas_reads,
        nullable_frame,
        arrow_frame,
        object_frame,
        json_batch,
        json_frame,
        mlflow_records,
        mlflow_split,
    )
}
OWN_TIME = ("text_frame", "nullable_frame", "json_batch", "mlflow_split")
"""Forms in which rows have the log's own time column in place of `event_time`."""
