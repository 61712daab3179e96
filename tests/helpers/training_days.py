"""Learnable days in a lake, small recipes and batches, for tests of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.write import write_day
from ml.days import days_from
from ml.lake import Lake
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema, arrow_schema

FIRST = "2026-01-01"
# The other features are collisionless, so that both kinds are tested.
FEATURES = {"b": {"kind": "hashed", "rows": 64}}
HASHED = {"kind": "hashed", "rows": 64}


def small_recipe(**overrides: Any) -> Recipe:
    """The catalog's recipe with small layers and tables, so that training takes milliseconds."""
    small = {"model": {"embedding_dim": 4, "bottom": [8], "top": [8]}, "tables": {"features": FEATURES}, "batch_size": 32}
    return load_recipe("dlrm", {**small, **overrides})


def made_spec(dense: int = 2, **changes: Any) -> DatasetSpec:
    columns: dict[str, str] = {f"d{i}": "float" for i in range(dense)}
    columns |= {"a": "string", "b": "int", "tags": "string", "time": "int", "clicked": "int"}
    return DatasetSpec.model_validate(
        {
            "name": "made",
            "description": "Made for tests.",
            "source": {"files": "*.csv", "format": "csv", "columns": columns},
            "time": {"column": "time"},
            "partitions": {"start": FIRST, "end": "2026-01-05"},
            "label": {"column": "clicked"},
            "dense": [{"name": f"d{i}"} for i in range(dense)],
            "sparse": ["a", "b", {"name": "tags", "split": "|"}],
        }
        | changes
    )


def make_columns(spec: DatasetSpec, rows: int, seed: int) -> dict[str, Any]:
    """Feature columns in which the label depends on feature `a` and on the dense features."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(0).integers(-(2**62), 2**62, 6)
    a = rng.integers(0, 6, rows)
    dense = {d.name: rng.standard_normal(rows, dtype=np.float32) for d in spec.dense}
    lean = np.where(a % 2 == 0, 2.0, -2.0) + sum(dense.values(), np.zeros(rows, np.float32))
    lengths = rng.integers(1, 4, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {
        "label": (rng.random(rows) < 1 / (1 + np.exp(-lean))).astype(np.float32),
        "sample_rate": np.ones(rows, np.float32),
        **dense,
        "a": kinds[a],
        "b": rng.integers(-(2**62), 2**62, rows),
        "tags": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, 40, offsets[-1]))),
    }


def write_days(lake: Lake, spec: DatasetSpec, days: int, rows: int | Sequence[int]) -> list[str]:
    """Write `cleaned_features` and `mds_datasets` of the first days, and return the days. rows: of each day."""
    schema = arrow_schema(spec)
    written = days_from(FIRST, days)
    by_day = [rows] * days if isinstance(rows, int) else rows
    for number, (day, rows) in enumerate(zip(written, by_day, strict=True)):
        start = 1_767_225_600_000_000 + number * 86_400_000_000
        columns = make_columns(spec, rows, seed=number) | {"event_time": start + np.arange(rows)}
        with lake.write("cleaned_features", spec.name, day) as folder:
            (folder / "rows").mkdir()
            with (folder / "rows" / "part-00000.parquet").open("wb") as file:
                pq.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema), file)
            lake.write_manifest(folder, {"rows": rows, "fingerprint": spec.fingerprint})
        write_day(spec, day, lake, LocalRunner(), block_rows=64, window_blocks=2)
    return written


def make_batches(schema: FeatureSchema, steps: int, size: int = 32, seed: int = 0) -> Iterator[Batch]:
    """Batches for any schema. The label depends on the first sparse feature. The n-th batch does not depend on `steps`."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        lengths = torch.ones(len(schema.sparse), size, dtype=torch.int32)
        lengths[len(schema.single) :] = torch.randint(1, 4, (len(schema.multi), size), generator=generator, dtype=torch.int32)
        ids = torch.randint(2, 50, (int(lengths.sum()),), generator=generator)
        labels = (ids[:size] % 2).float()
        yield Batch(
            dense=torch.randn(size, len(schema.dense), generator=generator),
            sparse=KeyedJaggedTensor(list(schema.sparse), values=ids, lengths=lengths.flatten()),
            labels=labels,
            sample_rate=torch.ones(size),
            event_time=torch.full((size,), 1_767_225_600_000_000 + step),
        )
