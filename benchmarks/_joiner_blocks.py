"""The project's live join on the streams of `benchmarks/joiner.py`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.dataset as ds
from upath import UPath

from benchmarks._joiner_streams import LATENESS, PAYLOAD, Joined, Streams
from ml.catalog.spec import DatasetSpec
from ml.joiner.joining import Joining
from ml.joiner.service import run_to_end

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def blocks_join(spark: SparkSession, streams: Streams, batches: int) -> Joined:
    """Joins all files with `ml.joiner.service`, in micro-batches with a checkpoint and files of examples after each.

    Args:
        spark: The session.
        streams: The streams; examples and state are written beside their files.
        batches: Approximate number of micro-batches.
    """
    files = [path for name in ("impressions", "actions") for path in (streams.folder / name).iterdir()]
    size = max(_size(streams.folder / name) for name in ("impressions", "actions"))
    assert files
    joining = Joining(_spec(streams), UPath(streams.folder), batch_bytes=size // batches + 1, every_seconds=0.0)
    began = time.perf_counter()
    run_to_end(joining, spark)
    seconds = time.perf_counter() - began
    labels = ds.dataset(sorted(map(str, (streams.folder / "examples").glob("*.parquet")))).to_table(columns=["label"])["label"]
    return Joined(seconds, len(labels), sum(labels.to_pylist()))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _spec(streams: Streams) -> DatasetSpec:
    payload = {f"p{i}": "int" for i in range(PAYLOAD)} | {"s0": "string", "s1": "string"}
    clock = {"unit": "us"}
    return DatasetSpec.model_validate(
        {
            "name": "streams",
            "description": "Streams of the benchmark.",
            "source": {"files": "i/*.parquet", "format": "parquet", "columns": {"k": "int", "ti": "int", **payload}},
            "time": {"column": "ti", **clock},
            "partitions": {"start": "2023-11-14", "end": "2023-12-14"},
            "actions": {
                "source": {"files": "a/*.parquet", "format": "parquet", "columns": {"k": "int", "ta": "int"}},
                "time": {"column": "ta", **clock},
                "key": ["k"],
                "lateness_minutes": LATENESS / 60,
                "labels": {"label": {"within_minutes": streams.wait / 60}},
            },
            "label": {"column": "label"},
            "sparse": ["s0", "s1"],
        }
    )
