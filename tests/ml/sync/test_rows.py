"""Deltas as bytes: exact in float32, rounded once in the other formats, and refused if they are damaged."""

from __future__ import annotations

import pytest
import torch

from ml.artifacts.delta import ModelDelta, model_delta, steps_of
from ml.embeddings.inference.pack import pack, unpack
from ml.sync.manifest import DamagedPackage, RowFormat
from ml.sync.rows import delta_from_bytes, delta_to_bytes
from ml.training.passes import train_pass
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA, begun


@pytest.fixture(scope="module")
def delta() -> ModelDelta:
    state = begun()
    since = steps_of(state.model)
    train_pass(state, make_batches(SCHEMA, 5), total_steps=5)
    return model_delta(state.model, since)


def same(one: ModelDelta, other: ModelDelta) -> bool:
    a, b = one.to_tensors(), other.to_tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_float32_is_exact_and_equal_deltas_have_equal_bytes(delta: ModelDelta) -> None:
    data = delta_to_bytes(delta)
    assert same(delta_from_bytes(data), delta) and delta_to_bytes(delta) == data


@pytest.mark.parametrize("row_format", ["float16", "int8"])
def test_rows_are_rounded_as_in_tables_of_that_format_and_dense_parameters_are_exact(
    delta: ModelDelta, row_format: RowFormat
) -> None:
    data = delta_to_bytes(delta, row_format)
    found = delta_from_bytes(data, row_format)
    assert len(data) < len(delta_to_bytes(delta))
    assert all(torch.equal(found.dense[name], tensor) for name, tensor in delta.dense.items())
    for path, tables in delta.tables.items():
        for name, table in tables.tables.items():
            read = found.tables[path].tables[name]
            assert torch.equal(read.float_weights(), unpack(pack(table.weights, row_format), row_format))
            assert torch.equal(read.keys, table.keys) and torch.equal(read.deleted, table.deleted)


@pytest.mark.parametrize("row_format", ["float32", "float16", "int8"])
def test_damaged_bytes_are_refused(delta: ModelDelta, row_format: RowFormat) -> None:
    data = delta_to_bytes(delta, row_format)
    for damaged in (b"", data[:-1], data[: len(data) // 2], data[8:]):
        with pytest.raises(DamagedPackage, match="not a delta"):
            delta_from_bytes(damaged, row_format)
