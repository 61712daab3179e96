"""`make serve` as a process: its address, token and answers, and what a stop and a kill leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from ml.serving.announced import FILE, Announcement
from ml.serving.followed import receiver_name
from ml.sync.folder import Acknowledgement, sync_folder
from tests.helpers.kiosk_lake import kiosk_lake, spec_of
from tests.helpers.paths import ROOT
from tests.helpers.waiting import until


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home, catalog = tmp_path / "home", tmp_path / "catalog"
    catalog.mkdir()
    entry = spec_of().model_dump(mode="json", exclude_unset=True)
    (catalog / "kiosk.yaml").write_text(yaml.safe_dump(entry))
    kiosk_lake(home)
    return home


def environment(home: Path) -> dict[str, str]:
    own = {"EVERGREEN_HOME": str(home), "EVERGREEN_CATALOG": str(home.parent / "catalog"), "PYTHONPATH": str(ROOT)}
    return os.environ | own


@contextmanager
def running(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "orchestration.serve", "kiosk", "--port", "0", *options]
    with (home / "errors").open("a") as errors:
        process = subprocess.Popen(command, env=environment(home), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("Page:"))
        found = re.fullmatch(r"Page: (http://127\.0\.0\.1:\d+)/#(\w+)\n", line)
        assert found, line
        with httpx.Client(base_url=found[1], headers={"Authorization": f"Bearer {found[2]}"}, timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def stored(home: Path) -> list[int]:
    files = sorted((home / "stream" / "kiosk" / "examples").glob("journal-*.parquet"))
    return [item for file in files for item in pq.read_table(file)["item"].to_pylist()]


@pytest.mark.slow
def test_the_service_answers_and_stops_with_all_events_stored(home: Path) -> None:
    with running(home) as (process, client):
        token = home / "serving-token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert len(client.post("/recommend", json={"user": 3, "k": 4}).json()["items"]) == 4
        assert client.post("/events", json={"examples": [{"user": 3, "item": 7}]}).status_code == 202
        second = subprocess.run(process.args, env=environment(home), cwd=ROOT, text=True, capture_output=True)
        assert second.returncode == 1 and "Error: another service runs for kiosk" in second.stderr
        name = receiver_name(home / "serving" / "kiosk")
        synced = [sync_folder(home / "sync", "kiosk", model) for model in spec_of().models]
        for folder in synced:
            folder.acknowledge(Acknowledgement(name, "run", 0, {}, time.time()))
        announced = home / "serving" / "kiosk" / FILE
        instance = client.get("/health").json()["instance"]
        assert Announcement.read(announced.parent) == Announcement([str(client.base_url).rstrip("/")], str(token), instance)
        assert announced.stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0
    assert stored(home) == [7] and not any(folder.is_registered(name) for folder in synced) and not announced.exists()


@pytest.mark.slow
def test_a_killed_service_loses_no_event_that_it_acknowledged(home: Path) -> None:
    sent = []
    for run in range(3):
        with running(home) as (process, client):
            for at in range(20):
                assert client.post("/events", json={"examples": [{"item": 100 * run + at}]}).status_code == 202
                sent.append(100 * run + at)
            process.kill()
    with running(home):
        pass
    assert sorted(stored(home)) == sent


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_service_whose_address_cannot_be_written_answers(home: Path, processes: str) -> None:
    announced = home / "serving" / "kiosk" / FILE
    announced.mkdir(parents=True)  # a folder in place of the file
    with running(home, "--processes", processes) as (process, client):
        assert client.get("/version").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0
    errors = (home / "errors").read_text()
    assert "its address cannot be written: [Errno 21] Is a directory" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_a_stop_as_soon_as_the_address_is_written_withdraws_it(home: Path) -> None:
    announced = home / "serving" / "kiosk" / FILE
    command = [sys.executable, "-m", "orchestration.serve", "kiosk", "--port", "0"]
    with subprocess.Popen(command, env=environment(home), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        until(announced.exists)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=240)
    assert not announced.exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_without_a_model_the_command_names_the_demo(home: Path, processes: str) -> None:
    env = os.environ | {"EVERGREEN_HOME": str(home.parent / "empty"), "PYTHONPATH": str(ROOT)}
    env["EVERGREEN_CATALOG"] = str(home.parent / "catalog")
    command = [sys.executable, "-m", "orchestration.serve", "kiosk", "--port", "0", "--processes", processes]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 1 and "run `make demo DATASET=kiosk` first" in done.stderr
