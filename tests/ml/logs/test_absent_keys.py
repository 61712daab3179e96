"""A declared name that no file has is refused, and the error lists the names in the files. Missing values are accepted."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Source
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.parquet import read_first_rows
from ml.logs.read import raw_table
from ml.logs.source_table import read_table
from ml.logs.sources import find_files
from ml.logs.text.layout import WrongFile

START = date(2026, 3, 1)
DAYS = [(START + timedelta(days=i)).isoformat() for i in range(3)]
MIDNIGHT = 1772323200  # 2026-03-01 UTC
COLUMNS = {"t": "int", "price": "float", "y": "int"}


def log_of(files: str, by_position: bool = False, **source: Any) -> LogSpec:
    return LogSpec.model_validate(
        {
            "dataset": "small",
            "source": {"files": files, "format": "jsonl", "columns": COLUMNS} | source,
            "time": {"by_position": True} if by_position else {"column": "t"},
            "partitions": {"start": START, "end": START + timedelta(days=2)},
        }
    )


def row(day: int, **more: Any) -> dict[str, Any]:
    return {"t": MIDNIGHT + day * 86400 + 60, "y": 1, **more}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(one) + "\n" for one in rows).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


LAYOUTS = [
    ("%Y-%m-%d.jsonl", False),
    ("%Y-%m-%d.jsonl.gz", False),
    ("*.jsonl", False),
    ("*.jsonl.gz", False),
    ("*.jsonl", True),
]


@pytest.mark.parametrize(("files", "by_position"), LAYOUTS)
def test_a_key_that_no_line_has_is_refused_and_the_keys_in_the_file_are_listed(
    files: str, by_position: bool, tmp_path: Path, lake: Lake
) -> None:
    for n, day in enumerate(DAYS):
        name = f"{day}.jsonl" + (".gz" if files.endswith("gz") else "")
        write(tmp_path, name, [row(n, cost=1.5, item={"price": 3.0}), row(n, cost=2.0, note="the price")])
    with pytest.raises(WrongFile, match=r"jsonl.*no line has the key 'price'; the lines have 't', 'y', 'cost', 'item'"):
        ingest_day(log_of(files, by_position), DAYS[1], tmp_path, lake, LocalRunner())
    assert not lake.has("raw_logs", "small", DAYS[1])
    renamed = log_of(files, by_position, rename={"cost": "price"})
    ingest_day(renamed, DAYS[1], tmp_path, lake, LocalRunner())
    assert raw_table(lake, "small", DAYS[1])["price"].to_pylist() == [1.5, 2.0]
    with pytest.raises(WrongFile, match="no line has the key 'costs'; the lines have 't'"):
        ingest_day(log_of(files, by_position, rename={"costs": "price"}), DAYS[1], tmp_path, lake, LocalRunner())


@pytest.mark.parametrize(("files", "by_position"), LAYOUTS)
def test_a_key_that_another_day_has_may_be_missing(files: str, by_position: bool, tmp_path: Path, lake: Lake) -> None:
    for n, day in enumerate(DAYS):
        name = f"{day}.jsonl" + (".gz" if files.endswith("gz") else "")
        write(tmp_path, name, [row(n), row(n)] if n < 2 else [row(n, price=1.0), row(n)])
    ingest_day(log_of(files, by_position), DAYS[0], tmp_path, lake, LocalRunner())
    assert raw_table(lake, "small", DAYS[0])["price"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    "lines", ['{"t": 1772323260, "y": 1, "price": null}\n', '{"t": 1772323260, "y": 1, "\\u0070rice": null}\n', ""]
)
def test_a_key_with_a_null_is_present_and_a_file_without_lines_is_accepted(lines: str, tmp_path: Path, lake: Lake) -> None:
    (tmp_path / f"{DAYS[0]}.jsonl").write_text(lines)
    done = ingest_day(log_of("%Y-%m-%d.jsonl"), DAYS[0], tmp_path, lake, LocalRunner())
    assert done.rows == bool(lines)


def test_side_tables_are_checked_like_logs(tmp_path: Path) -> None:
    write(tmp_path, "items.jsonl", [{"id": 1, "Brand": "a"}])
    source = Source.model_validate({"files": "items.jsonl", "format": "jsonl", "columns": {"id": "int", "brand": "string"}})
    with pytest.raises(WrongFile, match=r"items\.jsonl: no line has the key 'brand'; the lines have 'id', 'Brand'"):
        read_table(source, tmp_path)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("there", ["price", "other"])
def test_a_renamed_name_that_a_file_lacks_is_refused(form: str, there: str, tmp_path: Path) -> None:
    if form == "csv":
        (tmp_path / "a.csv").write_text(f"t,{there},y\n1,2,1\n")
    else:
        pq.write_table(pa.table({"t": [1], there: [2.0], "y": [1]}), tmp_path / "a.parquet")
    source = Source.model_validate(
        {"files": f"*.{form}", "format": form, "header": form == "csv", "columns": COLUMNS, "rename": {"cost": "price"}}
    )
    with pytest.raises(
        WrongFile, match=rf"a\.{form}: .* lacks 'cost', which source.rename renames to 'price'; it has 't', '{there}'"
    ):
        read_table(source, tmp_path)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("there", ["price ", " cost"])
def test_blanks_around_a_name_are_ignored(form: str, there: str, tmp_path: Path) -> None:
    if form == "csv":
        (tmp_path / "a.csv").write_text(f"t,{there},y\n1,2,1\n")
    else:
        pq.write_table(pa.table({"t": [1], there: [2.0], "y": [1]}), tmp_path / "a.parquet")
    rename = {"cost": "price"} if "cost" in there else {}
    source = Source.model_validate(
        {"files": f"*.{form}", "format": form, "header": form == "csv", "columns": COLUMNS, "rename": rename}
    )
    assert read_table(source, tmp_path)[0].to_pylist() == [{"t": 1, "price": 2.0, "y": 1}]
    [file] = find_files(source, tmp_path)
    if form == "parquet":
        assert read_first_rows(source, file, 0, 1).table["price"].to_pylist() == [2.0]


def test_names_without_a_header_cannot_be_renamed() -> None:
    with pytest.raises(ValidationError, match="needs `header: true`"):
        Source.model_validate({"files": "*", "format": "csv", "columns": COLUMNS, "rename": {"cost": "price"}})
