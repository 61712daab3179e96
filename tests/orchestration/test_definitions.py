"""The whole asset graph: attributes that every asset must have, and a golden list that detects unintended changes."""

import json
from pathlib import Path

import dagster as dg
import pytest

from assets import policy
from ml.catalog.spec import DatasetSpec
from ml.compute.dask_cluster import Cluster
from ml.stages import stages_of, stages_on_request
from orchestration.definitions import defs
from orchestration.deployments import resources

GOLDEN = Path(__file__).with_name("golden_graph.json")


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    return defs()


def graph_of(definitions: dg.Definitions) -> dict[str, object]:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
            for key in sorted(graph.materializable_asset_keys)
        },
        "checks": sorted(f"{check.asset_key.to_user_string()}:{check.name}" for check in graph.asset_check_keys),
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_definitions_are_loadable(loaded: dg.Definitions):
    dg.Definitions.validate_loadable(loaded)


def test_every_asset_has_owner_group_kinds_description_and_single_run_backfills(loaded: dg.Definitions):
    graph = loaded.get_repository_def().asset_graph
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.owners and node.kinds and node.description and (node.group_name or "").startswith(key.path[0]), key
        if key.path[0] == "studies":  # materialised on demand, on whole logs
            assert node.partitions_def is None, key
            continue
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), key
        assert node.partitions_def is not None, key


def test_titles_of_nodes_are_unique_within_a_group(loaded: dg.Definitions):
    graph = loaded.get_repository_def().asset_graph
    titles = [(graph.get(key).group_name, key.path[-1]) for key in graph.materializable_asset_keys]
    assert len(set(titles)) == len(titles), sorted(titles)


def test_assets_are_the_stages_of_the_lake(loaded: dg.Definitions, catalog: dict[str, DatasetSpec]):
    keys = loaded.get_repository_def().asset_graph.materializable_asset_keys
    stages = {policy.key(spec, stage) for spec in catalog.values() for stage in (*stages_of(spec), *stages_on_request(spec))}
    assert stages == {found for found in keys if found.path[0] != "studies"}


def test_a_report_sees_only_models_of_earlier_days(loaded: dg.Definitions, catalog: dict[str, DatasetSpec]):
    graph = loaded.get_repository_def().asset_graph
    for report in (key for key in graph.materializable_asset_keys if key.path[-1] == "evaluation_reports"):
        model = dg.AssetKey([report.path[0], "tuned_models", catalog[report.path[0]].primary])
        days = graph.get(report).partitions_def.get_partition_keys()
        mapping = graph.get_partition_mapping(report, model)
        upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(
            graph.get(report).partitions_def.subset_with_partition_keys([days[3]]),
            graph.get(report).partitions_def,
            graph.get(model).partitions_def,
        )
        assert list(upstream.partitions_subset.get_partition_keys()) == [days[2]]


def test_the_deployment_sets_the_number_of_raw_rows_in_mlflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERGREEN_EXAMPLE_ROWS", "0")
    assert resources()["mlflow"].example_rows == 0  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("EVERGREEN_EXAMPLE_ROWS", "-1")
    with pytest.raises(ValueError, match="EVERGREEN_EXAMPLE_ROWS: expected a whole number"):
        resources()


@pytest.mark.parametrize("text", ["4", "4:2", "0:0", "-1:2", "a:b", "1:2:3"])
def test_an_invalid_range_of_dask_workers_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("EVERGREEN_DASK_ADAPT", text)
    with pytest.raises(ValueError, match="EVERGREEN_DASK_ADAPT: expected min:max"):
        resources()


def test_the_deployment_sets_the_dask_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERGREEN_DASK_ADAPT", "0:3")
    assert resources()["dask"].cluster() == Cluster("", (0, 3))  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("EVERGREEN_DASK", "tcp://10.0.0.5:8786")
    with pytest.raises(ValueError, match=r"EVERGREEN_DASK_ADAPT .* unset EVERGREEN_DASK"):
        resources()
    monkeypatch.delenv("EVERGREEN_DASK_ADAPT")
    assert resources()["dask"].cluster() == Cluster("tcp://10.0.0.5:8786")  # pyright: ignore[reportAttributeAccessIssue]


def test_graph_is_the_golden_one(loaded: dg.Definitions):
    """To update the file after an intended change, run python -m tests.orchestration.test_definitions"""
    assert graph_of(loaded) == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(graph_of(defs()), indent=1) + "\n")
