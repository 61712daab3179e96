"""A service that is stopped, killed or started again leaves no receiver for which the publisher keeps deltas."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from ml.serving.followed import FollowedModel, followed_models, receiver_name
from ml.sync.folder import Acknowledgement, SyncFolder, sync_folder
from tests.helpers.sync_runs import Run
from tests.helpers.training_days import made_spec


def test_a_killed_service_that_starts_again_is_the_same_receiver(tmp_path: Path) -> None:
    run, folder, fingerprint = Run(tmp_path / "sync"), tmp_path / "serving", made_spec().fingerprint
    first = FollowedModel(run.folder, receiver_name(folder)).receiver(None, fingerprint)
    first.load()  # and is then killed
    run.advance()
    run.snapshot()
    assert run.folder.versions(run.run_id, "delta") == [1], "the publisher keeps it for the receiver"

    again = FollowedModel(run.folder, receiver_name(folder)).receiver(None, fingerprint)
    again.load()
    assert [one.name for one in run.folder.acknowledgements()] == [first.name]
    run.advance()
    run.snapshot()
    assert run.folder.versions(run.run_id, "delta") == [2] and run.folder.versions(run.run_id, "snapshot") == [1, 2]


def test_services_of_two_folders_are_two_receivers(tmp_path: Path) -> None:
    names = {receiver_name(tmp_path / name) for name in ("a", "b", "a")}
    assert len(names) == 2 and all(name.startswith("serve-") for name in names)


def test_a_service_that_stops_is_no_receiver_any_more(tmp_path: Path) -> None:
    folder = SyncFolder.at(tmp_path / "sync")
    own, other = FollowedModel(folder, "serve-a"), FollowedModel(folder, "serve-b")
    for one in (own, other):
        folder.acknowledge(Acknowledgement(one.receiver_name, "run", 3, {}, time.time()))
    own.leave()
    own.leave()
    assert [one.name for one in folder.acknowledgements()] == ["serve-b"]


def test_ended_processes_that_named_themselves_are_dropped(tmp_path: Path) -> None:
    spec, host = made_spec(), socket.gethostname().replace(".", "-")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = [f"serve-{host}-{os.getpid()}", f"serve-elsewhere-{ended.pid}", "server-1"]
    folder = sync_folder(tmp_path / "sync", spec.name, "dlrm")
    for name in [f"serve-{host}-{ended.pid}", *kept]:
        folder.acknowledge(Acknowledgement(name, "run", 3, {}, time.time()))
    found = followed_models(spec, str(tmp_path / "sync"), tmp_path / "serving")
    assert set(found) == set(spec.models) and {one.receiver_name for one in found.values()} == {
        receiver_name(tmp_path / "serving")
    }
    assert [one.name for one in folder.acknowledgements()] == sorted(kept)
