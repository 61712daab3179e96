"""The compression study: every variant fits its share of the rows, and results are paired with full tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.catalog.load import load_catalog
from ml.lake import Lake
from ml.recipes.recipe import recipe_of
from ml.recipes.tables import CompositionalTable, HashedTable
from ml.studies.compression import FULL, HASHED, OPERATIONS, PARTED, QUARTER, run_study, variants, write_study
from tests.helpers.training_days import made_spec, write_days

IDS = {"C3": 53_717, "C10": 12_993, "C19": 1_296}


def test_every_family_and_operation_is_tried_at_every_share() -> None:
    found = {(variant.group, variant.setting) for variant in variants(IDS, 16, (2, 64))}
    for share in ("1/2", "1/64"):
        assert {(f"{family}, {operation}", share) for family in PARTED for operation in OPERATIONS} <= found
        assert (HASHED, share) in found and (QUARTER, share) in found


def test_tables_have_their_share_of_the_rows_and_are_valid() -> None:
    spec = load_catalog()["criteo"]
    for variant in variants(IDS, 16):
        tables = recipe_of(spec, "dlrm", {"tables": {"features": variant.tables}}).tables
        for name, ids in IDS.items():
            table = tables.of(name)
            if variant.setting.startswith("1/") and isinstance(table, HashedTable | CompositionalTable):
                expected = ids / int(variant.setting[2:])
                if variant.group == QUARTER:  # the same bytes: 17 floats a row against 5
                    expected *= 17 / 5
                assert expected - 1 <= table.rows <= expected + 4, (variant.group, variant.setting, name)
            if isinstance(table, CompositionalTable) and table.family in PARTED:
                assert sum(table.partitions.sizes) <= table.rows
                assert table.universe <= 8 * ids


def test_results_are_paired_with_full_tables(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days, told = write_days(lake, spec, 3, 320), []
    results = run_study(spec, days, lake, seeds=1, shares=(4,), many_ids=100, on_result=told.append)
    assert told == results and (results[0].group, results[0].auc_gain["value"]) == (FULL, 0.0)
    full, by_group = results[0], {(result.group, result.setting): result for result in results}
    assert full.rows == 640, "only feature b has 100 ids; those of two days were trained on"
    hashed = by_group[HASHED, "1/4"]
    assert hashed.rows == 160 and hashed.nbytes == 160 * 17 * 4 < full.nbytes / 4
    write_study(tmp_path, "made", results)
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(results)
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_a_dataset_of_small_tables_is_refused(lake: Lake) -> None:
    spec = made_spec()
    with pytest.raises(ValueError, match="no table has 5000 ids"):
        run_study(spec, write_days(lake, spec, 2, 64), lake, seeds=1, many_ids=5000)
