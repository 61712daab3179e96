"""The lag of receivers, from what they have acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.sync.folder import Acknowledgement, SyncFolder
from ml.sync.lag import serving_lag
from ml.sync.manifest import Kind, PackageManifest


def publish(folder: SyncFolder, kind: Kind, version: int, at: float, run_id: str = "a1") -> None:
    manifest = PackageManifest(
        **{"kind": kind, "version": version, "base_version": version - 1 if kind == "delta" else None, "run_id": run_id},
        **{"dataset": "shop", "model": "dlrm", "steps": {}, "row_format": "float32", "has_dense": True},
        files={},
        published_at=at,
    )
    folder.publish(manifest, {})


def test_lag_begins_with_the_first_publication_that_is_not_served(tmp_path: Path) -> None:
    folder = SyncFolder.at(tmp_path)
    assert serving_lag(folder) == []
    publish(folder, "snapshot", 0, 100.0)
    for version in (1, 2, 3):
        publish(folder, "delta", version, 100.0 + version)
    for name, version in (("behind", 1), ("current", 3), ("ours", 0)):
        folder.acknowledge(Acknowledgement(name, "a1", version, {}, 104.0))
    found = {one.name: (one.version, one.seconds, one.silent_seconds) for one in serving_lag(folder, 110.0, ignore=["ours"])}
    assert found == {"behind": (1, pytest.approx(8.0), 6.0), "current": (3, 0.0, 6.0)}


def test_a_receiver_of_an_earlier_run_lags_since_the_first_snapshot_of_the_new_run(tmp_path: Path) -> None:
    folder = SyncFolder.at(tmp_path)
    folder.acknowledge(Acknowledgement("server", "a1", 7, {}, 90.0))
    publish(folder, "snapshot", 0, 100.0, "b2")
    (one,) = serving_lag(folder, 130.0)
    assert (one.run_id, one.seconds) == ("a1", 30.0)
