"""The graph of an entry that serves a model online: what its export and its report read, and which job makes it."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.policy import key
from ml import stages
from ml.catalog.spec import DatasetSpec
from orchestration.definitions import build_defs


@pytest.fixture
def served(catalog: dict[str, DatasetSpec]) -> DatasetSpec:
    spec = catalog["criteo"]
    choice = spec.models["dlrm"].model_copy(update={"serve": "online"})
    return spec.model_copy(update={"models": {**spec.models, "dlrm": choice}})


def test_the_export_and_the_report_read_what_is_served(served: DatasetSpec) -> None:
    graph = build_defs([served]).get_repository_def().asset_graph
    online, daily = key(served, "online_updates/dlrm"), key(served, "tuned_models/dlrm")
    assert online in graph.get(key(served, "exported_models/dlrm")).parent_keys
    assert daily not in graph.get(key(served, "exported_models/dlrm")).parent_keys
    assert key(served, "tuned_models/deepfm") in graph.get(key(served, "exported_models/deepfm")).parent_keys
    report = graph.get(key(served, stages.EVALUATION_REPORTS)).parent_keys
    assert online in report and daily not in report
    assert {key(served, "tuned_models/deepfm"), key(served, "online_updates/deepfm")} <= report


def test_the_daily_job_makes_what_is_served(served: DatasetSpec) -> None:
    repository = build_defs([served]).get_repository_def()
    made = {name: repository.get_job(name).asset_layer.selected_asset_keys for name in ("criteo_daily", "criteo_online")}
    assert key(served, "online_updates/dlrm") in made["criteo_daily"]
    assert key(served, "online_updates/deepfm") not in made["criteo_daily"]
    expected = {key(served, stages.online_updates(model)) for model in served.models}
    assert made["criteo_online"] == expected | {key(served, stages.EVALUATION_REPORTS)}


def test_a_day_reads_its_own_day_before_and_the_daily_model_of_the_day_before(served: DatasetSpec) -> None:
    graph = build_defs([served]).get_repository_def().asset_graph
    online = key(served, "online_updates/dlrm")
    days = graph.get(online).partitions_def
    assert isinstance(days, dg.TimeWindowPartitionsDefinition)
    asked = days.subset_with_partition_keys(["2014-01-03"])
    for parent, expected in (("online_updates/dlrm", "02"), ("tuned_models/dlrm", "02"), ("mds_datasets", "03")):
        mapping = graph.get_partition_mapping(online, key(served, parent))
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(asked, days, days).partitions_subset
        assert list(found.get_partition_keys()) == [f"2014-01-{expected}"]
