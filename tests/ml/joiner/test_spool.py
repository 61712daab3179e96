"""The spool of a batch: what tasks wrote becomes files of the stream that depend on the rows alone."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.joiner.spool import PART_BYTES, RUN_BATCH_BYTES, Spool, delete_spool, merge_examples, merge_rows
from ml.logs.ingest_task import raw_schema
from tests.helpers.joined_logs import START, feed

SPEC = feed(source={"columns": {"note": "string"}})


def examples(part: int, rows: int, width: int) -> pa.Table:
    """Examples of one partition in time order, one a second."""
    draw = random.Random(part)
    shown = [START + (2 * n + part) * 1_000_000 for n in range(rows)]
    columns = {"event_time": shown, "shown_at": [at // 1000 for at in shown], "request": [f"r{n}" for n in range(rows)]}
    columns |= {"item": [part] * rows, "user": [1] * rows, "price": [draw.random() for _ in range(rows)]}
    columns |= {"tags": [[str(n), str(part)] if n % 3 else None for n in range(rows)]}
    columns |= {
        "note": [f"{draw.randrange(10**9):0{width}d}" for _ in range(rows)],
        "clicked": [0] * rows,
        "bought": [1] * rows,
    }
    columns |= {"clicked_delay": pa.nulls(rows, pa.float64()), "bought_delay": [2.5] * rows}
    return pa.table(columns).select(raw_schema(SPEC.examples_log).names)


@pytest.mark.parametrize(("width", "several"), [(10, False), (40_000, True)])
def test_examples_are_merged_in_time_order_into_files_of_bounded_size(tmp_path: Path, width: int, several: bool) -> None:
    tables = [examples(part, 2500, width) for part in (0, 1)]
    written = []
    for attempt in ("first", "again"):  # a batch that is repeated, with its tasks in another order
        (tmp_path / attempt).mkdir()
        spool = Spool(str(tmp_path / attempt), SPEC.examples_log)
        texts = [spool.write_examples(5, part, table) for part, table in enumerate(tables)]
        merge_examples(UPath(tmp_path / f"examples-{attempt}"), "7", texts if attempt == "first" else texts[::-1])
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / f"examples-{attempt}").iterdir())})
    assert written[0] == written[1] and (len(written[0]) > 1) == several
    parts = [pq.read_table(tmp_path / "examples-first" / name) for name in sorted(written[0])]
    assert all(part.nbytes <= PART_BYTES for part in parts)
    whole = pa.concat_tables(parts)
    expected = pa.concat_tables(tables).sort_by("event_time")
    assert whole.to_pylist() == expected.to_pylist()


def test_memory_for_the_merge_does_not_grow_with_the_partitions_that_a_file_needs_in_part(tmp_path: Path) -> None:
    """The runs are read into memory of Python: all of them have 256 MB, and a file of examples needs about 1 MB of each."""
    spool, partitions = Spool(str(tmp_path), SPEC.examples_log), 32
    texts = [spool.write_examples(5, part, examples(part, 200, 40_000)) for part in range(partitions)]
    tracemalloc.start()
    try:
        merge_examples(UPath(tmp_path / "examples"), "7", texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(list((tmp_path / "examples").iterdir())) > 4
    assert peak <= PART_BYTES + 2 * partitions * RUN_BATCH_BYTES, "a file of examples, and two batches of each run"
    assert peak > PART_BYTES // 2, "the batches of a file are counted"


def test_a_batch_without_examples_writes_none(tmp_path: Path) -> None:
    merge_examples(UPath(tmp_path / "examples"), "7", [])
    assert list((tmp_path / "examples").iterdir()) == []


def test_rows_of_several_tasks_are_one_file_in_time_order(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), SPEC.examples_log)
    paths = [spool.write_rows("late", 5, 0, pa.table({"event_time": [at], "item": [at]})) for at in (3, 1, 2)]
    assert len(set(paths)) == 3
    merge_rows(UPath(tmp_path / "late"), "7-actions", paths)
    assert pq.read_table(tmp_path / "late" / "7-actions.parquet")["item"].to_pylist() == [1, 2, 3]
    merge_rows(UPath(tmp_path / "none"), "7-actions", [])
    assert not (tmp_path / "none").exists()


def test_only_a_short_text_about_a_run_passes_through_spark(tmp_path: Path) -> None:
    text = Spool(str(tmp_path), SPEC.examples_log).write_examples(5, 0, examples(0, 20, 10_000))
    assert len(text) < 200 + len(str(tmp_path)) and json.loads(text)[:3] == [5, 0, 20]


def test_a_file_that_a_task_writes_while_the_spool_is_deleted_is_deleted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, remove, late = tmp_path / "spool", os.rmdir, ["examples-5-0"]
    delete_spool(UPath(folder))
    folder.mkdir()

    def remove_late(path: str, **options: Any) -> None:
        if late:
            (folder / late.pop()).touch()
        remove(path, **options)

    monkeypatch.setattr(os, "rmdir", remove_late)
    delete_spool(UPath(folder))
    assert not late and not folder.exists()
