"""Reading of packages by a receiver: each is verified before anything is changed, and refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ml.artifacts.bundle import Bundle
from ml.artifacts.delta import ModelDelta
from ml.artifacts.finite import NotFinite, check_model
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.snapshot import STATE, SnapshotMismatch
from ml.sync.folder import SyncFolder
from ml.sync.manifest import DamagedPackage, Kind, PackageManifest, UnknownFormat
from ml.sync.rows import DELTA_FILE, delta_from_bytes
from ml.sync.status import Refused


@dataclass(frozen=True)
class Packages:
    """The packages of one run.

    Args:
        folder: The folder.
        run_id: The run.
    """

    folder: SyncFolder
    run_id: str

    def snapshots(self) -> list[int]:
        """Return the versions of the run's snapshots, the newest first. Raises `Refused` if the folder cannot be read."""
        with _refusing():
            return sorted(self.folder.versions(self.run_id, "snapshot"), reverse=True)

    def bundle(self, version: int) -> tuple[PackageManifest, Bundle]:
        """Load a snapshot.

        Raises:
            Refused: It is missing, damaged, or in an unknown format.
        """
        manifest = self.manifest("snapshot", version)
        with _refusing():
            self.folder.read(manifest, STATE)  # has the digests of the other files, which are verified when they are read
            return manifest, Bundle.load(self.folder.package(self.run_id, "snapshot", version))

    def delta(self, served: PackageManifest) -> tuple[PackageManifest, ModelDelta]:
        """Read the delta that continues a version.

        Args:
            served: The manifest of the version that is served.

        Raises:
            Refused: It is missing, damaged, in an unknown format, of another model, or continues another version.
        """
        manifest = self.manifest("delta", served.version + 1)
        if (manifest.dataset, manifest.model) != (served.dataset, served.model):
            raise Refused("model", f"{manifest.name} cannot be applied to {served.dataset}/{served.model}")
        if manifest.base_version != served.version:
            raise Refused(
                "gap", f"{manifest.name} continues version {manifest.base_version}, version {served.version} is served"
            )
        with _refusing():
            return manifest, delta_from_bytes(self.folder.read(manifest, DELTA_FILE), manifest.row_format)

    def manifest(self, kind: Kind, version: int) -> PackageManifest:
        """Read a manifest. Raises `Refused` if there is none, or it is damaged or in an unknown format."""
        with _refusing():
            return self.folder.manifest(self.run_id, kind, version)


def check_bundle(bundle: Bundle, name: str, fingerprint: str | None = None) -> None:
    """Check a model before it is served.

    Args:
        bundle: The model.
        name: What it is, for the message.
        fingerprint: Fingerprint of the dataset that it must have been written under; by default not checked.

    Raises:
        Refused: The model was made under another specification, or a weight is not a finite number.
    """
    if fingerprint is not None and (found := bundle.spec.fingerprint) != fingerprint:
        raise Refused(
            "schema", f"{name} was made under the specification {found}, the catalog entry {bundle.spec.name} has {fingerprint}"
        )
    if isinstance(bundle.predictor, TorchPredictor):
        try:
            check_model(bundle.predictor.model)
        except NotFinite as error:
            raise Refused("not_finite", f"{name}: {error}") from error


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise `Refused` for what reading a package can raise."""
    try:
        yield
    except FileNotFoundError as error:
        raise Refused("missing", error) from error
    except OSError as error:
        raise Refused("folder", error) from error
    except (UnknownFormat, SnapshotMismatch) as error:
        raise Refused("format", error) from error
    except (DamagedPackage, ValueError, LookupError, TypeError) as error:
        raise Refused("damaged", error) from error
