"""Rows that a caller sends are read as the log's files are, in whatever form they come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml.artifacts.raw_columns import RawColumns
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table

DAY = "2026-01-01"
SPEC = DatasetSpec.model_validate(
    {
        "name": "awkward",
        "description": "A log with values that are easily read in two ways.",
        "source": {
            "files": "log.csv",
            "format": "csv",
            "header": True,
            "columns": {"time": "int", "who": "int", "word": "string", "price": "float", "member": "bool", "clicked": "int"},
            "null_tokens": ["", "NA", "-"],
        },
        "time": {"column": "time", "unit": "s"},
        "partitions": {"start": DAY, "end": DAY},
        "label": {"column": "clicked"},
        "dense": ["price", {"name": "is_member", "column": "member"}],
        "sparse": ["who", "word", {"name": "who_x_word", "cross": ["who", "word"]}],
    }
)
ROWS = 500


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The log as text, as in its file."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "time": (1_767_225_600 + np.sort(rng.integers(0, 86_400, ROWS))).astype(str),
            "who": rng.choice(["", "NA", "7", "-12", "9007199254740993"], ROWS),
            "word": rng.choice(["", "NA", "-", "nan", "None", "n/a", " x", "x", "ä", "東京", "1.0", "1"], ROWS),
            "price": rng.choice(["", "NA", "-", "0", "-0.0", "1e-3", "12.5"], ROWS),
            "member": rng.choice(["", "NA", "true", "false"], ROWS),
            "clicked": rng.choice(["0", "1"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def road(texts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pa.RecordBatch:
    """The rows as the road reads them."""
    folder = tmp_path_factory.mktemp("log")
    texts.to_csv(folder / "log.csv", index=False)
    lake = Lake.at(folder / "lake")
    ingest_day(SPEC.log, DAY, str(folder), lake, LocalRunner())
    [batch] = raw_table(lake, SPEC.name, DAY).combine_chunks().to_batches()
    assert len(batch) == ROWS
    return batch


def features(batch: pa.RecordBatch) -> pa.RecordBatch:
    times = pa.array(np.zeros(len(batch), np.int64))
    if "event_time" not in batch.schema.names:
        batch = batch.add_column(0, "event_time", times)
    else:
        batch = batch.set_column(batch.schema.get_field_index("event_time"), "event_time", times)
    return compile_transforms(SPEC, with_label=False)(batch)


def test_text_is_read_as_in_the_log(texts: pd.DataFrame, road: pa.RecordBatch) -> None:
    check = RawColumns(SPEC)
    assert features(check(texts)).equals(features(road))
    as_arrow = pa.RecordBatch.from_pydict({name: texts[name].tolist() for name in texts})
    for _ in range(2):  # the second time by the remembered schema
        assert features(check(as_arrow)).equals(features(road))


def test_pandas_reads_the_file_itself(texts: pd.DataFrame, road: pa.RecordBatch, tmp_path: Path) -> None:
    texts.to_csv(tmp_path / "log.csv", index=False)
    kinds = {"who": "Int64", "word": "string", "price": "float64", "member": "boolean"}
    frame = pd.read_csv(tmp_path / "log.csv", dtype=kinds, na_values=["", "NA", "-"], keep_default_na=False)
    assert features(RawColumns(SPEC)(frame)).equals(features(road))
    objects = frame.astype(object).where(frame.notna(), None)
    assert features(RawColumns(SPEC)(objects)).equals(features(road))


def test_json_records_are_read_as_in_the_log(road: pa.RecordBatch) -> None:
    records = json.loads(json.dumps(road.select(["who", "word", "price", "member"]).to_pylist()))
    assert features(RawColumns(SPEC)(pa.RecordBatch.from_pylist(records))).equals(features(road))
    objects = {name: pd.Series([record[name] for record in records], dtype=object) for name in records[0]}
    assert features(RawColumns(SPEC)(pd.DataFrame(objects))).equals(features(road))
