from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.parquet import read_parquet, replace_table, table_bytes, write_batches, write_table

ROWS = 2500
TABLE = pa.table({"n": np.arange(ROWS), "s": [None if i % 7 == 0 else f"value {i % 50}" for i in range(ROWS)]})


@pytest.mark.parametrize("sizes", [[ROWS], [1000, 1500], [1] * 10 + [ROWS - 10], [999, 1, 1, 1499], [0, ROWS, 0]])
def test_bytes_do_not_depend_on_how_rows_come(tmp_path: Path, sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    batches = [batch for end, size in zip(ends, sizes, strict=True) for batch in TABLE.slice(end - size, size).to_batches()]
    write_batches(batches, TABLE.schema, tmp_path / "split.parquet", row_group=1000)
    write_batches(TABLE.to_batches(), TABLE.schema, tmp_path / "whole.parquet", row_group=1000)
    assert (tmp_path / "split.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    groups = pq.read_metadata(tmp_path / "split.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [1000, 1000, 500]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "new" / "a.parquet")
    assert read_parquet(str(tmp_path / "new" / "a.parquet")).equals(TABLE)
    assert read_parquet(tmp_path / "new" / "a.parquet", ["s"]).column_names == ["s"]
    held = read_parquet(tmp_path / "new" / "a.parquet", dictionaries=["s"])["s"]
    assert pa.types.is_dictionary(held.type) and held.cast(pa.string()).to_pylist() == TABLE["s"].to_pylist()


@pytest.mark.parametrize("durable", [False, True])
def test_a_table_replaces_a_file_as_a_whole(durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.parquet"
    replace_table(TABLE[:10], path, durable=durable)

    def torn(table: pa.Table, beside: str) -> None:
        Path(beside).write_bytes(table_bytes(table)[:100])
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("ml.parquet.write_table", torn)
        with pytest.raises(OSError, match="the disk is full"):
            replace_table(TABLE, path, durable=durable)
    assert read_parquet(path).equals(TABLE[:10])
    replace_table(TABLE, path, durable=durable)
    assert read_parquet(path).equals(TABLE) and list(path.parent.iterdir()) == [path]


def test_a_table_has_the_same_bytes_in_memory_as_in_a_file(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "a.parquet")
    assert table_bytes(TABLE) == (tmp_path / "a.parquet").read_bytes()
    assert table_bytes(pa.concat_tables([TABLE.slice(0, 10), TABLE.slice(10)])) == table_bytes(TABLE)


def test_row_groups_are_read_alone(tmp_path: Path) -> None:
    write_batches(TABLE.to_batches(), TABLE.schema, tmp_path / "a.parquet", row_group=1000)
    assert read_parquet(tmp_path / "a.parquet", ["n"], range(1, 3))["n"].to_pylist() == [*range(1000, ROWS)]


def test_a_stream_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    write_batches([], TABLE.schema, tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet").equals(TABLE.schema.empty_table())


def test_statistics_are_of_the_columns_asked_for(tmp_path: Path) -> None:
    write_batches(TABLE.to_batches(), TABLE.schema, tmp_path / "a.parquet", statistics=["n"])
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    assert [group.column(i).is_stats_set for i in range(2)] == [True, False]
