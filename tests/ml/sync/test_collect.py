"""What is deleted: packages that no receiver needs, their locks, and the folders of earlier runs."""

from __future__ import annotations

import time
from pathlib import Path

from ml.sync.collect import collect
from ml.sync.folder import Acknowledgement, SyncFolder
from tests.ml.sync.test_lag import publish

TTL = 3600.0


def locks(root: Path) -> list[str]:
    return sorted(f"{path.parent.parent.name}/{path.stem.lstrip('0') or 0}" for path in root.rglob("*.lock"))


def test_nothing_is_left_of_packages_that_were_deleted(tmp_path: Path) -> None:
    folder = SyncFolder.at(tmp_path)
    publish(folder, "snapshot", 0, 1.0)
    for version in (1, 2, 3):
        publish(folder, "delta", version, 1.0)
    publish(folder, "snapshot", 2, 1.0)
    folder.acknowledge(Acknowledgement("server", "a1", 1, {}, time.time()))
    assert collect(folder, TTL) == 0
    folder.acknowledge(Acknowledgement("server", "a1", 3, {}, time.time()))
    assert collect(folder, TTL) == 3
    assert folder.versions("a1", "delta") == [3] and folder.versions("a1", "snapshot") == [2]
    assert locks(tmp_path / "a1") == ["deltas/3", "snapshots/2"]
    publish(folder, "snapshot", 0, 1.0, "b2")
    assert collect(folder, TTL) == 2
    assert folder.runs() == ["b2"] and not (tmp_path / "a1").exists()


def test_a_run_to_which_a_process_writes_is_kept(tmp_path: Path) -> None:
    folder = SyncFolder.at(tmp_path)
    publish(folder, "snapshot", 0, 1.0)
    with folder._lake.write("b2", "snapshots", "0000000000") as staging:
        assert collect(folder, TTL) == 0
        (staging / "manifest.json").write_text("{}")
    assert folder.runs() == ["a1", "b2"]
