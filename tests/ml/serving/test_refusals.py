"""Models that the service refuses: worse on the probe, not finite, of another schema. The old one is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from upath import UPath

from ml.artifacts.bundle import Bundle
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.http.server import serving
from ml.lake import Lake
from ml.retrieval.day import index_day
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.models import ExportedModel, NoModel
from ml.serving.ranker import ServedRanker
from ml.serving.start import start
from ml.sync.receiver import Receiver
from ml.training.state import TrainState
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, export, kiosk_lake, put_raw, raw_rows, spec_of
from tests.helpers.sync_runs import Run, serves
from tests.helpers.training_days import made_spec


def probed_spec(**probe: Any) -> DatasetSpec:
    """The kiosk, whose models are scored on a probe."""
    spec = spec_of()
    online = {"online": {"sync": {"probe": {"rows": 500} | probe}}}
    models = {n: m.model_copy(update={"overrides": m.overrides | online}) for n, m in spec.models.items()}
    return spec.model_copy(update={"models": models})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = kiosk_lake(tmp_path / "lake")
    put_raw(lake, spec_of(), raw_rows(), DAYS[1])  # a service starts with the events of the newest export's day
    write_day(spec_of(), DAY, lake, LocalRunner(), block_rows=64, window_blocks=2)
    return lake


def started(lake: Lake, tmp_path: Path, spec: DatasetSpec) -> Engine:
    return start(spec, lake, UPath(tmp_path / "stream"))


def test_an_export_that_is_worse_on_the_probe_is_refused_also_after_a_restart(lake: Lake, tmp_path: Path) -> None:
    spec = probed_spec()
    engine = started(lake, tmp_path, spec)
    before = engine.ranking.bundle
    export(lake, spec, "dlrm", DAYS[1], change=30)
    for _ in range(2):
        engine.poll()
    version = engine.ranking.version
    assert engine.ranking.bundle is before and (version.version, version.refused, version.rollbacks) == (DAY, {"quality": 1}, 1)
    assert f"export of {DAYS[1]}: worse on the probe set (log loss" in str(version.refusal)
    again = started(lake, tmp_path, spec).ranking.version
    assert (again.version, again.refused) == (DAY, {"quality": 1}) and again.refusal == version.refusal
    export(lake, spec, "dlrm", DAYS[2])
    engine.poll()
    version = engine.ranking.version
    assert (version.version, version.refusal) == (DAYS[2], None) and version.last_refusal is not None


def test_the_recipe_says_how_much_worse_a_version_may_be(lake: Lake, tmp_path: Path) -> None:
    spec = probed_spec(log_loss_tolerance=1e6, auc_tolerance=0.99)
    engine = started(lake, tmp_path, spec)
    export(lake, spec, "dlrm", DAYS[1], change=30)
    engine.poll()
    assert engine.ranking.version.version == DAYS[1]


def test_a_refusal_is_reported_until_a_version_is_served(lake: Lake, tmp_path: Path) -> None:
    engine = started(lake, tmp_path, spec_of())
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        health = client.get("/health").json()
        assert (health["status"], health["models"]) == ("ok", {"dlrm": "current", "two_tower": "current"})
        export(lake, spec_of(), "dlrm", DAYS[1], change=float("nan"))
        engine.poll()
        health = client.get("/health")
        assert health.status_code == 200 and health.json()["status"] == "degraded"
        assert health.json()["models"] == {"dlrm": "refused", "two_tower": "current"}
        version = client.get("/version").json()
        assert version["ranking"]["refusal"] == version["ranker"]["refusal"] and version["ranking"]["version"] == DAY
        assert "has a weight that is not a finite number" in version["ranking"]["refusal"]
        metrics = client.get("/metrics").text
        assert 'evergreen_model_refusals_total{model="dlrm",reason="not_finite"} 1.0' in metrics
        assert 'evergreen_model_refused{model="dlrm"} 1.0' in metrics
        assert client.post("/recommend", json={"user": 3}).json()["version"] == DAY
        export(lake, spec_of(), "dlrm", DAYS[2])
        engine.poll()
        assert client.get("/health").json()["status"] == "ok"


def test_an_export_under_another_specification_is_refused(lake: Lake, tmp_path: Path) -> None:
    engine = started(lake, tmp_path, spec_of())
    export(lake, spec_of(dense=[]), "dlrm", DAYS[1])
    engine.poll()
    assert engine.ranking.version.version == DAY and engine.ranking.version.refused == {"schema": 1}
    empty = Lake.at(tmp_path / "other")
    export(empty, spec_of(dense=[]), "dlrm")
    with pytest.raises(NoModel, match=r"that can be loaded \(schema: export of"):
        ExportedModel(empty, spec_of(), "dlrm")


DAMAGES = (b"\xff\xfe not text \x00\x80", b"[]", b"{}", b'{"digest": []}', b"null", b"")


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_export_with_any_damaged_file_is_refused_and_the_one_before_served(damage: bytes, lake: Lake) -> None:
    spec = spec_of()
    export(lake, spec, "dlrm", DAYS[1], seed=7)
    files = [path for path in lake.partition("exported_models/dlrm", spec.name, DAYS[1]).rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "state.json", "spec.json"}
    for path in files:
        before = path.read_bytes()
        path.write_bytes(damage)
        version = ExportedModel(lake, spec, "dlrm").version
        assert version.version == DAY and str(version.refusal).startswith(("damaged", "schema")), path
        path.write_bytes(before)
    assert ExportedModel(lake, spec, "dlrm").version.version == DAYS[1]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_candidate_index_with_any_damaged_file_is_refused(damage: bytes, lake: Lake) -> None:
    spec = spec_of(
        ranking={"slice_minutes": 30, "popularity_minutes": [60, 20], "lambdarank": {"trees": 2, "min_leaf_rows": 5}}
    )
    index_day(spec, DAY, lake)
    files = [path for path in lake.partition("candidate_index", spec.name, DAY).rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "ranker.txt"}
    for path in files:
        before = path.read_bytes()
        path.write_bytes(damage)
        served = ServedRanker(lake, spec)
        assert served.ranker is None and str(served.refusal).startswith(("damaged", "schema")), path
        path.write_bytes(before)
    assert ServedRanker(lake, spec).ranker is not None


def test_an_error_of_the_service_is_not_reported_as_damage(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise TypeError("a wrong argument")

    monkeypatch.setattr(Bundle, "load", broken)
    with pytest.raises(TypeError, match="a wrong argument"):
        ExportedModel(lake, spec_of(), "dlrm")


def test_a_run_under_another_specification_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    receiver = Receiver(run.folder, "server", fingerprint=made_spec(dense=1).fingerprint)
    assert receiver.poll() is None and receiver.status.refused["schema"] == 1
    assert "was made under the specification" in str(receiver.status.refusal)
    assert Receiver(run.folder, "other", fingerprint=made_spec().fingerprint).poll() is not None


@pytest.mark.parametrize("where", ["dense", "tables"])
def test_a_delta_with_a_weight_that_is_not_finite_changes_nothing(tmp_path: Path, where: str) -> None:
    run = Run(tmp_path)
    receiver = Receiver(run.folder, "server")
    receiver.load()

    def spoil(state: TrainState) -> None:
        tables = [bags.weights() for bags in state.bags.values()]
        held = (
            next(of for of in tables if "b.weight" in of)["b.weight"] if where == "tables" else state.dense_parameters[0].data
        )
        held.fill_(float("inf"))

    run.advance(change=spoil)
    assert receiver.poll() is None and serves(receiver.bundle, run.history[0])
    assert receiver.status.refused == {"not_finite": 1} and where in str(receiver.status.refusal)


def test_a_run_that_is_older_than_the_export_is_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.advance(2)
    receiver = Receiver(run.folder, "server")
    assert receiver.poll(after=3_000_000) is None and receiver.status.version is None and not receiver.status.refused
    run.advance()
    applied = receiver.poll(after=3_000_000)
    assert applied is not None and applied.version == 3
    assert receiver.poll(after=9_000_000) is None and serves(receiver.bundle, run.history[3])
