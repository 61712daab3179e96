"""`make rollback` beside a running service, and its exit codes."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from ml.evaluation.history import ENTRY
from ml.lake import Lake
from orchestration.rollback import main
from tests.helpers import champions
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import experiment_lake, export, put_raw, raw_rows, spec_of
from tests.orchestration.test_serve import home, running

__all__ = ["home"]


def rolled_back(home: Path, *words: str, code: int = 0) -> str:
    env = {"EVERGREEN_HOME": str(home), "EVERGREEN_CATALOG": str(home.parent / "catalog")}
    done = CliRunner(env=env).invoke(main, ["kiosk", *words])
    assert done.exit_code == code, done.output
    return done.output


def wait_for(client: httpx.Client, day: str) -> None:
    until = time.monotonic() + 60
    while (found := client.post("/recommend", json={"user": 3}).json()["version"]) != day:
        assert time.monotonic() < until, found
        time.sleep(0.1)


@pytest.mark.slow
def test_a_running_service_follows(home: Path) -> None:
    lake, spec = Lake.at(home), spec_of()
    put_raw(lake, spec, raw_rows(), DAYS[1])
    export(lake, spec, "dlrm", DAYS[1], seed=1)
    with running(home) as (_, client):
        wait_for(client, DAYS[1])
        assert f"kiosk/dlrm: {DAYS[0]} is served instead of {DAYS[1]}" in rolled_back(home)
        wait_for(client, DAYS[0])
        assert client.get("/health").json()["models"]["dlrm"] == "pinned"
        rolled_back(home, "--forward")
        wait_for(client, DAYS[1])


def test_the_default_is_the_model_that_ranks(tmp_path: Path) -> None:
    home, catalog = tmp_path / "home", tmp_path / "catalog"
    catalog.mkdir()
    entry = champions.SPEC.model_dump(mode="json", exclude_unset=True)
    (catalog / "kiosk.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))  # dlrm is the first model
    lake = experiment_lake(home)
    for model in champions.SPEC.models:
        export(lake, champions.SPEC, model, DAYS[1], seed=3)
    rolled_back(home)
    champions.make_champion(lake, "deepfm")
    assert "kiosk/dlrm: the newest version is served\n" in rolled_back(home, "--forward"), "which ranked as it was pinned"
    done = rolled_back(home)
    assert f"kiosk/deepfm: {DAYS[0]} is served instead of {DAYS[1]}" in done
    assert "deepfm is meant, the champion of the reports" in done
    assert "is meant" not in rolled_back(home, "--model", "deepfm", "--forward")
    report = lake.partition("evaluation_reports", "kiosk", champions.FIRST_REPORT) / ENTRY
    report.write_text("[]")
    assert "materialise the report of the day again; or name a model with MODEL=" in rolled_back(home, code=1)
    report.unlink()
    assert f"{report}'; or name a model with MODEL=" in rolled_back(home, code=1)


def test_what_cannot_be_done_is_said_with_its_code(home: Path) -> None:
    assert "there is no earlier day" in rolled_back(home, code=1)
    assert "is not in the lake" in rolled_back(home, "--to", DAYS[2], code=1)
    assert "it has dlrm, two_tower" in rolled_back(home, "--model", "deepfm", code=2)
    assert "either --to or --forward" in rolled_back(home, "--forward", "--to", DAYS[0], code=2)
    assert "the newest version is served, as before" in rolled_back(home, "--forward")
