"""Studies as assets: they run on the days of a lake, store their results, and show them as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets.resources import LakeResource, LandingResource
from assets.studies import compression, independent_embeddings, multimetric, served_recall, shard_failure, sync_cost
from assets.studies.study_asset import first_days
from ml.lake import Lake
from ml.retrieval.day import index_day
from ml.stages import STUDIES
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, HOUR, kiosk_lake, put_raw, raw_rows, spec_of
from tests.helpers.training_days import made_spec, write_days

SPEC = made_spec().model_copy(update={"demo_days": 3})


def run(study: ModuleType, lake: Lake, config: dict[str, Any]) -> dict[str, Any]:
    write_days(lake, SPEC, 3, 320)
    asset, step = study.build(SPEC), f"{STUDIES}__{SPEC.name}_{study.NAME}"
    resources = {"lake": LakeResource(root=str(lake.root))}
    done = dg.materialize([asset], run_config={"ops": {step: {"config": config}}}, resources=resources)
    return dict(done.asset_materializations_for_node(step)[0].metadata)


def materialised(study: ModuleType, lake: Lake, config: dict[str, Any]) -> dict[str, Any]:
    metadata = run(study, lake, config)
    assert lake.manifest(STUDIES, study.NAME, SPEC.name)["days"] == SPEC.days()[:3]
    return metadata


def test_shard_failure_names_the_hours_of_its_first_slices(lake: Lake) -> None:
    metadata = run(shard_failure, lake, {"seeds": 1, "slices": 6, "intervals": [3, 6], "shards": [2]})
    table = str(metadata["losses"].value)
    assert "| AUC, first 8 hours |" in table and "| 2 | 12 | " in table and "| 2 | 24 | " in table
    assert "| users_per_loss | 15000 |" in str(metadata["paper"].value)
    assert str(metadata["auc"].value).startswith("![figure](data:image/png;base64,")
    assert lake.manifest(STUDIES, "shard_failure_dlrm", SPEC.name)["batch"] == SPEC.days()[:1]


def test_sync_cost_shows_every_variant_and_the_package_of_the_paper(lake: Lake) -> None:
    config = {"seeds": 1, "online_days": 1, "slices": [2, 3, 5], "budgets": [2048], "paper_ids": 100}
    metadata = run(sync_cost, lake, config)
    table = str(metadata["variants"].value)
    assert all(
        f"| {name} |" in table for name in ("3 slices, float32, dense part in all", "5 slices", "int8", "dense part never")
    )
    assert "| float32 | 0.4 |" in str(metadata["paper"].value)
    assert lake.manifest(STUDIES, "sync_cost_dlrm", SPEC.name)["online"] == SPEC.days()[2:3]


def test_compression_shows_a_figure_and_a_table(lake: Lake) -> None:
    metadata = materialised(compression, lake, {"seeds": 1, "shares": [4], "many_ids": 100})
    table = str(metadata["variants"].value)
    assert "| hashed | 1/4 | 160 |" in table and "chinese_remainder, path" in table
    assert str(metadata["auc"].value).startswith("![figure](data:image/png;base64,")


@pytest.mark.slow
def test_multimetric_shows_all_experiments(lake: Lake) -> None:
    metadata = materialised(multimetric, lake, {"days": 3, "seeds": 1, "observations": 2})
    table = str(metadata["experiments"].value)
    assert "| one metric |" in table and "| two metrics, thresholds |" in table


@pytest.mark.slow
def test_independent_embeddings_shows_all_cases(lake: Lake) -> None:
    metadata = materialised(independent_embeddings, lake, {"seeds": 1, "processes": [2], "batch_size": 64})
    assert "| 2 processes, independent |" in str(metadata["cases"].value)


def test_too_few_days_fail_without_a_retry() -> None:
    with pytest.raises(dg.Failure, match="9 requested, made has 5"):
        first_days(SPEC, 9, least=3)
    assert first_days(SPEC, None, least=3) == tuple(SPEC.days()[:3])


def test_served_recall_answers_a_day_by_each_ranker_of_the_day_before(tmp_path: Path) -> None:
    spec = spec_of(ranking={"slice_minutes": 30, "popularity_minutes": [60], "lambdarank": {"trees": 5, "min_leaf_rows": 5}})
    lake, rows = kiosk_lake(tmp_path / "lake"), raw_rows(seed=1, count=100)
    asset, step = served_recall.build(spec), f"{STUDIES}__{spec.name}_{served_recall.NAME}"
    resources = {"lake": LakeResource(root=str(lake.root)), "landing": LandingResource(root=str(tmp_path))}

    def measure(**config: Any) -> dict[str, Any]:
        done = dg.materialize([asset], run_config={"ops": {step: {"config": config}}}, resources=resources)
        return dict(done.asset_materializations_for_node(step)[0].metadata)

    with pytest.raises(dg.Failure, match="no day of the log has a candidate index of the day before"):
        measure()
    index_day(spec, DAY, lake)
    put_raw(lake, spec, rows.set_column(0, "event_time", pa.array(rows["event_time"].to_numpy() + 24 * HOUR)), DAYS[1])
    metadata = measure(requests=1000)
    found = json.loads((lake.partition(STUDIES, "served_recall", spec.name) / "served.json").read_text())
    assert set(found) == {"lambdarank", "dlrm"} and metadata["day"].value == DAYS[1]
    assert {of["requests"] for of in found.values()} == {100}
    assert metadata["recall_at_20/lambdarank"].value == found["lambdarank"]["recall"]["20"] > 0
    assert "| lambdarank |" in metadata["rankers"].value and "| dlrm |" in metadata["rankers"].value
    assert measure(requests=20)["recall_at_20/dlrm"] is not None, "a rerun replaces the result"
    with pytest.raises(ValueError, match="is the first day"):
        measure(day=DAYS[0])
