"""Champion and challenger side by side: users keep their variant, shares hold, and the journal names the variant."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.catalog.experiment import EXPERIMENT, VARIANT, VARIANTS, Experiment
from ml.http.server import serving
from ml.lake import Lake
from ml.logs.read import raw_table
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.journal import Journal
from ml.serving.models import NoModel
from ml.serving.start import start
from ml.serving.variants import variants_of
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, END, experiment_lake, experiment_spec, export, put_raw

SPEC = experiment_spec()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return start(SPEC, experiment_lake(tmp_path / "lake"), UPath(tmp_path / "stream"))


def test_shares_hold_and_another_name_assigns_independently() -> None:
    users, shares = pa.array(np.arange(100_000)), {"a": 0.5, "b": 0.3, "c": 0.2}
    one, other = (variants_of(Experiment(name=name, shares=shares), users) for name in ("first", "second"))
    for found in (one, other):
        assert {name: count / 100_000 for name, count in Counter(found).items()} == pytest.approx(shares, abs=0.005)
    both = Counter(zip(one, other, strict=True))[("a", "a")] / 100_000
    assert both == pytest.approx(0.25, abs=0.005)
    assert variants_of(Experiment(name="first", shares=shares), users.take(pa.array([7, 7, 99]))) == [one[7], one[7], one[99]]


def test_a_larger_share_keeps_the_users_of_the_champion() -> None:
    users = pa.array(np.arange(10_000))
    small, large = (variants_of(Experiment(name="a", shares={"x": s, "y": 1 - s}), users) for s in (0.5, 0.9))
    assert all(after == "x" for before, after in zip(small, large, strict=True) if before == "x")


def test_each_user_is_ranked_by_the_variant_and_the_journal_names_it(engine: Engine, tmp_path: Path) -> None:
    wanted = dict(zip(range(1, 30), variants_of(SPEC.experiment, pa.array(range(1, 30))), strict=True))  # type: ignore[arg-type]
    assert set(wanted.values()) == {"dlrm", "deepfm"}
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for user, variant in wanted.items():
            answer = client.post("/recommend", json={"user": user, "k": 3, "explain": user == 1}).json()
            assert (answer["variant"], answer["model"], answer["version"]) == (variant, variant, DAY)
            shown = [{"user": user, "item": item["item"], "clicked": 0} for item in answer["items"]]
            assert client.post("/events", json={"examples": shown}).status_code == 202
            ranked = client.post("/rank", json={"user": user, "candidates": [1, 2]}).json()
            assert ranked["variant"] == ranked["model"] == variant
        assert client.post("/recommend", json={"user": None}).json()["variant"] == "dlrm", "the champion's"
        both = [{"user": None, "item": 1}, {"user": 1, "item": 1}]
        assert client.post("/events", json={"examples": both}).status_code == 202
        version = client.get("/version").json()
        assert version["variants"]["deepfm"] == {"model": "deepfm", "version": DAY, "pinned": None, "refusal": None}
        assert client.get("/health").json()["models"] == {"dlrm": "current", "deepfm": "current"}
    files = sorted((tmp_path / "stream" / VARIANTS).glob("[!.]*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 3 * len(wanted) + 2
    assert {row["user"]: row[VARIANT] for row in rows} == wanted | {None: None}
    assert {row[EXPERIMENT] for row in rows if row["user"]} == {"deep"}
    logs = list((tmp_path / "stream" / "examples").glob("[!.]*.parquet"))
    assert logs and all(VARIANT not in pq.read_table(log).column_names for log in logs), "the log keeps its columns"


def test_variants_survive_a_kill(tmp_path: Path) -> None:
    held = Journal(SPEC, UPath(tmp_path), SPEC.experiment)
    held.append({"examples": [{"user": 3, "item": 5}]}, now=END)
    Journal(SPEC, UPath(tmp_path))  # started again without the experiment
    [file] = (tmp_path / VARIANTS).glob("*.parquet")
    assert pq.read_table(file)[VARIANT].to_pylist() == variants_of(SPEC.experiment, pa.array([3]))  # type: ignore[arg-type]


def test_without_an_experiment_nothing_is_noted(tmp_path: Path) -> None:
    held = Journal(SPEC, UPath(tmp_path))
    held.append({"examples": [{"user": 3, "item": 5}]}, now=END)
    held.rotate(at_once=True)
    assert not (tmp_path / VARIANTS).exists()


def test_a_challenger_is_updated_and_must_exist(engine: Engine, tmp_path: Path) -> None:
    lake = Lake.at(tmp_path / "lake")
    export(lake, SPEC, "deepfm", DAYS[1], seed=5)
    put_raw(lake, SPEC, raw_table(lake, SPEC.name, DAY), DAYS[1])
    engine.poll()
    assert engine.variants["deepfm"].ranked_by == ("deepfm", DAYS[1])
    alone = start(SPEC, lake, UPath(tmp_path / "stream"), model="deepfm")
    assert not alone.variants and alone.default.ranked_by == ("deepfm", DAYS[1]), "a model that is named serves everyone"
    with pytest.raises(NoModel, match="kiosk has no export of deepfm"):
        start(SPEC, _without(lake, "deepfm"), UPath(tmp_path / "stream"))


def test_a_dataset_without_an_experiment_has_no_variants(tmp_path: Path) -> None:
    engine = start(experiment_spec(experiment=None), experiment_lake(tmp_path / "lake"), UPath(tmp_path / "stream"))
    assert engine.default.name is None and engine.variant_of(3) == engine.default


def _without(lake: Lake, model: str) -> Lake:
    for day in lake.days(f"exported_models/{model}", SPEC.name):
        lake.discard(f"exported_models/{model}", SPEC.name, day)
    return lake
