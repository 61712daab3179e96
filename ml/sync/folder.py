"""The place where a trainer publishes packages and receivers find them: a folder, local or of any fsspec filesystem.

    head.json                              run, version and newest snapshot; the only file that receivers poll
    <run id>/snapshots/0000000000/         a package: manifest.json and its files
    <run id>/deltas/0000000001/
    receivers/<name>.json                  what a receiver has applied, and when it acknowledged it

A package appears whole or not at all, as a partition of a lake does. `head.json` is replaced after its package has appeared.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from upath import UPath

from ml.disk import replace_text
from ml.lake import MANIFEST, Lake, is_local
from ml.sync.manifest import DamagedPackage, Kind, PackageManifest, read_manifest

HEAD, RECEIVERS = "head.json", "receivers"
_FOLDERS: dict[Kind, str] = {"snapshot": "snapshots", "delta": "deltas"}


class _PublishedBefore(Exception):
    """Ends the writing of a package that is there already."""


class RunConflict(ValueError):
    """A version was published before with other contents. A different history needs another run id."""


@dataclass(frozen=True)
class Head:
    """What a receiver should have.

    Attributes:
        run_id: The current run.
        version: Newest version of the run.
        snapshot: Version of the run's newest snapshot.
    """

    run_id: str
    version: int
    snapshot: int


@dataclass(frozen=True)
class Acknowledgement:
    """What a receiver has applied.

    Attributes:
        name: Name of the receiver.
        run_id: The run.
        version: Its version.
        steps: Step of each collection of tables.
        heard: Time of the acknowledgement, in seconds since 1970 UTC.
    """

    name: str
    run_id: str
    version: int
    steps: Mapping[str, int]
    heard: float


@dataclass(frozen=True)
class SyncFolder:
    """Packages of one model below one root.

    Args:
        root: The folder.

    Example:
        >>> folder = SyncFolder.at("memory://example-sync")
        >>> manifest = PackageManifest(
        ...     kind="snapshot", dataset="shop", model="dlrm", run_id="a1", version=0, steps={}, row_format="float32",
        ...     has_dense=True, files={}, published_at=1.0)
        >>> _ = folder.publish(manifest, {"rows.txt": b"one row"})
        >>> folder.head()
        Head(run_id='a1', version=0, snapshot=0)
        >>> folder.read(folder.manifest("a1", "snapshot", 0), "rows.txt")
        b'one row'
    """

    root: UPath

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> SyncFolder:
        """Open the folder at a path or fsspec URL."""
        return cls(Lake.at(root).root)

    def package(self, run_id: str, kind: Kind, version: int) -> UPath:
        """Return the folder of a package, whether or not it exists."""
        return self.root / run_id / _FOLDERS[kind] / _key(version)

    def has(self, run_id: str, kind: Kind, version: int) -> bool:
        """Whether a package has been published and not yet been deleted."""
        return self._lake.has(run_id, _FOLDERS[kind], _key(version))

    def versions(self, run_id: str, kind: Kind) -> list[int]:
        """List the versions of a run's packages of one kind, in order."""
        return [int(name) for name in self._lake.days(run_id, _FOLDERS[kind])]

    def runs(self) -> list[str]:
        """List the runs that have packages."""
        if not self.root.exists():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.name != RECEIVERS and path.is_dir())

    def publish(
        self, manifest: PackageManifest, files: Mapping[str, bytes] | Callable[[UPath], Mapping[str, str]]
    ) -> PackageManifest:
        """Write a package, and then point `head.json` to it. A package that is there already is left as it is.

        Args:
            manifest: What the package holds; its `files` and `nbytes` are filled in.
            files: Contents by name, or a function that writes files into the folder that it is given and returns the SHA-256
                of each.

        Returns:
            The complete manifest.

        Raises:
            RunConflict: The same version of the same run was published with other contents.
            BusyPartition: Another process is writing the package.
        """
        place = (manifest.run_id, _FOLDERS[manifest.kind], _key(manifest.version))
        before = self.manifest(*_place(manifest)) if self._lake.has(*place) else None
        try:
            with self._lake.write(*place) as staging:
                digests = _write(files, staging) if isinstance(files, Mapping) else dict(files(staging))
                size = sum((staging / name).stat().st_size for name in digests)
                manifest = manifest.model_copy(update={"files": digests, "nbytes": size})
                if before is not None:
                    raise _PublishedBefore
                (staging / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        except _PublishedBefore:
            assert before is not None
            if before.contents != manifest.contents:
                raise RunConflict(
                    f"the {manifest.name} was published before with other contents, in {self.package(*_place(manifest))}; "
                    "a different training history needs another run id"
                ) from None
            manifest = before
        self._advance(manifest)
        return manifest

    def manifest(self, run_id: str, kind: Kind, version: int) -> PackageManifest:
        """Read the manifest of a package.

        Raises:
            FileNotFoundError: The package was not published, or has been deleted.
            DamagedPackage: The file is not the manifest of this package.
        """
        path = self.package(run_id, kind, version) / MANIFEST
        found = read_manifest(path.read_bytes(), path)
        if (found.run_id, found.kind, found.version) != (run_id, kind, version):
            raise DamagedPackage(f"{path} describes the {found.name}")
        return found

    def read(self, manifest: PackageManifest, name: str) -> bytes:
        """Read a file of a package.

        Raises:
            DamagedPackage: The file is missing, or is not the one that was published.
        """
        path = self.package(manifest.run_id, manifest.kind, manifest.version) / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise DamagedPackage(f"{manifest.name}: {path} is missing") from error
        if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
            raise DamagedPackage(f"{manifest.name}: {path} is not the file that was published")
        return data

    def head(self) -> Head | None:
        """Read `head.json`; None before the first package.

        Raises:
            DamagedPackage: The file cannot be read.
        """
        path = self.root / HEAD
        try:
            return Head(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DamagedPackage(f"{path} cannot be read: {error}") from error

    def discard(self, run_id: str, kind: Kind, version: int) -> None:
        """Delete a package and its lock. The manifest is deleted first, so that an incomplete package is never visible."""
        place = (run_id, _FOLDERS[kind], _key(version))
        self._lake.discard(*place)
        self._lake.lock_path(*place).unlink(missing_ok=True)

    def remove_run(self, run_id: str) -> None:
        """Delete the folder of a run that has no packages. On a local disk, one that a process writes to is kept."""
        if not is_local(self.root):
            return  # an object store has no empty folders
        run = Path((self.root / run_id).path)
        held = sorted(run.rglob("*"), reverse=True)
        if not any(path.is_file() for path in held):
            for path in (*held, run):
                path.rmdir()

    def acknowledge(self, done: Acknowledgement) -> None:
        """Record what a receiver has applied, in place of its last acknowledgement."""
        _replace(self.root / RECEIVERS / f"{done.name}.json", json.dumps(asdict(done)))

    def acknowledgements(self) -> list[Acknowledgement]:
        """Read the last acknowledgement of every receiver, by name.

        One that cannot be read is left out. Its receiver will write another one.
        """
        folder = self.root / RECEIVERS
        found = []
        for path in sorted(folder.glob("*.json")) if folder.exists() else ():
            try:
                found.append(Acknowledgement(**json.loads(path.read_bytes())))
            except (OSError, ValueError, TypeError):
                continue
        return found

    def is_registered(self, name: str) -> bool:
        """Whether there is an acknowledgement of a receiver, which the publisher deletes when it drops the receiver."""
        return (self.root / RECEIVERS / f"{name}.json").exists()

    def drop(self, name: str) -> None:
        """Delete the acknowledgement of a receiver that was dropped."""
        (self.root / RECEIVERS / f"{name}.json").unlink(missing_ok=True)

    @property
    def _lake(self) -> Lake:
        return Lake(self.root)

    def _advance(self, manifest: PackageManifest) -> None:
        """Point `head.json` to a package, unless it already points to a later one of the same run."""
        try:
            head = self.head()
        except DamagedPackage:
            head = None  # it is replaced
        version, snapshot = manifest.version, manifest.version
        if head is not None and head.run_id == manifest.run_id:
            version = max(version, head.version)
            snapshot = max(snapshot, head.snapshot) if manifest.kind == "snapshot" else head.snapshot
        elif manifest.kind == "delta":
            snapshot = max((found for found in self.versions(manifest.run_id, "snapshot")), default=-1)
            if snapshot < 0:
                raise ValueError(f"the {manifest.name} has no snapshot before it: a run begins with a snapshot")
        found = Head(manifest.run_id, version, snapshot)
        if found != head:
            _replace(self.root / HEAD, json.dumps(asdict(found)))


def sync_folder(root: str | os.PathLike[str], dataset: str, model: str) -> SyncFolder:
    """Return the folder in which a model is published: `<root>/<dataset>/<model>`.

    Args:
        root: Folder or fsspec URL of all models, by default `$EVERGREEN_HOME/sync`.
        dataset: Name of the dataset.
        model: Name of the model.
    """
    return SyncFolder.at(str(UPath(root) / dataset / model))


def _write(files: Mapping[str, bytes], folder: UPath) -> dict[str, str]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _key(version: int) -> str:
    return f"{version:010d}"


def _place(manifest: PackageManifest) -> tuple[str, Kind, int]:
    return manifest.run_id, manifest.kind, manifest.version


def _replace(path: UPath, text: str) -> None:
    """Write a small file so that readers see either the old or the new one."""
    if is_local(path):
        replace_text(Path(path.path), text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)  # an object store replaces an object as a whole
