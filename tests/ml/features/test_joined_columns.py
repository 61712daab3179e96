"""Expectations of columns that come from side tables are checked on the rows of `cleaned_features`."""

from pathlib import Path
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.clean import CleanedDay, Limits, clean_day
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.quality.contract import contract
from ml.quality.explain import explain_failure
from ml.quality.validate import Verdict, validate
from ml.stages import CLEANED_FEATURES, RAW_LOGS
from tests.helpers.shop_features import shop, shop_day
from tests.helpers.small_logs import side_table

DAY = "2020-01-01"
ITEMS = side_table(
    "item", "id", ["colour", "weight", "size"], "items.csv", {"id": "int", "colour": "string", "weight": "float", "size": "int"}
)
CHECKS = {"null_rate_colour", "value_weight", "value_size"}


def spec_with(columns: dict[str, Any]) -> DatasetSpec:
    return shop(join=[ITEMS], slices=[], expectations={"columns": columns})


SPEC = spec_with(
    {
        "colour": {"null_rate": {"max": 0.5}},
        "weight": {"null_rate": {"max": 0.5}, "value": {"min": 0, "max": 10}},
        "size": {"value": {"max": 100, "severity": "warning"}},
        "price": {"null_rate": {"max": 0.9}},
    }
)


def clean(
    lake: Lake, folder: Path, write_raw: Any, colour: str = "red", weight: str = "1.5", size: str = "3", rows: int = 900
) -> CleanedDay:
    """Cleans a day of three tasks whose side table has these values for all items except the first, -1."""
    write_raw(lake, SPEC, DAY, shop_day(SPEC, 0, rows), parts=3, row_group=300)
    items = raw_table(lake, "shop", DAY)["item"].drop_null().unique().to_pylist()
    lines = ["id,colour,weight,size", "-1,blue,2.5,4", *(f"{item},{colour},{weight},{size}" for item in items if item != -1)]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    return clean_day(SPEC, DAY, lake, str(folder), LocalRunner(), limits=Limits(rows_per_task=300))


def verdicts(lake: Lake, spec: DatasetSpec = SPEC) -> dict[str, Verdict]:
    return {v.name: v for v in validate(spec, CLEANED_FEATURES, DAY, lake).verdicts}


def test_each_stage_checks_the_columns_that_it_has() -> None:
    assert {e.name for e in contract(SPEC, RAW_LOGS)} & {*CHECKS, "null_rate_price"} == {"null_rate_price"}
    found = {e.name: e for e in contract(SPEC, CLEANED_FEATURES)}
    assert set(found) & {*CHECKS, "null_rate_price"} == CHECKS
    assert found["null_rate_colour"].columns == ("colour", "weight")  # columns with one band share a check
    assert found["value_size"].severity == "warning" and found["value_size"].key == "expectations.columns.size.value"


def test_an_unspoilt_side_table_passes(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    clean(lake, tmp_path, write_raw)
    found = verdicts(lake)
    assert all(found[name].passed for name in CHECKS)
    missing = raw_table(lake, "shop", DAY)["item"].null_count  # rows without a key have no joined values
    assert found["null_rate_colour"].observed["colour"] == f"{missing / 900:.6g} ({missing} of 900)"
    assert found["value_weight"].observed["weight max"] in ("1.5", "2.5")


@pytest.mark.parametrize(
    ("spoilt", "failing"),
    [
        ({"colour": ""}, "null_rate_colour"),
        ({"weight": ""}, "null_rate_colour"),
        ({"weight": "-3"}, "value_weight"),
        ({"size": "101"}, "value_size"),
    ],
)
def test_a_spoilt_side_table_breaks_exactly_one(
    spoilt: dict[str, str], failing: str, lake: Lake, tmp_path: Path, write_raw: Any
) -> None:
    clean(lake, tmp_path, write_raw, **spoilt)
    found = verdicts(lake)
    assert {name for name in CHECKS if not found[name].passed} == {failing}
    assert next(iter(found[failing].observed)).split()[0] == next(iter(spoilt))
    assert found[failing].severity == ("warning" if failing == "value_size" else "error")
    text = explain_failure(found[failing], SPEC, CLEANED_FEATURES, DAY, lake)
    assert f"correct the files of the side table, or change {found[failing].key} in the catalog entry" in text


def test_expectations_that_change_are_checked_without_cleaning_again(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    clean(lake, tmp_path, write_raw, weight="7")
    assert verdicts(lake)["value_weight"].passed
    assert not verdicts(lake, spec_with({"weight": {"value": {"max": 5}}}))["value_weight"].passed


def test_a_day_that_was_written_without_statistics_fails(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    clean(lake, tmp_path, write_raw)
    manifest = lake.manifest(CLEANED_FEATURES, "shop", DAY)
    del manifest["joined_columns"]
    lake.write_manifest(lake.partition(CLEANED_FEATURES, "shop", DAY), manifest)
    found = verdicts(lake)
    assert not found["null_rate_colour"].passed and found["null_rate_colour"].observed["colour"] == "missing"


def test_a_day_without_rows_passes(lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    clean(lake, tmp_path, write_raw, rows=0)
    assert all(verdicts(lake)[name].passed for name in CHECKS)


@pytest.mark.slow
def test_a_join_on_spark_gives_the_same_statistics(spark: Any, lake: Lake, tmp_path: Path, write_raw: Any) -> None:
    from ml.compute.runner import SparkRunner

    clean(lake, tmp_path, write_raw)
    expected = lake.manifest(CLEANED_FEATURES, "shop", DAY)["joined_columns"]
    limits = Limits(broadcast_bytes=0, rows_per_task=300)
    clean_day(SPEC, DAY, lake, str(tmp_path), SparkRunner(spark), spark, limits)
    assert lake.manifest(CLEANED_FEATURES, "shop", DAY)["joined_columns"] == expected
    assert expected["weight"]["type"] == "double" and expected["weight"]["min"] == 1.5
