"""Studies as assets: they run on the days of a lake, store their results, and show them as metadata."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.owner import PID
from assets.resources import LakeResource, LandingResource, SparkResource
from assets.studies import (
    compression,
    embedding_collisions,
    independent_embeddings,
    multimetric,
    served_recall,
    served_scores,
    shard_failure,
    sync_cost,
)
from assets.studies.movielens_deepfm import MOVIELENS
from assets.studies.study_asset import first_days
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.retrieval.day import index_day
from ml.stages import STUDIES
from ml.studies import admission_sweep
from tests.helpers.kiosk_days import DAYS, kiosk
from tests.helpers.kiosk_lake import DAY, HOUR, kiosk_lake, put_raw, raw_rows, spec_of
from tests.helpers.trained_logs import spec_of_log, train_first_day
from tests.helpers.training_days import made_spec, write_days

SPEC = made_spec().model_copy(update={"demo_days": 3})


def materialise(asset: dg.AssetsDefinition, config: dict[str, Any], lake: Lake, **resources: Any) -> dict[str, Any]:
    """Run a study in this process. Returns its metadata."""
    step, instance = asset.node_def.name, dg.DagsterInstance.ephemeral()
    resources["lake"] = LakeResource(root=str(lake.root))
    run_config = {"ops": {step: {"config": config}}}
    done = dg.materialize([asset], run_config=run_config, resources=resources, instance=instance)
    found = instance.get_run_by_id(done.run_id)
    assert found and found.tags[PID] == str(os.getpid())
    return dict(done.asset_materializations_for_node(step)[0].metadata)


def run(study: ModuleType, lake: Lake, config: dict[str, Any]) -> dict[str, Any]:
    write_days(lake, SPEC, 3, 320)
    return materialise(study.build(SPEC), config, lake)


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


def movielens(folder: Path) -> None:
    """Write 2,000 ratings in the layout of MovieLens 1M."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rated = "".join(f"{n % 200},{n // 20},{rng.integers(1, 6)}\n" for n in range(2000))
    (folder / "ratings.csv.gz").write_bytes(gzip.compress(f"user,movie,rating\n{rated}".encode()))
    (folder / "users.dat").write_text("".join(f"{n}::F::25::{n % 9}::12345\n" for n in range(200)))
    (folder / "movies.dat").write_text("".join(f"{n}::Film (1999)::Comedy|Drama\n" for n in range(100)))


def kiosk_logs(spec: DatasetSpec, folder: Path) -> None:
    """Write 1,000 clicks a day."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for day in DAYS:
        begin, end = (at // 1_000_000 for at in day_bounds(day, spec.zone))
        times = np.sort(rng.integers(begin, end, 1000))
        lines += [f"{at},{rng.integers(40)},{rng.zipf(1.3) % 50},{at // 900},{rng.integers(3)}\n" for at in times]
    (folder / "log.csv").write_text("".join(lines))


@pytest.mark.slow
def test_embedding_collisions_shows_its_three_parts(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, landing = kiosk(models={"dlrm": {}}), tmp_path / "landing"
    movielens(landing / MOVIELENS)
    kiosk_logs(spec, landing / spec.name)
    monkeypatch.setattr(admission_sweep, "IDS", {"reader": "user", "article": "item"})
    resources = {"landing": LandingResource(root=str(landing)), "spark": SparkResource(master="none")}
    config = {"seeds": 1, "epochs": 2, "days": 2, "daily_days": 3, "user_share": 0.5}
    metadata = materialise(embedding_collisions.build(spec), config, lake, **resources)
    variants, days, settings = (str(metadata[name].value) for name in ("variants", "days", "settings"))
    assert "| collisionless |" in variants and "| hashed, equal memory |" in variants
    assert "| day 2 |" in days and "| day 3 |" in days and "| mean AUC |" in days
    assert "| 100 | no expiry |" in settings and "| 1 | 0.5 |" in settings
    for name in ("auc", "sweep", "auc_by_day"):
        assert str(metadata[name].value).startswith("![figure](data:image/png;base64,")
    assert lake.manifest(STUDIES, "embedding_collisions", MOVIELENS)["ratings"] == 2000
    assert lake.manifest(STUDIES, "embedding_collisions", spec.name)["days"] == list(DAYS[:2])
    by_day = lake.manifest(STUDIES, "embedding_collisions_by_day", spec.name)
    assert by_day["days"] == list(DAYS) and 0 < by_day["rows"] < 6000


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
    assert set(found) == {"lambdarank", "dlrm", "two_tower_alone"} and metadata["day"].value == DAYS[1]
    assert {of["requests"] for of in found.values()} == {100}
    assert metadata["recall_at_20/lambdarank"].value == found["lambdarank"]["recall"]["20"] > 0
    assert "| lambdarank |" in metadata["rankers"].value and "| two_tower_alone |" in metadata["rankers"].value
    assert measure(requests=20)["recall_at_20/dlrm"] is not None, "a rerun replaces the result"
    with pytest.raises(ValueError, match="is the first day"):
        measure(day=DAYS[0])


@pytest.mark.slow
def test_served_scores_compare_a_day_with_the_model_of_the_day_before(
    tmp_path: Path, lake: Lake, catalog: dict[str, DatasetSpec]
) -> None:
    spec = spec_of_log("ratings", tmp_path / "landing" / "ratings", catalog["synthetic"])
    asset, landing = served_scores.build(spec), LandingResource(root=str(tmp_path / "landing"))
    with pytest.raises(dg.Failure, match="no day of the log has an export of dlrm"):
        materialise(asset, {}, lake, landing=landing)
    _, day = train_first_day(spec, lake, tmp_path / "landing" / "ratings")
    with pytest.raises(dg.Failure, match="no model 'other'"):
        materialise(asset, {"model": "other"}, lake, landing=landing)
    metadata = materialise(asset, {}, lake, landing=landing)
    assert metadata["day"].value == day and metadata["equal"].value is True
    assert "| served and trained |" in metadata["differences"].value
    found = json.loads((lake.partition(STUDIES, "served_scores", spec.name) / "scores.json").read_text())
    assert found["rows"] == metadata["rows"].value > 20 and found["auc"]["served"] == metadata["auc/served"].value
