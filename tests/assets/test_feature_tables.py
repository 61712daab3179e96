"""The asset of feature tables: what it depends on, what depends on it, and a run of two days."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg

from assets.cleaned_features import build as build_features
from assets.feature_tables import build
from assets.graph import dataset_graph
from assets.policy import key
from assets.resources import LakeResource
from ml.lake import Lake
from ml.stages import CLEANED_FEATURES, FEATURE_TABLES, RAW_LOGS, stages_of
from tests.helpers.shop_days import spec_of
from tests.helpers.table_days import DAYS, day_rows, table_spec, write_rows


def test_a_dataset_with_feature_tables_has_the_asset_between_rows_and_features() -> None:
    spec = table_spec()
    features = build_features(spec)
    assert stages_of(spec)[:3] == [RAW_LOGS, FEATURE_TABLES, CLEANED_FEATURES]
    assert key(spec, FEATURE_TABLES) in features.dependency_keys
    mapping = features.get_partition_mapping(key(spec, FEATURE_TABLES))
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert (mapping.start_offset, mapping.end_offset) == (-2, 0)  # idle looks 30 hours back
    assert timedelta(hours=spec.table_look_back_hours) <= timedelta(days=2)
    assert build(spec).dependency_keys == {key(spec, RAW_LOGS)}


def test_other_datasets_do_not_have_it() -> None:
    spec = spec_of()
    keys = {each for asset in dataset_graph(spec).assets or () if isinstance(asset, dg.AssetsDefinition) for each in asset.keys}
    assert key(spec, FEATURE_TABLES) not in keys and FEATURE_TABLES not in stages_of(spec)


def test_a_day_reports_its_events_and_those_that_came_late(tmp_path: Path) -> None:
    spec, lake = table_spec(), Lake.at(tmp_path / "lake")
    rows = day_rows(0, 30)
    found = []
    for table in (rows.slice(5), rows):
        write_rows(lake, spec, DAYS[0], table)
        run = dg.materialize(
            [build(spec)],
            partition_key=DAYS[0],
            resources={"lake": LakeResource(root=str(tmp_path / "lake"))},
            instance=dg.DagsterInstance.ephemeral(),
        )
        metadata = run.asset_materializations_for_node(f"{spec.name}__{FEATURE_TABLES}")[0].metadata
        found.append([metadata[name].value for name in ("dagster/row_count", "late", "removed", "corrected")])
    assert found == [[25, 0, 0, 0], [30, 5, 0, 0]]
