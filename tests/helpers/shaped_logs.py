"""Catalog entries and files of small logs of one day, for tests of how lines become rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec

DAY, START = "2026-01-01", 1_767_225_600


def entry(columns: dict[str, str], form: str, sparse: list[Any], source: dict[str, Any], **more: Any) -> DatasetSpec:
    """The entry of a log with the columns `time` and `clicked`, among others, and files named `*.<form>`."""
    reading = {"files": f"*.{form}", "format": form, "columns": columns, **source}
    return DatasetSpec.model_validate(
        {
            "name": "shown",
            "description": "A log with lists.",
            "source": reading,
            "time": {"column": "time"},
            "partitions": {"start": DAY, "end": DAY},
            "label": {"column": "clicked"},
            "sparse": sparse,
            **more,
        }
    )


def in_folder(tmp_path: Path, name: str, text: str) -> Path:
    """Writes a file into the folder `logs`, and returns the folder."""
    folder = tmp_path / "logs"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder


def write_rows(folder: Path, form: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    """Writes the file `log.jsonl` or `log.parquet`, and returns its folder.

    Args:
        folder: The folder, which need not exist.
        form: `jsonl` or `parquet`.
        rows: The rows of the file; in JSON lines, one line each.
        schema: Types of the columns in Parquet; by default those of the values.
    """
    folder.mkdir(exist_ok=True)
    if form == "jsonl":
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema), str(folder / "log.parquet"))
    return folder


@contextmanager
def refused(message: str) -> Iterator[None]:
    """Expects an entry to be refused, with a text in one of the errors, which are `path of the key: message`."""
    with pytest.raises(ValidationError) as error:
        yield
    found = []
    for fault in error.value.errors():
        path = [*map(str, fault["loc"]), fault.get("ctx", {}).get("key", "")]  # the second part is below the model that refuses
        found.append(f"{'.'.join(filter(None, path))}: {fault['msg']}")
    assert any(message in fault for fault in found), found
