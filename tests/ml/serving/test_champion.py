"""The champion of the reports ranks: a challenger does not, whatever its exports, and a running service follows the reports."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.document import CatalogError
from ml.days import day_bounds
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.evaluation.history import ENTRY
from ml.give_way import set_wait
from ml.http.server import serving
from ml.lake import MANIFEST, Lake, StalePartition
from ml.logs.read import raw_table
from ml.serving import champion
from ml.serving.app import create_serving_app
from ml.serving.champion import ChampionModel, champion_of
from ml.serving.engine import Engine
from ml.serving.followed import followed_models
from ml.serving.models import ExportedModel, NoModel, ServedModel
from ml.serving.pins import Pins
from ml.serving.processes.shared_models import AttachedModels, SharedModels
from ml.serving.rollback import roll_back
from ml.serving.start import clock_of, load_models, start
from ml.sync.folder import Acknowledgement, sync_folder
from tests.helpers.champions import FIRST_REPORT, SPEC, make_champion, write_report
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, HOUR, experiment_lake, experiment_spec, export, put_raw, spec_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = experiment_lake(tmp_path / "lake")
    put_raw(lake, SPEC, raw_table(lake, SPEC.name, DAY), DAYS[1])
    return lake


@pytest.fixture(autouse=True)
def each_poll_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champion, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(champion, "RETRY_SECONDS", 0.0)


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


def started(lake: Lake, tmp_path: Path, pins: Pins | None = None, model: str | None = None) -> Engine:
    return start(SPEC, lake, UPath(tmp_path / "stream"), pins=pins, model=model)


def look_twice(engine: Engine) -> None:
    engine.poll()
    engine.poll()


def ranked_by(engine: Engine) -> tuple[str, str]:
    return engine.ranking.version.model, engine.ranking.version.version


def test_a_running_service_serves_what_the_reports_make_champion(
    lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = started(lake, tmp_path)
    assert ranked_by(engine) == ("dlrm", DAY), "without a report, the first model ranks"
    export(lake, SPEC, "deepfm", DAYS[1])
    write_report(lake, FIRST_REPORT, dlrm=0.7, deepfm=0.75)
    engine.poll()
    assert ranked_by(engine) == ("dlrm", DAY), "a challenger with a newer export does not rank"
    with serving(create_serving_app(engine, None)) as url, httpx.Client(base_url=url, timeout=30) as client:
        with caplog.at_level(logging.WARNING, "evergreen"):
            make_champion(lake, "deepfm")
            look_twice(engine)
        assert caplog.messages.count("kiosk: deepfm ranks from now on, instead of dlrm") == 1
        answer = client.post("/recommend", json={"user": 3, "explain": True}).json()
        assert (answer["model"], answer["version"]) == ("deepfm", DAYS[1])
        assert client.post("/rank", json={"user": 3, "candidates": [1, 2]}).json()["model"] == "deepfm"
        assert client.get("/health").json()["models"] == {"deepfm": "current"}
        assert 'evergreen_model_refused{model="deepfm"} 0.0' in client.get("/metrics").text
    assert ranked_by(started(lake, tmp_path)) == ("deepfm", DAYS[1]), "also after a restart"
    export(lake, SPEC, "deepfm", DAYS[2], seed=3)
    engine.poll()
    assert ranked_by(engine) == ("deepfm", DAYS[2])
    make_champion(lake, "dlrm")
    look_twice(engine)
    assert ranked_by(engine) == ("dlrm", DAY)


@pytest.mark.parametrize("has_first_model", [True, False], ids=["old export", "no export"])
def test_time_and_events_go_on_from_the_newest_export(lake: Lake, tmp_path: Path, has_first_model: bool) -> None:
    rows = raw_table(lake, SPEC.name, DAY)
    later = pa.array(rows["event_time"].to_numpy() + 48 * HOUR)
    put_raw(lake, SPEC, rows.set_column(rows.column_names.index("event_time"), "event_time", later), DAYS[2])
    export(lake, SPEC, "deepfm", DAYS[2])
    make_champion(lake, "deepfm")
    if not has_first_model:
        lake.discard("exported_models/dlrm", SPEC.name, DAY)
    engine, end = started(lake, tmp_path), day_bounds(DAYS[2], SPEC.zone)[1]
    assert engine.recommender is not None and ranked_by(engine) == ("deepfm", DAYS[2])
    assert end <= engine.clock.now() < end + HOUR and end <= clock_of(SPEC, lake).now()
    assert set(engine.recommender.source.live.items["item"].to_pylist()) == set(rows["item"].to_pylist())
    if has_first_model:
        assert clock_of(SPEC, lake, "dlrm").now() < end, "a model that is named has its own time"


def test_a_named_model_and_an_experiment_come_before_the_champion(lake: Lake, tmp_path: Path) -> None:
    make_champion(lake, "deepfm")
    assert ranked_by(started(lake, tmp_path, model="dlrm")) == ("dlrm", DAY)
    assert ranked_by(start(experiment_spec(), lake, UPath(tmp_path / "other"))) == ("dlrm", DAY)


def test_a_champion_without_an_export_is_refused_until_it_has_one(lake: Lake, tmp_path: Path) -> None:
    lake.discard("exported_models/deepfm", SPEC.name, DAY)
    make_champion(lake, "deepfm")
    engine = started(lake, tmp_path)
    for _ in range(2):
        version = engine.ranking.version
        assert ranked_by(engine) == ("dlrm", DAY) and engine.statuses == {"dlrm": "refused"}
        assert "missing: champion deepfm: kiosk has no export of deepfm" in str(version.refusal)
        engine.poll()
    export(lake, SPEC, "deepfm", DAY)
    engine.poll()
    assert ranked_by(engine) == ("deepfm", DAY) and engine.statuses == {"deepfm": "current"}
    for model in SPEC.models:
        lake.discard(f"exported_models/{model}", SPEC.name, DAY)
    with pytest.raises(NoModel, match="kiosk has no export of dlrm"):
        started(lake, tmp_path)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("schema", StalePartition("the stored recipe is not valid")),
        ("damaged", CatalogError("the declared recipe is not valid")),
        ("folder", PermissionError("the folder cannot be read")),
        ("missing", FileNotFoundError("a file was removed")),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_champion_that_cannot_be_loaded_is_refused_and_tried_again(
    lake: Lake, pins: Pins, monkeypatch: pytest.MonkeyPatch, reason: str, error: Exception
) -> None:
    monkeypatch.setattr(champion, "RETRY_SECONDS", 3600.0)
    make_champion(lake, "deepfm")
    errors = [error]

    def load(name: str) -> ServedModel:
        if name == "deepfm" and errors:
            raise errors.pop()
        return ExportedModel(lake, SPEC, name)

    model, text = ChampionModel(SPEC, lake, load, lambda _: None, pins), f"{reason}: champion deepfm: {error}"
    assert (model.version.model, model.version.refusal) == ("dlrm", text)
    pin = pins.folder / "dlrm.json"
    pin.parent.mkdir()
    pin.write_text("[")
    assert not model.poll() and "is not a pin" in str(model.version.refusal)
    pin.unlink()
    assert not model.poll() and (model.version.model, model.version.refusal) == ("dlrm", text), "with its own reason again"
    monkeypatch.setattr(champion, "RETRY_SECONDS", 0.0)
    assert model.poll() and (model.version.model, model.version.refusal) == ("deepfm", None)


def test_an_older_export_of_the_champion_ranks_if_the_newest_is_damaged(lake: Lake, tmp_path: Path) -> None:
    export(lake, SPEC, "deepfm", DAYS[1])
    (lake.partition("exported_models/deepfm", SPEC.name, DAYS[1]) / MANIFEST).write_text("{")
    engine = started(lake, tmp_path)
    make_champion(lake, "deepfm")
    look_twice(engine)
    assert ranked_by(engine) == ranked_by(started(lake, tmp_path)) == ("deepfm", DAY)
    assert engine.statuses == {"deepfm": "refused"}


def test_two_looks_in_succession_decide(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_champion(lake, "deepfm")
    engine = started(lake, tmp_path)
    lake.discard("evaluation_reports", SPEC.name, FIRST_REPORT)  # as while it is replaced on an object store
    engine.poll()
    assert champion_of(SPEC, lake) == "dlrm" and ranked_by(engine)[0] == "deepfm"
    write_report(lake, FIRST_REPORT, dlrm=0.7, deepfm=0.75)
    look_twice(engine)
    assert ranked_by(engine)[0] == "deepfm"
    write_report(lake, FIRST_REPORT, dlrm=0.75, deepfm=0.7)  # an earlier day is reported again
    look_twice(engine)
    assert ranked_by(engine)[0] == "dlrm"
    make_champion(lake, "deepfm")
    monkeypatch.setattr(champion, "LOOK_SECONDS", 3600.0)
    look_twice(engine)
    assert ranked_by(engine)[0] == "dlrm", "it is not yet time to look"


def test_looking_and_loading_give_way_to_requests(lake: Lake) -> None:
    model, done = load_models(SPEC, lake)["dlrm"], list[str]()
    make_champion(lake, "deepfm")
    set_wait(lambda: done.append(model.version.model))
    try:
        model.poll()
        model.poll()
    finally:
        set_wait(None)
    assert done == ["dlrm"] * 3 and model.version.model == "deepfm", "before two looks and before the model is loaded"


def test_a_damaged_report_leaves_the_model_that_ranks(lake: Lake, tmp_path: Path) -> None:
    make_champion(lake, "deepfm")
    engine, newest = started(lake, tmp_path), lake.days("evaluation_reports", SPEC.name)[-1]
    path = lake.partition("evaluation_reports", SPEC.name, newest) / ENTRY
    whole = path.read_bytes()
    for damage in (b"\xff", b"[]", b"{}"):
        path.write_bytes(damage)
        make_champion(lake, "dlrm")
        engine.poll()
        assert ranked_by(engine)[0] == "deepfm" and str(path) in str(engine.ranking.version.refusal)
        again = started(lake, tmp_path)
        assert ranked_by(again)[0] == "dlrm" and again.statuses == {"dlrm": "refused"}, "the first model ranks"
    path.write_bytes(whole)
    look_twice(engine)
    assert ranked_by(engine)[0] == "dlrm" and engine.statuses == {"dlrm": "current"}


def test_a_pinned_model_ranks_in_place_of_the_champion(lake: Lake, tmp_path: Path, pins: Pins) -> None:
    export(lake, SPEC, "dlrm", DAYS[1], seed=5)
    engine = started(lake, tmp_path, pins)
    roll_back(lake, SPEC, pins, "dlrm")
    make_champion(lake, "deepfm")
    look_twice(engine)
    assert ranked_by(engine) == ranked_by(started(lake, tmp_path, pins)) == ("dlrm", DAY)
    pins.pin("deepfm", DAY)
    engine.poll()
    assert ranked_by(engine) == ("deepfm", DAY), "the champion among the pinned models"
    pins.unpin("deepfm")
    pins.unpin("dlrm")
    make_champion(lake, "dlrm")
    look_twice(engine)
    assert ranked_by(engine) == ("dlrm", DAYS[1])


def test_a_service_is_no_receiver_of_a_model_that_was_champion(lake: Lake, tmp_path: Path) -> None:
    synced = followed_models(SPEC, str(tmp_path / "sync"), tmp_path / "serving")
    models = load_models(SPEC, lake, synced)
    folder, name = sync_folder(tmp_path / "sync", SPEC.name, "dlrm"), synced["dlrm"].receiver_name
    folder.acknowledge(Acknowledgement(name, "run", 0, {}, time.time()))
    make_champion(lake, "deepfm")
    assert not models["dlrm"].poll() and models["dlrm"].poll() and models["dlrm"].version.model == "deepfm"
    assert not folder.is_registered(name)


def test_workers_follow_the_champion(lake: Lake) -> None:
    models, epochs = load_models(SPEC, lake), SharedEpochs.create(2)
    shared = SharedModels(models, epochs)
    worker = AttachedModels(shared.handle, SharedEpochs.attach(epochs.handle, process=1))
    make_champion(lake, "deepfm")
    assert not models["dlrm"].poll() and models["dlrm"].poll()
    shared.publish()
    worker.refresh()
    own, other = models["dlrm"], worker.by_name["dlrm"]
    assert other.version == own.version and other.version.model == "deepfm"
    rows = pd.DataFrame([dict.fromkeys(own.bundle.columns)] * 2).assign(user=[3, 4], item=[1, 2])
    assert np.array_equal(own.bundle.predict(rows), other.bundle.predict(rows))


def test_only_models_that_rank_are_champions_of_a_service(lake: Lake) -> None:
    make_champion(lake, "deepfm")
    assert champion_of(SPEC, lake) == "deepfm"
    assert champion_of(SPEC, lake, until=lake.days("evaluation_reports", SPEC.name)[-1]) == "dlrm"
    assert champion_of(spec_of(), lake) is None, "one model ranks, beside two towers"
    others = SPEC.model_copy(update={"models": {name: SPEC.models["dlrm"] for name in ("dlrm", "dcn_v2")}})
    assert champion_of(others, lake) is None, "the champion was removed from the entry"
