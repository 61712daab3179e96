"""Verdicts on whole days: an intact day passes, and for each expectation there is a day that breaks only that one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import MANIFEST, Lake, MissingPartition
from ml.quality.contract import BETWEEN, Expectation, contract
from ml.quality.validate import Validation, decide, validate
from ml.stages import VALIDATED
from tests.helpers.quality_days import DAYS, ROWS, make_spec, write_days, write_features, write_mds, write_raw

SPEC = make_spec()
DAY = DAYS[2]
NEXT_DAY = day_bounds(DAY, SPEC.zone)[1]


def put(name: str, row: int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of one cell."""

    def change(columns: dict[str, Any]) -> None:
        column = columns[name]
        columns[name] = pa.array([value if i == row else v for i, v in enumerate(column.to_pylist())], column.type)

    return change


def fill(name: str, value: Any, share: float = 1.0) -> Callable[[dict[str, Any]], None]:
    """Return a change of the first `share` of a column."""

    def change(columns: dict[str, Any]) -> None:
        column = columns[name].to_pylist()
        count = int(len(column) * share)
        columns[name] = pa.array([value] * count + column[count:], columns[name].type)

    return change


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns.pop(name) and None


def repeat_first(columns: dict[str, Any]) -> None:
    for name, column in columns.items():
        columns[name] = pa.array([column[0].as_py(), *column[0:1].to_pylist(), *column[2:].to_pylist()], column.type)


def failing(validation: Validation) -> set[str]:
    return {v.name for v in validation.verdicts if not v.passed}


RAW = {
    "schema": {"change": drop("tags")},
    "complete": {"manifest": {"rows": ROWS + 1}},
    "volume": {"rows": ROWS // 10},
    "quarantine_rate": {"manifest": {"quarantined": ROWS}},
    "whole_files": {"manifest": {"reasons": {"damaged file: Error -3 while decompressing": 1}}},
    "required": {"change": put("event_time", 5, None)},
    "time_in_day": {"change": put("event_time", ROWS - 1, NEXT_DAY)},
    "time_order": {"change": put("event_time", 9, NEXT_DAY - 1)},
    "label_values": {"change": put("clicked", 0, 2)},
    "label_rate": {"change": fill("clicked", 0)},
    "unique_keys": {"change": repeat_first},
    "drift": {"change": fill("country", "US")},
    "null_rate_price": {"change": fill("price", None, 0.5)},
    "null_rate_country": {"change": fill("country", None, 0.12)},
    "value_price": {"change": put("price", 3, -1.0)},
}
FEATURES = {
    "schema": {"change": lambda columns: columns.update(extra=columns["price"])},
    "complete": {"manifest": {"rows": ROWS - 1}},
    "volume": {"rows": ROWS // 10},
    "no_nulls": {"change": put("key:user", 3, None)},
    "finite": {"change": put("price", 3, float("inf"))},
    "label_values": {"change": put("label", 3, 0.5)},
    "label_rate": {"change": fill("label", 1.0)},
    "sample_rate": {"change": put("sample_rate", 3, 0.0)},
    "time_in_day": {"change": put("event_time", ROWS - 1, NEXT_DAY)},
    "time_order": {"change": put("event_time", 9, NEXT_DAY - 1)},
    "drift": {"change": fill("country", 77)},
}
MDS = {name: FEATURES[name] for name in ("volume", "finite", "label_values", "label_rate", "time_in_day", "drift")} | {
    "sample_rate": {"change": put("sample_rate", 3, 1.5)}
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.at(tmp_path_factory.mktemp("lake"))
    write_days(lake, SPEC, DAYS[:2], write_raw, write_features, write_mds)
    return lake


@pytest.mark.parametrize("stage", VALIDATED)
def test_an_unspoilt_day_passes(lake: Lake, stage: str) -> None:
    write_days(lake, SPEC, [DAY], write_raw, write_features, write_mds)
    done = validate(SPEC, stage, DAY, lake)
    assert failing(done) == set() and done.passed
    assert [v.name for v in done.verdicts] == [e.name for e in contract(SPEC, stage)]
    assert done.rows == ROWS and done.seconds > 0
    assert {v.name: v.compared_with for v in done.verdicts if v.compared_with} == dict.fromkeys(
        ("volume", "drift"), tuple(DAYS[:2])
    )


@pytest.mark.parametrize("name", RAW)
def test_a_spoilt_raw_day_breaks_exactly_one(lake: Lake, name: str) -> None:
    spoilt = RAW[name]
    write_raw(lake, SPEC, DAY, spoilt.get("change"), spoilt.get("rows", ROWS), spoilt.get("manifest", {}))
    assert failing(validate(SPEC, "raw_logs", DAY, lake)) == {name}


@pytest.mark.parametrize("name", FEATURES)
def test_a_spoilt_feature_day_breaks_exactly_one(lake: Lake, name: str) -> None:
    spoilt = FEATURES[name]
    write_features(lake, SPEC, DAY, spoilt.get("change"), spoilt.get("rows", ROWS), spoilt.get("manifest", {}))
    assert failing(validate(SPEC, "cleaned_features", DAY, lake)) == {name}


@pytest.mark.parametrize("name", MDS)
def test_a_spoilt_mds_day_breaks_exactly_one(lake: Lake, name: str) -> None:
    write_features(lake, SPEC, DAY, MDS[name].get("change"), MDS[name].get("rows", ROWS))
    write_mds(lake, SPEC, DAY)
    assert failing(validate(SPEC, "mds_datasets", DAY, lake)) == {name}


def test_mds_that_is_not_its_features(lake: Lake) -> None:
    write_days(lake, SPEC, [DAY], write_features, write_mds)
    write_features(lake, SPEC, DAY, put("item", 4, 12345))
    assert failing(validate(SPEC, "mds_datasets", DAY, lake)) == {"values_equal"}
    write_features(lake, SPEC, DAY, rows=ROWS - 1)
    assert failing(validate(SPEC, "mds_datasets", DAY, lake)) == {"rows_equal", "values_equal"}


def test_mds_of_another_catalog_entry_is_refused_and_not_decoded(lake: Lake) -> None:
    write_days(lake, SPEC, [DAY], write_features, write_mds)
    path = lake.partition("mds_datasets", SPEC.name, DAY) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    done = validate(SPEC, "mds_datasets", DAY, lake)
    assert {"schema", "rows_equal"} <= failing(done) and not done.passed


def test_mds_manifest_that_counts_other_rows(lake: Lake) -> None:
    write_days(lake, SPEC, [DAY], write_features, write_mds)
    path = lake.partition("mds_datasets", SPEC.name, DAY) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": ROWS + 5}))
    assert failing(validate(SPEC, "mds_datasets", DAY, lake)) == {"complete"}


def test_every_expectation_has_a_day_that_breaks_it() -> None:
    broken = {"raw_logs": set(RAW), "cleaned_features": set(FEATURES)}
    broken["mds_datasets"] = {*MDS, "values_equal", "rows_equal", "schema", "complete"}
    assert broken == {stage: {e.name for e in contract(SPEC, stage)} for stage in VALIDATED}


def test_first_day_has_nothing_to_compare_with(lake: Lake) -> None:
    for stage in VALIDATED:
        compared = [v for v in validate(SPEC, stage, DAYS[0], lake).verdicts if v.name in ("volume", "drift")]
        assert all(
            v.passed and v.observed == {"all": "no recent days to compare with"} and not v.compared_with for v in compared
        )


def test_a_rerun_day_compares_with_earlier_days_alone(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    verdicts = {v.name: v for v in validate(SPEC, "raw_logs", DAYS[1], lake).verdicts}
    assert verdicts["drift"].compared_with == (DAYS[0],)


def test_only_the_last_recent_days_compare(tmp_path: Path) -> None:
    lake, spec = Lake.at(tmp_path), make_spec(expectations={"recent_days": 2})
    for day in DAYS[:4]:
        write_raw(lake, spec, day, rows=200)
    verdicts = {v.name: v for v in validate(spec, "raw_logs", DAYS[3], lake).verdicts}
    assert verdicts["volume"].compared_with == tuple(DAYS[1:3])


def test_an_empty_day_breaks_only_volume(lake: Lake) -> None:
    for stage, write in (("raw_logs", write_raw), ("cleaned_features", write_features)):
        write(lake, SPEC, DAY, rows=0, manifest={"quarantined": 0})
        assert failing(validate(SPEC, stage, DAY, lake)) == {"volume"}
    write_mds(lake, SPEC, DAY)
    assert failing(validate(SPEC, "mds_datasets", DAY, lake)) == {"volume"}


def test_an_empty_first_day_is_no_volume(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    write_raw(lake, SPEC, DAY, rows=0, manifest={"quarantined": 0})
    assert failing(validate(SPEC, "raw_logs", DAY, lake)) == {"volume"}


def test_verdict_names_the_worst_columns_and_what_was_expected(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY, fill("country", "US"))
    verdict = next(v for v in validate(SPEC, "raw_logs", DAY, lake).verdicts if v.name == "drift")
    assert next(iter(verdict.observed)) == "country" and float(verdict.observed["country"]) > 0.25
    assert verdict.severity == "warning" and verdict.expected == "at most 0.25"
    write_raw(lake, SPEC, DAY, drop("tags"))
    verdict = next(v for v in validate(SPEC, "raw_logs", DAY, lake).verdicts if v.name == "schema")
    assert verdict.observed == {"tags": "no such column, expected string"}


def test_a_column_that_an_expectation_names_must_be_there(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY, drop("price"))
    assert failing(validate(SPEC, "raw_logs", DAY, lake)) == {"schema", "null_rate_price", "value_price"}


def test_a_fault_inside_great_expectations_is_never_a_pass() -> None:
    fine = Expectation("fine", "volume", BETWEEN, {"min_value": 0.0}, "warning", "")
    faulty = Expectation("faulty", "volume", BETWEEN, {"min_value": date(2026, 3, 1)}, "warning", "")
    rulings = decide([faulty, fine], {"fine": {"day": 1.0}, "faulty": {"day": 1.0}})
    assert rulings["fine"].passed and not rulings["fine"].fault
    assert not rulings["faulty"].passed and rulings["faulty"].fault


def test_a_day_that_is_not_there_says_how_to_make_it(lake: Lake) -> None:
    with pytest.raises(MissingPartition, match=f"--partition {DAYS[6]}"):
        validate(SPEC, "raw_logs", DAYS[6], lake)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    write_raw(lake, SPEC, DAY)
    path = lake.partition("raw_logs", SPEC.name, DAY) / "rows" / "part-00001.parquet"
    path.write_bytes(b"not a table")
    with pytest.raises(ValueError, match=r"part-00001\.parquet: not readable"):
        validate(SPEC, "raw_logs", DAY, lake)


def test_contracts_do_not_load_great_expectations() -> None:
    import subprocess

    heavy = "{'great_expectations', 'torch', 'pandas', 'pyarrow'}"
    code = f"import sys, ml.quality.contract; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_process_without_a_main_file_can_check() -> None:
    """A process like Dagster's run workers, which the library would end silently with exit code 0."""
    code = "from ml.quality.validate import load_library; load_library(); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "alive"


def test_a_column_of_nothing_but_missing_values_is_not_out_of_range(lake: Lake) -> None:
    spec = make_spec(expectations={"columns": {"price": {"value": {"min": 0}}}})

    def none(columns: dict[str, Any]) -> None:
        columns["price"] = pa.nulls(len(columns["price"]), pa.float64())

    write_raw(lake, spec, DAYS[0], none)
    assert all(v.passed for v in validate(spec, "raw_logs", DAYS[0], lake).verdicts if v.name.startswith("value"))


def test_every_band_of_the_catalog_names_its_key() -> None:
    entry = {
        "name": "shop",
        "description": "Clicks.",
        "source": {
            "files": "*.csv",
            "format": "csv",
            "columns": {"time": "int", "item": "int", "price": "float", "hit": "int"},
        },
        "time": {"column": "time"},
        "partitions": {"start": "2026-03-01", "end": "2026-03-02"},
        "label": {"column": "hit"},
        "sparse": ["item"],
        "expectations": {"unique": ["item"], "columns": {"price": {"null_rate": {"max": 0.5}, "value": {"min": 0}}}},
    }
    spec = DatasetSpec.model_validate(entry)
    keys = {e.name: e.key for stage in VALIDATED for e in contract(spec, stage)}
    for name, key in keys.items():
        value: Any = spec
        for part in key.split(".") if key else ():
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        assert value is not None, name
    assert keys["volume"] == "expectations.volume" and keys["unique_keys"] == "expectations.duplicates"
    assert keys["value_price"] == "expectations.columns.price.value" and keys["label_values"] == "label"
