"""A sketch of a folder of logs is an entry that loads, fits its files, and gives rows of every day."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.preflight.check import preflight
from ml.sketch.columns import column_of_values
from ml.sketch.entry import entry_text, sketch
from ml.sketch.layout import NotALog
from tests.helpers import unknown_logs, written_values
from tests.helpers.unknown_logs import DAYS

LOGS = unknown_logs.LOGS | written_values.LOGS
VALUE_KEYS = ("trim", "decimal_ints", "unsigned", "multiline", "path_columns")


def sketched(folder: Path, to: Path, name: str = "unknown") -> tuple[dict[str, Any], DatasetSpec]:
    path = to / f"{name}.yaml"
    path.write_text(entry_text(sketch(folder, name), folder))
    return yaml.safe_load(path.read_text()), load_dataset(path)


@pytest.fixture(params=LOGS)
def unknown(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder, LOGS[request.param](folder, random.Random(7))


def test_roles_and_times_are_found(unknown: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, wanted = unknown
    entry, spec = sketched(folder, tmp_path)
    for key in ("column", "unit", "format", "clock"):
        assert entry["time"].get(key) == wanted.get(f"time.{key}"), key
    assert entry.get("user") == wanted.get("user") and entry.get("item") == wanted["item"]
    assert entry["source"].get("paths", {}) == wanted.get("paths", {})
    assert entry["source"].get("separator") == wanted.get("separator")
    assert entry["source"]["columns"].items() >= wanted.get("types", {}).items()
    assert entry["source"]["files"] == wanted.get("files", entry["source"]["files"])
    keys = {key: entry["source"][key] for key in VALUE_KEYS if key in entry["source"]}
    assert keys == wanted.get("keys", {})
    lines = (tmp_path / "unknown.yaml").read_text().splitlines()
    for key in {*keys, *({"explode"} & entry["source"].keys())}:
        assert any(line.startswith(f"  {key}: ") and "   # " in line for line in lines), f"{key} has no reason"
    assert entry["label"] == wanted["label"] if wanted["label"] else "negatives" in entry["label"]
    learned = {column for feature in (*spec.dense, *spec.sparse) for column in getattr(feature, "inputs", (feature.name,))}
    assert not learned & {*wanted.get("out", ()), wanted["time.column"], (wanted["label"] or {}).get("column")}


def test_the_entry_fits_its_files_and_all_rows_are_read(unknown: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, wanted = unknown
    spec = sketched(folder, tmp_path)[1]
    assert [str(finding) for finding in preflight(spec, folder)] == []
    lake, days = Lake.at(tmp_path / "lake"), spec.days()[:DAYS]
    done = [ingest_day(spec.log, day, str(folder), lake, LocalRunner()) for day in days]
    assert all(day.rows > 0 and not day.quarantined for day in done)
    if "rows" in wanted:
        assert sum(day.rows for day in done) == wanted["rows"], "no row is within another"


def test_the_sketch_of_the_simulated_log_has_the_roles_of_its_entry(tmp_path: Path, catalog: dict[str, DatasetSpec]) -> None:
    from ml.logs.synthetic.simulate import write_day

    declared = catalog["synthetic"]
    assert declared.simulation
    small = declared.model_copy(update={"simulation": declared.simulation.model_copy(update={"impressions_per_day": 3000})})
    folder = tmp_path / "logs"
    folder.mkdir()
    for day in declared.days()[:2]:
        write_day(small.log, day, folder)
    entry, spec = sketched(folder, tmp_path)
    assert (spec.user, spec.item, spec.label.column, spec.time) == (declared.user, declared.item, "clicked", declared.time)
    assert {"name": "tags", "split": "|", "max_values": 16} in entry["sparse"]
    assert {feature.name for feature in spec.dense} == {"user_age", "item_age_hours", "price"}
    assert spec.days() == declared.days()[:2] and spec.source.files == declared.source.files


@pytest.mark.parametrize(
    ("dataset", "folder", "wanted"),
    [
        ("criteo", "criteo", {"label": {"column": "c1"}, "time": {"by_position": True}, "user": None, "item": None}),
        ("movielens", "movielens-100k", {"label": {"column": "c3", "at_least": 4}, "user": "c1", "item": "c2"}),
    ],
)
def test_real_logs(
    dataset: str, folder: str, wanted: dict[str, Any], real_logs: Path, tmp_path: Path, catalog: dict[str, DatasetSpec]
) -> None:
    entry, spec = sketched(real_logs / folder, tmp_path)
    assert {key: entry.get(key) for key in wanted} == wanted
    assert list(spec.source.columns.values()) == list(catalog[dataset].source.columns.values())
    assert not [finding for finding in preflight(spec, real_logs / folder) if finding.severity == "error"]


@pytest.mark.slow
def test_a_log_of_positives_in_an_archive(real_logs: Path, tmp_path: Path) -> None:
    entry, spec = sketched(real_logs / "globo", tmp_path)
    assert (spec.user, spec.item, entry["session"]) == ("user_id", "click_article_id", {"column": "session_id"})
    assert spec.label.negatives and (spec.days()[0], spec.days()[-1]) == ("2017-10-01", "2017-10-17")


def test_lines_of_labelled_items_become_rows(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    LOGS["labelled_lines"](folder, random.Random(7))
    entry, spec = sketched(folder, tmp_path)
    lines = [line.split("\t") for line in (folder / "behaviors.tsv").read_text().splitlines()]
    assert entry["source"]["explode"] == {"c5": ["item", "clicked"]} and entry["source"]["part_separator"] == "-"
    assert {"name": "c4", "ids_of": "item", "max_values": 50, "keep": "last"} in entry["sparse"]
    lake = Lake.at(tmp_path / "lake")
    rows = sum(ingest_day(spec.log, day, str(folder), lake, LocalRunner()).rows for day in spec.days())
    assert rows == sum(len(line[4].split()) for line in lines)


def test_characters_that_yaml_cannot_hold_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    lines = [f"2025-03-01 10:00:{n:02},u{n % 7},it\x92s {n % 5} \x85,{n % 2}" for n in range(60)]
    (folder / "log.csv").write_bytes("\n".join(["at,user,title,clicked", *lines]).encode("latin-1"))
    spec = sketched(folder, tmp_path)[1]
    assert spec.source.encoding == "latin-1" and spec.item == "title"


@pytest.mark.parametrize("value", ["no-click", "0"])
def test_a_label_that_is_never_positive_is_asked_for(value: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    lines = [f"2025-03-01 10:00:{n:02},u{n % 7},i{n % 5},{value}" for n in range(60)]
    (folder / "log.csv").write_text("\n".join(["at,user,item,clicked", *lines]))
    with pytest.raises(CatalogError, match=r"label\.column: no column '<column>'"):
        sketched(folder, tmp_path)
    assert (
        f"# clicked looks like the label, but all rows of the sample have {value}." in (tmp_path / "unknown.yaml").read_text()
    )


def test_times_of_day_of_parquet_are_clocks(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    instants = [datetime(2025, 3, 1) + timedelta(minutes=40 * n) for n in range(60)]
    rows = {
        "day": [at.date() for at in instants],
        "clock": [at.time() for at in instants],
        "click": ["ny"[n % 2] for n in range(60)],
    }
    pq.write_table(pa.table(rows), folder / "log.parquet")
    entry, spec = sketched(folder, tmp_path)
    assert entry["time"]["clock"] == "clock" and spec.label.column == "click"
    assert [str(finding) for finding in preflight(spec, folder)] == []


def test_a_list_of_structs_that_is_always_empty_is_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    rows = {
        "ts": [datetime(2025, 3, 1) + timedelta(minutes=n) for n in range(60)],
        "user": [n % 7 for n in range(60)],
        "click": [n % 2 for n in range(60)],
        "more": pa.array([[]] * 60, pa.list_(pa.struct([("id", pa.int64())]))),
    }
    pq.write_table(pa.table(rows), folder / "log.parquet")
    entry, spec = sketched(folder, tmp_path)
    assert "more" not in entry["source"]["columns"]
    assert [str(finding) for finding in preflight(spec, folder)] == []


def test_dates_of_parquet_are_texts(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    rows = {
        "day": [date(2025, 3, 1 + n % 2) for n in range(60)],
        "user": [n % 7 for n in range(60)],
        "click": [n % 2 for n in range(60)],
    }
    pq.write_table(pa.table(rows), folder / "log.parquet")
    entry, spec = sketched(folder, tmp_path)
    assert entry["source"]["columns"]["day"] == "string" and spec.days() == ["2025-03-01", "2025-03-02"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("log.csv", b"", "the files are empty"),
        ("log.txt", "text without columns\nand more\n".encode("utf-16"), "UTF-16 or binary"),
        ("log.txt", b"prose\nwithout any columns\n", "neither JSON nor separated"),
        ("log.parquet", b"PAR1 and no more", "not readable as Parquet"),
        ("log.csv.gz", b"\x1f\x8b no", "log.csv.gz"),
    ],
)
def test_what_is_no_log_is_refused(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NotALog, match=message):
        sketch(tmp_path, "unknown")


def test_a_folder_without_logs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# nothing")
    for folder, message in ((tmp_path, "no files that could be logs"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(FileNotFoundError, match=message):
            sketch(folder, "unknown")


@pytest.mark.parametrize("values", [[0.012, 0.031] * 20, [9.04, 8.0] * 20])
def test_fractions_are_no_ids_whatever_their_name(values: list[float]) -> None:
    assert column_of_values("bid", values).kind == "float"
