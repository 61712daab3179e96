"""The models of the service, each kept up to date from where it is published.

| source            | when                                                      | new versions                              |
|-------------------|-----------------------------------------------------------|-------------------------------------------|
| a sync folder     | online training has published events after the export     | deltas and snapshots, by a `Receiver`     |
| the lake          | otherwise                                                 | the export of a newer day, loaded aside   |

A version that cannot be loaded is refused and reported, and the version before it is served on.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Protocol

from ml.artifacts.bundle import Bundle
from ml.artifacts.snapshot import DamagedSnapshot, SnapshotMismatch
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake, MissingPartition, StalePartition
from ml.stages import exported_models
from ml.sync.receiver import Receiver

_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class ModelVersion:
    """What is served of a model.

    Attributes:
        model: Name of the model.
        source: `lake` or `sync`.
        version: Day of the export, or number of the sync.
        run_id: The run of online training; None for an export.
        event_to: Latest event that the version was trained on, in microseconds since 1970 UTC; None if unknown.
        lag_seconds: Time since the first publication that is not served yet; 0 without one.
        loaded_at: When the version was loaded, in seconds since 1970 UTC.
        last_refusal: Why the last version was refused; None if none was.
    """

    model: str
    source: str
    version: str
    run_id: str | None
    event_to: int | None
    lag_seconds: float
    loaded_at: float
    last_refusal: str | None


class ServedModel(Protocol):
    """A model that is kept up to date."""

    @property
    def bundle(self) -> Bundle:
        """The bundle to predict with. Use it for one request, because a new version may replace it."""
        ...

    @property
    def version(self) -> ModelVersion:
        """What is served."""
        ...

    def poll(self) -> bool:
        """Look for a new version. Returns whether one is served now that was not before."""
        ...


class NoModel(LookupError):
    """There is no model to serve; the message says how to make one."""


class ExportedModel:
    """The newest export of a model in the lake.

    Args:
        lake: Where exports are stored.
        spec: The dataset.
        name: Name of the model.

    Raises:
        NoModel: The lake has no export of the model that can be loaded.
    """

    def __init__(self, lake: Lake, spec: DatasetSpec, name: str) -> None:
        self._lake, self._spec, self._name = lake, spec, name
        self._served: tuple[Bundle, str, str] | None = None  # with its day and its digest
        self._loaded_at, self._refusal, self._refused = 0.0, None, None
        self.poll()
        if self._served is None:
            raise NoModel(
                f"{spec.name} has no export of {name} in {lake.root}"
                + (f" that can be loaded ({self._refusal})" if self._refusal else "")
                + f"; run `make demo DATASET={spec.name}` first"
            )

    _refusal: str | None
    _refused: tuple[str, str] | None

    @property
    def bundle(self) -> Bundle:
        """The bundle of the newest day; see `ServedModel.bundle`."""
        assert self._served
        return self._served[0]

    @property
    def day(self) -> str:
        """The day of the export."""
        assert self._served
        return self._served[1]

    @property
    def version(self) -> ModelVersion:
        """What is served."""
        return ModelVersion(self._name, "lake", self.day, None, None, 0.0, self._loaded_at, self._refusal)

    def poll(self) -> bool:
        """Load the export of the newest day if it is not the served one; see `ServedModel.poll`."""
        stage = exported_models(self._name)
        for day in reversed(self._lake.days(stage, self._spec.name)):
            try:
                found = day, self._lake.digest(stage, self._spec.name, day)
                if (self._served and found == self._served[1:]) or found == self._refused:
                    return False
                folder = require_model(self._lake, stage, self._spec.name, day, self._spec.fingerprint)
                bundle = Bundle.load(folder)
            except (DamagedSnapshot, SnapshotMismatch, StalePartition, MissingPartition, OSError) as error:
                self._refuse(day, error)
                if self._served is not None:
                    self._refused = day, self._digest(stage, day)
                    return False
                continue
            self._served, self._loaded_at, self._refused = (bundle, *found), time.time(), None
            return True
        return False

    def _digest(self, stage: str, day: str) -> str:
        try:
            return self._lake.digest(stage, self._spec.name, day)
        except MissingPartition:
            return ""

    def _refuse(self, day: str, error: Exception) -> None:
        text = f"export of {day}: {error}"
        if text != self._refusal:
            _log.warning("%s/%s: %s", self._spec.name, self._name, text)
        self._refusal = text


class NewestModel:
    """The newest state of a model: what online training publishes, unless the lake has the export of a later day.

    Args:
        exported: The exports.
        receiver: The receiver of the folder in which online training publishes the model.
        spec: The dataset.
        name: Name of the model.
    """

    def __init__(self, exported: ExportedModel, receiver: Receiver, spec: DatasetSpec, name: str) -> None:
        self._exported, self._receiver, self._spec, self._name = exported, receiver, spec, name
        self._is_synced, self._since = False, exported.version.loaded_at
        self.poll()

    @property
    def bundle(self) -> Bundle:
        """The bundle with all applied deltas; see `ServedModel.bundle`."""
        return self._receiver.bundle if self._is_synced else self._exported.bundle

    @property
    def version(self) -> ModelVersion:
        """What is served."""
        status = self._receiver.status
        if not self._is_synced:
            refusal = self._exported.version.last_refusal or status.last_refusal
            return replace(self._exported.version, last_refusal=refusal)
        return ModelVersion(
            self._name,
            "sync",
            str(status.version),
            status.run_id,
            status.event_to,
            status.lag_wall_seconds,
            self._since,
            status.last_refusal,
        )

    def poll(self) -> bool:
        """Apply what was published, and load newer exports; see `ServedModel.poll`."""
        changed, applied = self._exported.poll(), self._receiver.poll()
        status = self._receiver.status
        end = day_bounds(self._exported.day, self._spec.zone)[1]
        is_synced = status.version is not None and (status.event_to or 0) >= end
        if is_synced and (applied or not self._is_synced):
            self._since = time.time()
        changed = is_synced != self._is_synced or (applied is not None if is_synced else changed)
        self._is_synced = is_synced
        return changed
