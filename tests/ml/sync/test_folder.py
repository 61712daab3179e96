"""The folder of packages: atomic publication, conflicts, damage, `head.json`, and acknowledgements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from upath import UPath

from ml.sync.folder import HEAD, Acknowledgement, Head, RunConflict, SyncFolder, sync_folder
from ml.sync.manifest import DamagedPackage, PackageManifest, read_manifest


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncFolder]:
    root = str(tmp_path / "sync") if request.param == "local" else f"memory://sync-{uuid4().hex}"
    yield SyncFolder.at(root)


def package(kind: str = "snapshot", version: int = 0, run_id: str = "a1", **keys: object) -> PackageManifest:
    base = None if kind == "snapshot" else version - 1
    known = {"dataset": "shop", "model": "dlrm", "steps": {}, "row_format": "float32", "has_dense": True, "files": {}}
    whole = {"kind": kind, "version": version, "run_id": run_id, "base_version": base, "published_at": 1.0}
    return PackageManifest.model_validate(known | whole | keys)


def test_a_package_is_read_as_it_was_published(folder: SyncFolder) -> None:
    assert folder.head() is None and folder.runs() == []
    written = folder.publish(package(), {"a": b"one", "b": b"three"})
    assert written.nbytes == 8 and folder.manifest("a1", "snapshot", 0) == written
    assert [folder.read(written, name) for name in written.files] == [b"one", b"three"]
    assert folder.head() == Head("a1", 0, 0) and folder.runs() == ["a1"]


def test_head_follows_deltas_and_snapshots_and_never_goes_back(folder: SyncFolder) -> None:
    for of in (package(), package("delta", 1), package("delta", 2), package("snapshot", 2), package("delta", 3)):
        folder.publish(of, {})
    assert folder.head() == Head("a1", 3, 2)
    folder.publish(package("delta", 1), {})
    assert folder.head() == Head("a1", 3, 2), "a version that was published again is not news"
    assert folder.versions("a1", "delta") == [1, 2, 3] and folder.versions("a1", "snapshot") == [0, 2]
    folder.publish(package(run_id="b2"), {})
    assert folder.head() == Head("b2", 0, 0)


def test_a_run_begins_with_a_snapshot(folder: SyncFolder) -> None:
    folder.publish(package(), {})
    with pytest.raises(ValueError, match=r"delta 1 of run b2 .* begins with a snapshot"):
        folder.publish(package("delta", 1, "b2"), {})
    assert folder.head() == Head("a1", 0, 0)


def test_the_same_version_is_published_once(folder: SyncFolder) -> None:
    first = folder.publish(package(), {"a": b"one"})
    assert folder.publish(package(published_at=9.0), {"a": b"one"}) == first
    with pytest.raises(RunConflict, match=r"snapshot 0 of run a1 \(shop/dlrm\) .* other contents.*another run id"):
        folder.publish(package(), {"a": b"two"})
    with pytest.raises(RunConflict):
        folder.publish(package(event_to=5), {"a": b"one"})
    assert folder.read(first, "a") == b"one"


def test_a_function_may_write_the_files(folder: SyncFolder) -> None:
    def write(place: UPath) -> Mapping[str, str]:
        (place / "a").write_bytes(b"one")
        return {"a": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}

    assert folder.read(folder.publish(package(), write), "a") == b"one"
    with pytest.raises(OSError, match="disk"):
        folder.publish(package("delta", 1), _fails)
    assert not folder.has("a1", "delta", 1) and folder.head() == Head("a1", 0, 0)


def _fails(place: UPath) -> Mapping[str, str]:
    raise OSError("the disk is full")


def test_damage_is_refused_and_named(folder: SyncFolder) -> None:
    written = folder.publish(package(), {"a": b"one", "b": b"two"})
    place = folder.package("a1", "snapshot", 0)
    (place / "a").write_bytes(b"0ne")
    with pytest.raises(DamagedPackage, match=r"snapshot 0 of run a1.*not the file that was published"):
        folder.read(written, "a")
    (place / "b").unlink()
    with pytest.raises(DamagedPackage, match="is missing"):
        folder.read(written, "b")
    for text in (b"", b"{}", b"\xff", (place / "manifest.json").read_bytes().replace(b'"format": 1', b'"format": 2')):
        (place / "manifest.json").write_bytes(text)
        with pytest.raises(DamagedPackage, match=r"manifest\.json"):
            folder.manifest("a1", "snapshot", 0)
    with pytest.raises(FileNotFoundError):
        folder.manifest("a1", "snapshot", 7)


def test_a_manifest_at_another_place_is_refused(folder: SyncFolder) -> None:
    folder.publish(package(), {})
    folder.publish(package("snapshot", 3), {})
    text = (folder.package("a1", "snapshot", 3) / "manifest.json").read_bytes()
    (folder.package("a1", "snapshot", 0) / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedPackage, match="describes the snapshot 3"):
        folder.manifest("a1", "snapshot", 0)


def test_a_damaged_head_is_refused_and_the_next_package_replaces_it(folder: SyncFolder) -> None:
    folder.publish(package(), {})
    for text in ("", "[]", '{"run_id": "a1"}'):
        (folder.root / HEAD).write_text(text)
        with pytest.raises(DamagedPackage, match=HEAD):
            folder.head()
        folder.publish(package("delta", 1), {})
        assert folder.head() == Head("a1", 1, 0)


def test_a_deleted_package_is_gone(folder: SyncFolder) -> None:
    folder.publish(package(), {"a": b"one"})
    folder.discard("a1", "snapshot", 0)
    assert not folder.has("a1", "snapshot", 0) and folder.versions("a1", "snapshot") == []


def test_acknowledgements_are_replaced_and_unreadable_ones_are_left_out(folder: SyncFolder) -> None:
    assert folder.acknowledgements() == []
    one, two = Acknowledgement("a", "a1", 1, {"bags": 5}, 1.0), Acknowledgement("b", "a1", 2, {"bags": 9}, 2.0)
    for done in (one, two, Acknowledgement("a", "a1", 2, {"bags": 9}, 3.0)):
        folder.acknowledge(done)
    (folder.root / "receivers" / "c.json").write_text('{"name": "c"')
    assert folder.acknowledgements() == [Acknowledgement("a", "a1", 2, {"bags": 9}, 3.0), two]
    folder.drop("a")
    assert folder.acknowledgements() == [two]
    assert folder.runs() == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "delta", "base_version": None}, "base_version None"),
        ({"kind": "snapshot", "base_version": 2}, "base_version 2"),
        ({"kind": "delta", "base_version": 4}, "does not follow"),
        ({"run_id": "../a"}, "pattern"),
        ({"unknown": 1}, "unknown: Extra inputs"),
    ],
    ids=str,
)
def test_manifests_that_do_not_fit_are_refused(keys: dict[str, object], says: str) -> None:
    values = package("delta", 3).model_dump() | keys
    with pytest.raises(DamagedPackage, match="not a manifest") as caught:
        read_manifest(json.dumps(values), "m.json")
    assert says in str(caught.value)


def test_each_model_has_a_folder_below_the_root(tmp_path: Path) -> None:
    assert sync_folder(tmp_path, "shop", "dlrm").root.path == str(tmp_path / "shop" / "dlrm")
    assert str(sync_folder("memory://elsewhere", "shop", "dlrm").root) == "memory://elsewhere/shop/dlrm"
