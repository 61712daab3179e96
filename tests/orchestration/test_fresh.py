"""A replay can begin in the middle of a log: the first day starts from nothing, and later days continue from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from orchestration.replay import DayFailed, main, replay
from tests.helpers.paths import ROOT

DAYS = ["2026-01-03", "2026-01-04", "2026-01-05"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / "dagster").mkdir()
    for name, value in {
        "EVERGREEN_HOME": tmp_path,
        "EVERGREEN_SPARK_MASTER": "none",
        "DAGSTER_HOME": tmp_path,
        "EVERGREEN_DAGSTER": tmp_path / "dagster",
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("EVERGREEN_LAKE", "EVERGREEN_LANDING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
def test_a_replay_begins_in_the_middle_of_a_log(home: Path, catalog: dict[str, DatasetSpec]) -> None:
    synthetic = catalog["synthetic"]
    assert synthetic.simulation
    small = synthetic.simulation.model_copy(update={"impressions_per_day": 2000})
    spec = synthetic.model_copy(update={"simulation": small})
    with pytest.raises(DayFailed, match=r"tuned_models/dlrm of 2026-01-02 is not in the lake"):
        replay(spec, DAYS[:1])
    assert replay(spec, DAYS[:2], fresh=True) == DAYS[:2]
    assert replay(spec, DAYS, fresh=True) == DAYS[2:]
    lake = Lake.at(home)
    lineage = [lake.manifest("tuned_models/dlrm", "synthetic", day)["lineage"] for day in DAYS]
    assert [f"tuned_models/dlrm/{before}" in of for before, of in zip(["2026-01-02", *DAYS], lineage, strict=False)] == [
        False,
        True,
        True,
    ]
    assert replay(spec, DAYS) == []
    assert replay(spec, DAYS[1:2], fresh=True) == DAYS[1:2]  # it was made from the day before
    assert replay(spec, DAYS) == DAYS[2:]


def test_a_fresh_start_needs_its_day() -> None:
    done = CliRunner().invoke(main, ["synthetic", "--fresh"])
    assert done.exit_code == 2 and "--fresh needs --from DAY" in done.output
