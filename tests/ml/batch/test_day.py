"""Batch recommendations: equal to the answers of the service at the end of the day, and the same bytes by any runner."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pyarrow as pa
import pytest
from upath import UPath

from ml.batch.day import recommend_day
from ml.batch.options import BatchOptions
from ml.batch.part import release
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, SparkRunner
from ml.http.server import serving
from ml.lake import Lake, MissingPartition
from ml.online.examples import read_side_tables
from ml.parquet import read_parquet
from ml.retrieval.day import index_day
from ml.schema import EVENT_TIME
from ml.serving.app import create_serving_app
from ml.serving.clock import Clock
from ml.serving.start import start
from ml.sync.status import Refused
from tests.helpers.champions import SPEC as CHAMPIONS
from tests.helpers.champions import make_champion
from tests.helpers.kiosk_days import DAYS, kiosk
from tests.helpers.kiosk_lake import (
    DAY,
    END,
    HOUR,
    experiment_lake,
    experiment_spec,
    export,
    kiosk_lake,
    put_raw,
    raw_rows,
    spec_of,
)
from tests.helpers.kiosk_tables import table_lake, table_spec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAGE = "batch_recommendations"
RANKED = {"slice_minutes": 30, "popularity_minutes": [60, 20], "lambdarank": {"trees": 5, "min_leaf_rows": 5}}
FIVE = BatchOptions(k=5)


def rows_of(lake: Lake, spec: DatasetSpec, day: str = DAY) -> pa.Table:
    folder = lake.partition(STAGE, spec.name, day) / "rows"
    return pa.concat_tables([read_parquet(part) for part in sorted(folder.iterdir(), key=str)])


def by_user(rows: pa.Table) -> dict[object, list[dict[str, object]]]:
    found: dict[object, list[dict[str, object]]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["user"], []).append(row)
    return found


def contents(folder: UPath) -> dict[str, bytes]:
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in Path(folder.path).rglob("*") if path.is_file()}


def made(root: Path, case: str) -> tuple[Lake, DatasetSpec]:
    if case == "champion":
        lake = experiment_lake(root)
        make_champion(lake, "deepfm")
        return lake, CHAMPIONS
    if case == "experiment":
        return experiment_lake(root), experiment_spec()
    if case == "tables":
        return table_lake(root, table_spec()), table_spec()
    lake, spec = kiosk_lake(root), spec_of(**({"ranking": RANKED} if case == "lambdarank" else {}))
    index_day(spec, DAY, lake)
    return lake, spec


@pytest.mark.parametrize("case", ["models", "lambdarank", "experiment", "champion", "tables"])
def test_rows_are_what_the_service_answers_at_the_end_of_the_day(tmp_path: Path, case: str) -> None:
    lake, spec = made(tmp_path / "lake", case)
    done = recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE, users_per_part=8)
    users = by_user(rows_of(lake, spec))
    assert done.users == len(users) == len(set(raw_rows()["user"].to_pylist())) and sum(done.models.values()) == done.users
    assert case != "champion" or set(done.models) == {"deepfm"}
    machine = time.time_ns() // 1000
    end = Clock(offset=END - machine, pace=0.0, began=machine)
    engine = start(spec, lake, UPath(tmp_path / "stream"), clock=end)
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for user, rows in users.items():
            answer = client.post("/recommend", json={"user": user, "k": 5}).json()
            assert [row["item"] for row in rows] == [item["item"] for item in answer["items"]], user
            assert [row["score"] for row in rows] == pytest.approx([item["score"] for item in answer["items"]], rel=1e-5)
            assert [row["sources"] for row in rows] == [item["sources"] for item in answer["items"]]
            assert {row["model"] for row in rows} == {answer["model"]} and [row["rank"] for row in rows] == [1, 2, 3, 4, 5]


def test_a_worker_loads_anew_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark's workers outlive a run, and side tables may have changed before the next one of the same day."""
    lake, spec = kiosk_lake(tmp_path / "lake"), spec_of()
    monkeypatch.setattr("ml.batch.day.release", lambda: None)  # reaches the driver only
    loaded, read = [], read_side_tables

    def noted(spec: DatasetSpec, logs: str) -> list[pa.Table]:
        loaded.append(logs)
        return read(spec, logs)

    monkeypatch.setattr("ml.batch.part.read_side_tables", noted)
    for _ in range(2):
        recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE, users_per_part=10)
    release()
    assert len(loaded) == 2


@pytest.mark.slow
def test_spark_and_one_process_write_the_same_bytes(tmp_path: Path, spark: SparkSession) -> None:
    lake, spec = made(tmp_path / "lake", "models")
    folder = recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE, users_per_part=4).folder
    once = contents(folder)
    assert sum("rows/" in name for name in once) == 8
    for _ in range(2):  # the second time with processes that have loaded the models
        recommend_day(spec, DAY, lake, str(tmp_path), SparkRunner(spark), FIVE, users_per_part=4)
        assert contents(folder) == once


def test_a_model_that_cannot_be_served_leaves_the_day_as_it_was(tmp_path: Path) -> None:
    lake, spec = made(tmp_path / "lake", "models")
    folder = recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE).folder
    once = contents(folder)
    export(lake, spec, "dlrm", change=float("nan"))
    with pytest.raises(Refused, match="a weight that is not a finite number"):
        recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE)
    assert contents(folder) == once and not (folder.parent / ".staging" / DAY).exists()
    export(lake, spec, "dlrm", change=2.0)
    recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE)
    assert contents(folder) != once


def test_users_of_earlier_days_get_items_of_the_day(tmp_path: Path) -> None:
    lake, spec = made(tmp_path / "lake", "models")
    rows = raw_rows(seed=1).set_column(2, "user", pa.array([77] * 400))
    put_raw(lake, spec, rows.set_column(0, EVENT_TIME, pa.array(rows[EVENT_TIME].to_numpy() + 24 * HOUR)), DAYS[1])
    for model in spec.models:
        export(lake, spec, model, DAYS[1])
    counts = {
        days: recommend_day(spec, DAYS[1], lake, str(tmp_path), LocalRunner(), BatchOptions(k=3, user_days=days)).users
        for days in (1, 2)
    }
    users = by_user(rows_of(lake, spec, DAYS[1]))
    assert counts == {1: 1, 2: len(users)} and {len(rows) for rows in users.values()} == {3} and {77, 3} <= set(users)
    assert {f"raw_logs/{day}" for day in DAYS[:2]} <= set(lake.manifest(STAGE, spec.name, DAYS[1])["lineage"])


@pytest.mark.parametrize(("key", "changes"), [("item", {"item": None, "ranking": None}), ("user", {"user": None})])
def test_a_dataset_without_items_or_users_is_refused_by_key(lake: Lake, tmp_path: Path, key: str, changes: dict) -> None:
    spec = kiosk().model_copy(update=changes)
    with pytest.raises(ValueError, match=f"kiosk: the catalog entry has no `{key}`"):
        recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner())


def test_an_experiment_with_a_lambdarank_that_no_day_has_is_refused(tmp_path: Path) -> None:
    lake = experiment_lake(tmp_path / "lake")
    spec = experiment_spec(ranking=RANKED, experiment={"name": "trees", "shares": {"dlrm": 0.5, "lambdarank": 0.5}})
    index_day(experiment_spec(), DAY, lake)  # before `ranking` was added, so without one
    with pytest.raises(Refused, match="no candidate index up to 2026-01-01 has the lambdarank of `experiment"):
        recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner(), FIVE)
    assert not lake.has(STAGE, spec.name, DAY)


def test_a_day_without_an_export_is_refused(tmp_path: Path) -> None:
    lake, spec = made(tmp_path / "lake", "models")
    lake.discard("exported_models/dlrm", spec.name, DAY)
    with pytest.raises(MissingPartition, match="exported_models/dlrm"):
        recommend_day(spec, DAY, lake, str(tmp_path), LocalRunner())
