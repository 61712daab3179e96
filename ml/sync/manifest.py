"""The manifest of a package: what it holds, what it continues, and the digests of its files."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ml.catalog.strict import Strict

FORMAT = 1
Kind = Literal["snapshot", "delta"]
RowFormat = Literal["float32", "float16", "int8"]


class DamagedPackage(ValueError):
    """A file of a package is missing, has changed since it was written, or does not fit its manifest."""


class UnknownFormat(DamagedPackage):
    """A package is in a format that this code does not read."""


class PackageManifest(Strict):
    """Describes a package. Two packages with the same contents differ in `published_at` alone.

    Versions count the syncs of a run. A snapshot has the version whose state it holds, so a run has a delta and a snapshot of
    the same version.

    Example:
        >>> one = PackageManifest(
        ...     kind="delta", dataset="shop", model="dlrm", run_id="a1", version=3, base_version=2, steps={}, since={},
        ...     row_format="float32", has_dense=True, files={}, published_at=1.0)
        >>> one.contents == one.model_copy(update={"published_at": 2.0}).contents
        True
    """

    format: int = Field(default=FORMAT, description="Version of this layout.")
    kind: Kind = Field(description="A `snapshot` is a whole bundle; a `delta` has the changes since `base_version`.")
    dataset: str = Field(description="Name of the dataset.")
    model: str = Field(description="Name of the model.")
    run_id: str = Field(pattern=r"^[\w-]+$", description="Identifies the training history that the versions belong to.")
    version: int = Field(ge=0, description="Version of a receiver that has applied the package.")
    base_version: int | None = Field(default=None, ge=0, description="Version that a delta continues; null for a snapshot.")
    steps: dict[str, int] = Field(description="Step of each collection of tables after the package, by its path in the model.")
    since: dict[str, int] = Field(default={}, description="Step of each collection that a delta begins at.")
    event_from: int | None = Field(
        default=None, description="Earliest event trained on since the base, in microseconds since 1970 UTC; null for none."
    )
    event_to: int | None = Field(default=None, description="Latest event that the package was trained on; null before any.")
    rows: int = Field(default=0, ge=0, description="Rows of all tables.")
    deleted: int = Field(default=0, ge=0, description="Ids that were deleted.")
    pending: int = Field(default=0, ge=0, description="Changed rows that the byte budget has held back for later deltas.")
    row_format: RowFormat = Field(description="Format of the rows.")
    has_dense: bool = Field(description="Whether the dense part is included.")
    files: dict[str, str] = Field(description="SHA-256 of each file, by its name in the package.")
    nbytes: int = Field(default=0, ge=0, description="Bytes of all files.")
    published_at: float = Field(description="Time of publication, in seconds since 1970 UTC.")

    @model_validator(mode="after")
    def _check(self) -> PackageManifest:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this code reads {FORMAT}")
        if (self.kind == "snapshot") != (self.base_version is None):
            raise ValueError(f"a {self.kind} with base_version {self.base_version}")
        if self.base_version is not None and self.base_version >= self.version:
            raise ValueError(f"version {self.version} does not follow base_version {self.base_version}")
        return self

    @property
    def contents(self) -> str:
        """Hash of everything except the time of publication."""
        return hashlib.sha256(self.model_dump_json(exclude={"published_at"}).encode()).hexdigest()

    @property
    def name(self) -> str:
        """What the package is, for people: `delta 7 of run a1 (shop/dlrm)`."""
        return f"{self.kind} {self.version} of run {self.run_id} ({self.dataset}/{self.model})"


def read_manifest(text: str | bytes, where: object) -> PackageManifest:
    """Read a manifest from JSON.

    Args:
        text: The JSON.
        where: Its file, for the message.

    Raises:
        UnknownFormat: The manifest has another format.
        DamagedPackage: The text is not a manifest.
    """
    try:
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(format := found.get("format"), int) and format != FORMAT:
            raise UnknownFormat(f"{where} is a manifest of format {format}, this code reads {FORMAT}: update Evergreen")
    except UnicodeDecodeError as error:
        raise DamagedPackage(f"{where} is not a manifest of format {FORMAT}: {error}") from error
    except json.JSONDecodeError:
        pass  # the validation says why
    try:
        return PackageManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        said = f"{key}: {first['msg']}" if key else first["msg"]
        raise DamagedPackage(f"{where} is not a manifest of format {FORMAT}: {said}") from error
