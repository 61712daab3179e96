"""Blocks: tables that are packed in pieces of bounded size."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ml.joiner.blocks import BLOCK_BYTES, pack_blocks, unpack


@pytest.mark.parametrize(("rows", "width", "blocks"), [(0, 10, 0), (1, 3 * BLOCK_BYTES, 1), (5000, 10, 1), (500, 10_000, 5)])
def test_a_table_is_packed_in_blocks_of_about_a_megabyte(rows: int, width: int, blocks: int) -> None:
    table = pa.table({"event_time": range(rows), "text": pa.array([f"{n:0{width}d}" for n in range(rows)], pa.string())})
    found = list(pack_blocks(table))
    assert len(found) == blocks and sum(count for count, _ in found) == rows
    tables = [unpack(data) for _, data in found]
    assert [len(one) for one in tables] == [count for count, _ in found]
    assert all(one.nbytes < 1.2 * max(BLOCK_BYTES, width) for one in tables)
    if tables:
        assert pa.concat_tables(tables).cast(table.schema).equals(table)
