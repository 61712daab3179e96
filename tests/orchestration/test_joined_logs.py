"""A dataset with a log of impressions and one of actions: its graph, and its days from raw lines to training data."""

from __future__ import annotations

import random
from pathlib import Path

import dagster as dg
import pyarrow.compute as pc
import pytest
import yaml
from click import ClickException

from assets.progress import is_done
from assets.resources import LakeResource, LandingResource
from ml.catalog.load import load_dataset
from ml.catalog.spec import DatasetSpec
from ml.joiner.landing import is_landed_as_read, landed_examples
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.stages import CLEANED_FEATURES, JOINED_EXAMPLES, MDS_DATASETS, RAW_ACTIONS, stages_of, tuned_models
from orchestration.definitions import build_defs
from orchestration.materialize import materialize
from tests.helpers.joined_logs import drawn, feed_entry, land

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


@pytest.fixture
def spec(home: Path) -> DatasetSpec:
    path = home / "catalog" / "feed.yaml"
    path.write_text(yaml.safe_dump(feed_entry(), sort_keys=False))
    (home / "landing" / "feed").mkdir(parents=True)
    return load_dataset(path)


def test_the_graph_joins_before_the_features(spec: DatasetSpec) -> None:
    graph = build_defs([spec]).get_repository_def().asset_graph
    parents = {
        stage: sorted("/".join(parent.path[1:]) for parent in graph.get(dg.AssetKey(["feed", stage])).parent_keys)
        for stage in stages_of(spec)[:5]
    }
    assert parents == {
        "raw_logs": [],
        "raw_actions": [],
        "joined_examples": ["raw_actions", "raw_logs"],
        "cleaned_features": ["joined_examples"],
        "mds_datasets": ["cleaned_features"],
    }
    assert "match_rate" in {check.name for check in graph.asset_check_keys if check.asset_key.path[-1] == JOINED_EXAMPLES}
    examples, actions = (dg.AssetKey(["feed", stage]) for stage in (JOINED_EXAMPLES, RAW_ACTIONS))
    days = graph.get(examples).partitions_def
    assert days is not None
    upstream = graph.get_partition_mapping(examples, actions).get_upstream_mapped_partitions_result_for_partitions(
        days.subset_with_partition_keys([DAYS[1]]), days, days
    )
    assert list(upstream.partitions_subset.get_partition_keys()) == DAYS[1:]


def test_days_go_from_two_logs_to_training_data(spec: DatasetSpec, home: Path) -> None:
    folder, lake = home / "landing" / "feed", Lake.at(home)
    land(folder, *drawn(random.Random(4), 1500, 3 * 24 * 60))
    landed = landed_examples(spec, folder, lake)
    assert [day.key for day in landed.days] == DAYS and landed.newest == DAYS[2] and landed.waiting is None
    keys = [dg.AssetKey(["feed", stage]) for stage in stages_of(spec)[:5]]
    for day in DAYS:
        materialize(spec, day, keys)
        examples, features = (raw_table(lake, "feed", day, stage) for stage in (JOINED_EXAMPLES, CLEANED_FEATURES))
        assert features["label"].to_pylist() == examples["clicked"].to_pylist() and pc.sum(features["label"]).as_py() > 0
        assert lake.has(MDS_DATASETS, "feed", day) and is_landed_as_read(spec, day, folder, lake)
    actions = folder / f"actions-{DAYS[1]}.jsonl"
    actions.write_text("".join(actions.read_text().splitlines(keepends=True)[:-1]))
    assert [is_landed_as_read(spec, day, folder, lake) for day in DAYS] == [False, False, True]
    assert not is_done(lake, spec, DAYS[0], str(folder))
    materialize(spec, DAYS[0], keys[1:2])  # also reads the later day again, which has changed
    assert lake.is_outdated(JOINED_EXAMPLES, "feed", DAYS[0]) and is_landed_as_read(spec, DAYS[1], folder, lake)


def test_a_day_waits_for_the_actions_that_its_wait_reaches(spec: DatasetSpec, home: Path) -> None:
    folder, lake = home / "landing" / "feed", Lake.at(home)
    land(folder, *drawn(random.Random(4), 100, 3 * 24 * 60))
    (folder / f"actions-{DAYS[2]}.jsonl").unlink()
    landed = landed_examples(spec, folder, lake)
    assert [day.key for day in landed.days] == DAYS[:1] and landed.waiting == (DAYS[1], DAYS[2])
    assert landed.newest == DAYS[2], "the last day of the log needs no later actions"
    keys = [dg.AssetKey(["feed", stage]) for stage in stages_of(spec)[:3]]
    with pytest.raises(ClickException, match="no file of 2026-03-03"):
        materialize(spec, DAYS[1], keys)


def test_actions_that_stop_are_named_and_count_as_lag(spec: DatasetSpec, home: Path) -> None:
    folder, lake = home / "landing" / "feed", Lake.at(home)
    live = spec.model_copy(update={"partitions": spec.partitions.model_copy(update={"end": None})})
    land(folder, *drawn(random.Random(4), 100, 3 * 24 * 60))
    assert landed_examples(live, folder, lake).newest == DAYS[1], "the next day's actions cannot have landed"
    for day in DAYS[1:]:
        (folder / f"actions-{day}.jsonl").unlink()
    landed = landed_examples(live, folder, lake)
    assert landed.days == [] and landed.newest == DAYS[1] and landed.waiting == (DAYS[0], DAYS[1])
    with lake.write(tuned_models(spec.primary), spec.name, DAYS[0]) as staging:
        lake.write_manifest(staging, {"fingerprint": spec.fingerprint})
    resources = {"lake": LakeResource(root=str(home)), "landing": LandingResource(root=str(home / "landing"))}
    definitions = build_defs([live], resources)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources)
        tick = definitions.resolve_sensor_def("feed_landing").evaluate_tick(context)
    assert not tick.run_requests
    assert (
        tick.skip_message
        == f"{DAYS[0]} waits for the actions of {DAYS[1]}, which have not landed; earlier days are in the lake"
    )
    assert [event.metadata["lag_days"].value for event in tick.asset_events] == [1]
