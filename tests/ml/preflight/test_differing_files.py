"""A file that is damaged, or differs from the others, stops only the days that need it, and hides no other fault."""

import bz2
import gzip
from pathlib import Path
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from ml.preflight.check import preflight
from ml.preflight.finding import errors, of_days
from tests.helpers.click_logs import clicks, only, write_clicks


def write_dated(folder: Path, days: int = 5) -> DatasetSpec:
    write_clicks(folder, days)
    lines = (folder / "log.csv").read_text().splitlines(keepends=True)
    (folder / "log.csv").unlink()
    for n in range(days):
        (folder / f"2024-05-{n + 1:02}.csv.gz").write_bytes(gzip.compress("".join(lines[n * 200 : n * 200 + 200]).encode()))
    columns = {"time": "int", "item": "string", "clicked": "int"}
    source = {"files": "%Y-%m-%d.csv.gz", "format": "csv", "columns": columns}
    return clicks(source=source, partitions={"start": "2024-05-01", "end": f"2024-05-{days:02}"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def pack_with_bzip2(path: Path) -> None:
    path.write_bytes(gzip.compress(bz2.compress(gzip.decompress(path.read_bytes()))))


def save_as_utf16(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).decode().encode("utf-16")))


@pytest.mark.parametrize("fault", [cut, pack_with_bzip2, save_as_utf16])
def test_a_file_that_differs_from_the_others_stops_its_days_alone(fault: Any, tmp_path: Path) -> None:
    spec = write_dated(tmp_path)
    fault(tmp_path / "2024-05-04.csv.gz")
    found = preflight(spec, tmp_path)
    assert "2024-05-04.csv.gz" in only(errors(of_days(found, ["2024-05-03", "2024-05-04"]))).found
    assert not errors(of_days(found, ["2024-05-03"])) and "2024-05-04.csv.gz" in only(of_days(found, ["2024-05-03"])).found


def test_a_damaged_file_does_not_hide_other_faults(tmp_path: Path) -> None:
    spec = write_dated(tmp_path)
    cut(tmp_path / "2024-05-04.csv.gz")
    wrong = spec.model_copy(update={"time": spec.time.model_copy(update={"unit": "ms"})})
    assert [finding.key for finding in errors(of_days(preflight(wrong, tmp_path), ["2024-05-01"]))] == ["time.unit"]


def test_a_fault_of_all_files_stops_every_day(tmp_path: Path) -> None:
    spec = write_dated(tmp_path)
    for path in tmp_path.iterdir():
        save_as_utf16(path)
    assert only(of_days(preflight(spec, tmp_path), ["2024-05-01"])).severity == "error"
    spilling = spec.model_copy(update={"source": spec.source.model_copy(update={"spill_days": 1})})
    write_dated(tmp_path)
    cut(tmp_path / "2024-05-04.csv.gz")
    found = preflight(spilling, tmp_path)
    assert errors(of_days(found, ["2024-05-03"])) and not errors(of_days(found, ["2024-05-02"]))


def test_a_file_with_another_header_stops_its_days_alone(tmp_path: Path) -> None:
    spec = write_dated(tmp_path)
    for path in tmp_path.iterdir():
        names = b"time,thing,clicked\n" if "05-05" in path.name else b"time,item,clicked\n"
        path.write_bytes(gzip.compress(names + gzip.decompress(path.read_bytes())))
    headed = spec.model_copy(update={"source": spec.source.model_copy(update={"header": True})})
    found = preflight(headed, tmp_path)
    assert "header lacks column 'item'" in only(errors(of_days(found, ["2024-05-05"]))).found
    assert not errors(of_days(found, ["2024-05-01"]))
