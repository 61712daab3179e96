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
from ml.catalog.load import load_dataset
from ml.catalog.spec import DatasetSpec
from ml.joiner.landing import is_landed_as_read, landed_examples
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.stages import CLEANED_FEATURES, JOINED_EXAMPLES, MDS_DATASETS, RAW_ACTIONS, stages_of
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
    assert [day.key for day in landed_examples(spec, folder, lake)] == DAYS
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
    assert [day.key for day in landed_examples(spec, folder, lake)] == DAYS[:1]
    keys = [dg.AssetKey(["feed", stage]) for stage in stages_of(spec)[:3]]
    with pytest.raises(ClickException, match="no file of 2026-03-03"):
        materialize(spec, DAYS[1], keys)
