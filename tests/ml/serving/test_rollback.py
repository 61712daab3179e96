"""Rollback: a pinned model serves an earlier day, a running service follows, and only removing the pin goes forward."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from upath import UPath

from ml.days import day_bounds
from ml.lake import Lake
from ml.retrieval.day import index_day
from ml.serving.models import ExportedModel, NewestModel
from ml.serving.pins import Pins, WrongPin
from ml.serving.ranker import ServedRanker
from ml.serving.rollback import NothingToServe, Rollback, roll_back
from ml.serving.start import start
from ml.sync.receiver import Receiver
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, export, kiosk_lake, put_raw, raw_rows, spec_of
from tests.helpers.sync_runs import Run
from tests.helpers.training_days import made_spec
from tests.ml.serving.test_models import export as export_run

SPEC = spec_of()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Exports of two days."""
    lake = kiosk_lake(tmp_path / "lake")
    put_raw(lake, SPEC, raw_rows(), DAYS[1])
    put_raw(lake, SPEC, raw_rows(), DAYS[2])
    export(lake, SPEC, "dlrm", DAYS[1], seed=1)
    return lake


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


def test_a_running_service_follows_and_stays_until_it_is_told_to_go_forward(lake: Lake, pins: Pins, tmp_path: Path) -> None:
    engine = start(SPEC, lake, UPath(tmp_path / "stream"), pins=pins)
    assert engine.ranking.version.version == DAYS[1]
    assert roll_back(lake, SPEC, pins, "dlrm") == Rollback("dlrm", DAYS[1], DAYS[0])
    engine.poll()
    version = engine.ranking.version
    assert (version.version, version.pinned, version.refusal) == (DAYS[0], DAYS[0], None)
    assert engine.statuses == {"dlrm": "pinned", "two_tower": "current"}
    export(lake, SPEC, "dlrm", DAYS[2], seed=2)
    engine.poll()
    assert engine.ranking.version.version == DAYS[0], "a new export is not served by itself"
    assert start(SPEC, lake, UPath(tmp_path / "stream"), pins=pins).ranking.version.version == DAYS[0], "also after a restart"
    assert pins.unpin("dlrm") and not pins.unpin("dlrm")
    engine.poll()
    assert (engine.ranking.version.version, engine.ranking.version.pinned) == (DAYS[2], None)


def test_each_rollback_goes_one_export_further_and_the_first_one_is_the_end(lake: Lake, pins: Pins) -> None:
    export(lake, SPEC, "dlrm", DAYS[2])
    assert [roll_back(lake, SPEC, pins, "dlrm").day for _ in range(2)] == [DAYS[1], DAYS[0]]
    with pytest.raises(NothingToServe, match=f"kiosk/dlrm serves {DAYS[0]}, and there is no earlier day"):
        roll_back(lake, SPEC, pins, "dlrm")
    assert pins.day_of("dlrm") == DAYS[0]
    assert roll_back(lake, SPEC, pins, "dlrm", to=DAYS[1]).day == DAYS[1]


def test_a_version_that_cannot_be_served_is_never_pinned(lake: Lake, pins: Pins) -> None:
    export(lake, SPEC, "dlrm", DAYS[2])
    export(lake, SPEC, "dlrm", DAYS[1], change=float("nan"))
    assert roll_back(lake, SPEC, pins, "dlrm").day == DAYS[0], "the day before the damaged one"
    for day, why in ((DAYS[1], "not a finite number"), ("2025-12-31", "is not in the lake")):
        with pytest.raises(NothingToServe, match=why):
            roll_back(lake, SPEC, pins, "dlrm", to=day)
    assert pins.day_of("dlrm") == DAYS[0]


def test_online_training_is_left_for_the_newest_export_and_followed_again(tmp_path: Path, pins: Pins) -> None:
    spec, lake, run = made_spec(), Lake.at(tmp_path / "lake"), Run(tmp_path / "sync")
    first = spec.days()[0]
    export_run(lake, first, run)
    end = day_bounds(first, spec.zone)[1]
    model = NewestModel(ExportedModel(lake, spec, "dlrm", pins=pins), Receiver(run.folder, "server"), spec, "dlrm")
    run.train()
    run.publisher.publish((end, end + 1))
    assert model.poll() and model.version.source == "sync"
    assert roll_back(lake, spec, pins, "dlrm", run.folder) == Rollback("dlrm", "sync", first)
    assert model.poll() and (model.version.source, model.version.version, model.version.pinned) == ("lake", first, first)
    run.train()
    run.publisher.publish((end + 1, end + 2))
    assert not model.poll() and model.version.source == "lake"
    pins.unpin("dlrm")
    assert model.poll() and (model.version.source, model.version.version) == ("sync", "2")


def test_a_damaged_pin_is_reported_and_changes_nothing(lake: Lake, pins: Pins) -> None:
    model = ExportedModel(lake, SPEC, "dlrm", pins=pins)
    pins.pin("dlrm", DAYS[0])
    (pins.folder / "dlrm.json").write_text('{"day": "yesterday"}')
    assert not model.poll() and model.version.version == DAYS[1] and "is not a pin" in str(model.version.refusal)
    with pytest.raises(WrongPin, match=r"dlrm\.json"):
        roll_back(lake, SPEC, pins, "dlrm")
    pins.unpin("dlrm")
    assert not model.poll() and model.version.refusal is None


def test_a_lambdarank_is_rolled_back_too(lake: Lake, pins: Pins) -> None:
    spec = spec_of(ranking={"slice_minutes": 30, "lambdarank": {"trees": 3, "min_leaf_rows": 5}})
    index_day(spec, DAY, lake)
    first, second = (Path(lake.partition("candidate_index", spec.name, day).path) for day in DAYS[:2])
    shutil.copytree(first, second)
    served = ServedRanker(lake, spec, pins)
    assert served.current and served.current.day == DAYS[1]
    assert roll_back(lake, spec, pins, "lambdarank").day == DAY
    assert served.poll() and served.current.day == DAY and served.pinned == DAY
    pins.unpin("lambdarank")
    assert served.poll() and served.current.day == DAYS[1] and served.refusal is None
