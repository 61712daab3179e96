"""A loop whose processes are killed at random.

Its service answers except for its own restarts, every acknowledged event is in the log exactly once, training takes each
example once, and what is served in the end is what was published.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.loop.client import ServiceClient, Unavailable
from ml.loop.entry import CONTEXT_COLUMNS, ITEM, REQUEST, USER, loop_entry
from ml.loop.records import read_records
from ml.loop.settings import DATASET, ONLINE, Settings
from ml.online.arriving_position import day_in_progress, position_of, sealed_day
from ml.parquet import read_parquet
from ml.schema import EVENT_TIME
from ml.serving.rows import rank_rows
from ml.stages import online_checkpoints, online_updates
from ml.sync.folder import sync_folder
from ml.sync.receiver import Receiver
from orchestration.loop.folders import Folders
from orchestration.loop.running import Loop
from tests.helpers.paths import ROOT
from tests.helpers.trials import SEED, TRIALS

ROUNDS, PAUSE = TRIALS, (5.0, 15.0)
"""Each round kills each process once, with a pause in seconds before each kill."""
SETTLE_SECONDS = 600.0
"""Longest wait for something to come back. Spark takes 30 seconds of processor time to start, so minutes on a busy machine."""
MODEL = "dlrm"
SETTINGS = Settings(days=1000, rate=10, change_hours=None, arms=(ONLINE,), history_days=1, history_requests=300)
SPEC = DatasetSpec.model_validate(loop_entry(SETTINGS))


class Prober(threading.Thread):
    """Asks the service what it serves, and notes when it does not answer: begin and end of each question."""

    def __init__(self, client: ServiceClient) -> None:
        super().__init__(daemon=True)
        self._client, self._over = client, threading.Event()
        self.answered: list[tuple[float, float]] = []
        self.failed: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self._over.wait(0.1):
            began, noted = time.monotonic(), self.answered
            try:
                self._client.get("/version")
            except Unavailable:
                noted = self.failed
            noted.append((began, time.monotonic()))

    def finish(self) -> None:
        assert self.is_alive(), "the service has refused a question"
        self._over.set()
        self.join()


def kill_all_once(loop: Loop, draw: random.Random) -> list[tuple[str, float, float]]:
    """Kill each process once, in a random order. Returns name and time before and after each kill."""
    kills = []
    for process in draw.sample(loop.watcher.processes, len(loop.watcher.processes)):
        pause = time.monotonic() + draw.uniform(*PAUSE)
        watch_until(loop, lambda pause=pause, process=process: time.monotonic() > pause and process.pid is not None)
        before = time.monotonic()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        kills.append((process.name, before, time.monotonic()))
    return kills


def watch_until(loop: Loop, condition: Callable[[], bool]) -> None:
    """Watch the processes until a condition holds."""
    end = time.monotonic() + SETTLE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"did not come back; see {loop.folders.run / 'logs'}"
        loop.wait(0.1)


def stop_training(loop: Loop) -> None:
    """End all processes but the service, as Ctrl-C does."""
    for process in reversed([of for of in loop.watcher.processes if not of.name.startswith("serve")]):
        process.interrupt()
        process.end(time.monotonic() + SETTLE_SECONDS)


def served_until(folders: Folders) -> int:
    """The latest event that a served version was trained on."""
    return max((line["event_to"] or 0 for line in read_records(folders.run / "records", "served")), default=0)


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables([read_parquet(str(file)) for file in sorted(folder.glob("[!.]*.parquet"))])


def keys(table: pa.Table) -> Counter[tuple[str, int]]:
    return Counter(zip(table[REQUEST].to_pylist(), table[ITEM].to_pylist(), strict=True))


def check_answers(prober: Prober, kills: list[tuple[str, float, float]]) -> None:
    """Check that each failure is between a kill of the service and its return."""
    own = [(before, after) for name, before, after in kills if name == f"serve {ONLINE}"]
    assert prober.answered
    for began, ended in prober.failed:
        killed = [after for before, after in own if before <= ended]
        assert killed, f"the service did not answer at {began:.1f} s, and was not killed; kills: {kills}"
        assert not any(killed[-1] < answer < began for answer, _ in prober.answered), "it had come back"


def check_errors(folders: Folders) -> None:
    """Check that no request has raised an exception in the service."""
    log = (folders.run / "logs" / f"serve-{ONLINE}.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:5000]


def check_served(client: ServiceClient, folders: Folders) -> None:
    """Check that the service scores as a receiver does that has just loaded what was published."""
    receiver = Receiver(sync_folder(str(folders.run / ONLINE / "sync"), DATASET, MODEL), "checks")
    bundle, until = receiver.load(), time.monotonic() + SETTLE_SECONDS
    newest = receiver.status.run_id, str(receiver.status.version)
    while ((served := client.get("/version")["ranking"])["run_id"], served["version"]) != newest:
        assert time.monotonic() < until, f"{newest} is not served, but {served}"
        time.sleep(0.2)
    assert receiver.status.newest == receiver.status.version and served["source"] == "sync"
    assert not served["refused"] and not served["lag_seconds"], served
    examples = rows(folders.run / ONLINE / "stream" / DATASET / "examples").slice(0, 200).to_pylist()
    for user in examples[:3]:
        context = {name: user[name] for name in CONTEXT_COLUMNS}
        columns = [name for name in bundle.columns if name not in (*CONTEXT_COLUMNS, USER, EVENT_TIME)]
        asked = [{name: row[name] for name in columns} for row in examples]
        answer = client.post("/rank", {"user": user[USER], "context": context, "candidates": asked})
        expected = rank_rows(SPEC, bundle, user[USER], context, asked, user[EVENT_TIME])
        assert [item["score"] for item in answer["items"]] == pytest.approx([score for _, score, _ in expected], rel=1e-5)


def check_trained(folders: Folders) -> None:
    """Check that training has taken each example up to its position in the stream once."""
    lake, stream = Lake.at(folders.run / ONLINE), folders.run / ONLINE / "stream" / DATASET / "examples"
    sealed = sealed_day(lake, SPEC, MODEL)
    days, stage = lake.days(online_updates(MODEL), DATASET), online_checkpoints(MODEL)
    trained = sum(lake.manifest(online_updates(MODEL), DATASET, day)["metrics"]["rows"] for day in days)
    saved = [lake.manifest(stage, DATASET, name) for name in lake.days(stage, DATASET)]
    if day_in_progress(lake, SPEC, MODEL, sealed):
        newest = max(saved, key=lambda manifest: manifest["saved_at"])
        trained += sum(of["rows"] for of in newest["reader"]["slices"])
    at = position_of(lake, SPEC, MODEL)
    lengths = {file.name: len(read_parquet(str(file))) for file in stream.glob("[!.]*.parquet")}
    taken = sum(length for name, length in lengths.items() if name < at.file)
    assert trained == taken + (lengths[at.file] if at.is_complete else at.rows) > 0


def check_log(folders: Folders) -> None:
    """Check that the joined log has every acknowledged event exactly once."""
    command = [sys.executable, "-m", "orchestration.join", DATASET, "--ends"]
    environment = folders.environment(ONLINE) | {"EVERGREEN_SPARK_MASTER": "local[1]"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=2 * SETTLE_SECONDS)
    stream, records = folders.run / ONLINE / "stream" / DATASET, list(read_records(folders.run / "records", "acknowledged"))
    examples = rows(stream / "examples")
    found, clicked = keys(examples), keys(examples.filter(pa.array(examples["clicked"].to_numpy() == 1)))
    shown = [tuple(key) for line in records for key in line.get("impressions", ())]
    acted = {tuple(key) for line in records for key in line.get("actions", ())}
    assert len(shown) > 500 and acted
    assert len(shown) == len(set(shown))
    missing = [key for key in shown if found[key] != 1]
    assert not missing, f"{len(missing)} of {len(shown)} acknowledged impressions are missing or repeated"
    assert set(found.values()) == {1}
    without_example = [stream / name for name in ("unmatched", "late") if (stream / name).exists()]
    late = {key for folder in without_example for key in keys(rows(folder))}
    assert acted <= set(clicked) | late
    assert not (stream / "quarantine").exists()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(TRIALS == 1, reason="waits for restarts, up to a quarter of an hour on a busy machine; `make soak` runs it")
def test_a_loop_survives_kills_and_loses_and_repeats_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    folders, draw = Folders(tmp_path / "loop", SETTINGS), random.Random(SEED)
    folders.prepare_base()
    folders.prepare_run()
    loop = Loop(folders, threading.Event())
    client = ServiceClient(loop.ports[0], folders.run / ONLINE / "serving-token")
    try:
        loop.start()
        prober = Prober(ServiceClient(loop.ports[0], folders.run / ONLINE / "serving-token"))
        prober.start()
        kills = [kill for _ in range(ROUNDS) for kill in kill_all_once(loop, draw)]
        killed_at = loop.clock.now()
        watch_until(loop, lambda: served_until(folders) > killed_at)  # an event after the last kill is in the served weights
        prober.finish()
        restarts = loop.watcher.restarts
        stop_training(loop)
        check_served(client, folders)
    finally:
        loop.end()
    assert restarts == Counter(name for name, _, _ in kills), "a process has ended by itself"
    check_answers(prober, kills)
    check_errors(folders)
    check_trained(folders)
    check_log(folders)
