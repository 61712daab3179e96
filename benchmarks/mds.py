"""Training data as MDS blocks of rows, compared with mosaicml-streaming's own tools, which store one row per sample.

Both sides write and read rows of Criteo's shape (13 dense and 26 sparse columns, label, sample rate, event time). The baselines
use fewer rows, because their rate does not depend on the number of rows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import ml.datasets.torchvision_ops  # noqa: F401  # streaming fails without it
from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import SparkRunner
from ml.compute.spark import start_session
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.hashing import GOLDEN
from ml.lake import Lake
from ml.parquet import write_table
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema, arrow_schema
from ml.training.passes import train_pass
from ml.training.state import new_state

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROWS, FEW, BATCH = 1_000_000, 24_000, 4096
RANKS = 8
STEPS = 64  # training steps; a shuffle block is read as a whole before its first batch


def run() -> list[Result]:
    spec = load_catalog()["criteo"]
    spec = spec.model_copy(update={"splits": spec.splits.model_copy(update={"validation": 0.0, "test": 0.0})})
    day = spec.days()[0]
    spark = start_session("local[2]")
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(Path(folder) / "lake")
        few = _features(spec, day, lake, Path(folder))
        cold, *warm = (ROWS / write_day(spec, day, lake, SparkRunner(spark)).seconds for _ in range(3))
        frame = spark.read.parquet(str(few)).repartition(2)
        rows_folder = Path(folder) / "rows"
        return [
            Result(
                "MDS: a day written on Spark, two cores",
                "rows/s",
                max(warm),
                FEW / _dataframe_to_mds(frame, rows_folder),
                f"dataframe_to_mds, {FEW:,} rows",
                note=f"{cold:,.0f} rows/s including the start of Spark's Python workers, which is not measured on either side",
            ),
            *_reading(spec, day, lake, rows_folder),
        ]


def _reading(spec: DatasetSpec, day: str, lake: Lake, rows_folder: Path) -> list[Result]:
    schema = FeatureSchema.of(spec)
    reader = BlockReader(lake, spec, [day], batch_size=BATCH, order="shuffled")
    blocks = ROWS / min(_seconds(reader) for _ in range(4))
    by_row = FEW / min(_seconds(_row_by_row(rows_folder, schema)) for _ in range(2))
    own, whole = (
        BlockReader(
            lake, spec, [day], batch_size=BATCH // RANKS, order="shuffled", rank=1, world_size=RANKS, num_canonical_nodes=nodes
        )
        for nodes in (RANKS, 1)
    )
    bytes_per_row = 4 * (len(schema.dense) + 2) + 8 * (len(schema.sparse) + 2)
    from_blocks, waiting, alone = _training(spec, schema, islice(reader, STEPS))
    from_rows, starving, _ = _training(spec, schema, _row_by_row(rows_folder, schema))
    return [
        Result(
            "MDS: shuffled batches read, one process",
            "rows/s",
            blocks,
            by_row,
            f"StreamingDataset, one row per sample, {FEW:,} rows",
            floor=_bandwidth() / bytes_per_row,
            note=f"the fastest pass of each side; floor: {bytes_per_row} bytes per row at the measured memory bandwidth",
        ),
        Result(
            f"MDS: an epoch of shuffled batches, one of {RANKS} ranks reading its share",
            "rows/s",
            ROWS / min(_seconds(own) for _ in range(4)),
            ROWS / min(_seconds(whole) for _ in range(4)),
            "one canonical node, with which a rank reads all shards",
            note=f"rows of the epoch over all ranks, divided by the time of one rank; {RANKS} canonical nodes",
        ),
        Result(
            f"MDS: DLRM trained from shuffled blocks, batches of {BATCH}",
            "rows/s",
            from_blocks,
            from_rows,
            "training from StreamingDataset, one row per sample",
            floor=alone,
            note=f"reading takes {waiting:.1%} of a step, row by row {starving:.0%}; floor: the step without reading",
        ),
    ]


def _features(spec: DatasetSpec, day: str, lake: Lake, folder: Path) -> Path:
    """Write a feature table of ROWS rows into the lake, and return a file of the first FEW of them."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "event_time": np.arange(ROWS) * 86_400,
        "label": (rng.random(ROWS) < 0.25).astype(np.float32),
        "sample_rate": np.ones(ROWS, np.float32),
    }
    columns |= {dense.name: np.log1p(rng.geometric(0.05, ROWS)).astype(np.float32) for dense in spec.dense}
    for i, sparse in enumerate(spec.sparse):
        value = rng.zipf(1.2, ROWS).astype(np.uint64) % np.uint64(10 ** (1 + i % 6)) + np.uint64(i << 32)
        columns[sparse.name] = (value * np.uint64(GOLDEN)).view(np.int64)
    table = pa.table(columns, schema=arrow_schema(spec))
    with lake.write("cleaned_features", spec.name, day) as staging:
        for part in range(2):
            write_table(table.slice(part * ROWS // 2, ROWS // 2), staging / "rows" / f"part-{part:05d}.parquet")
        lake.write_manifest(staging, {"rows": ROWS, "fingerprint": spec.fingerprint})
    few = Lake.at(folder).root / "few.parquet"
    write_table(table.slice(0, FEW), few)
    return Path(few.path)


def _dataframe_to_mds(frame: DataFrame, out: Path) -> float:
    """Return the seconds to write the frame, one row per sample, by workers that have already imported everything."""
    from streaming.base.converters import dataframe_to_mds

    def prepare(batches: Iterable[Any]) -> Iterator[Any]:
        from ml.datasets import cache, torchvision_ops  # noqa: F401

        time.sleep(1)  # so that the other task runs on the other worker
        yield from (batch.head(0) for batch in batches)

    frame.mapInPandas(prepare, frame.schema).collect()
    columns = {name: {"bigint": "int64", "float": "float32"}[kind] for name, kind in frame.dtypes}
    seconds = []
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        dataframe_to_mds(frame, mds_kwargs={"out": str(out), "columns": columns, "compression": "zstd"})
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _row_by_row(folder: Path, schema: FeatureSchema) -> Iterator[Batch]:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(folder), batch_size=BATCH, shuffle=True, num_canonical_nodes=1)
    for columns in StreamingDataLoader(dataset, batch_size=BATCH):
        values = torch.cat([columns[name] for name in schema.sparse])
        size = len(columns["label"])
        yield Batch(
            dense=torch.stack([columns[name] for name in schema.dense], dim=1),
            sparse=KeyedJaggedTensor(
                list(schema.sparse), values, lengths=torch.ones(len(values), dtype=torch.int32), stride=size
            ),
            labels=columns["label"],
            sample_rate=columns["sample_rate"],
            event_time=columns["event_time"],
        )


def _training(spec: DatasetSpec, schema: FeatureSchema, batches: Iterable[Batch]) -> tuple[float, float, float]:
    """Return rows per second, the share of time spent waiting for batches, and rows per second without waiting."""
    state = new_state(recipe_of(spec, "dlrm"), schema)
    state.begin_pass()
    report = train_pass(state, batches, total_steps=STEPS)
    seconds = report.seconds_waiting + report.seconds_computing
    return report.rows / seconds, report.seconds_waiting / seconds, report.rows / report.seconds_computing


def _seconds(batches: Iterable[Batch]) -> float:
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def _bandwidth() -> float:
    """Return the bytes per second of a large copy between allocated buffers, the best of five."""
    source, target = np.ones(1 << 27, np.uint8), np.zeros(1 << 27, np.uint8)
    best = sys.float_info.max
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return source.size / best
