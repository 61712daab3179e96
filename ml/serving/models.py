"""The models of the service, each kept up to date from where it is published.

| source            | when                                                      | new versions                              |
|-------------------|-----------------------------------------------------------|-------------------------------------------|
| a sync folder     | online training has published events after the export     | deltas and snapshots, by a `Receiver`     |
| the lake          | otherwise                                                 | the export of a newer day, loaded aside   |

A version that cannot be loaded, or is worse than the recipe's probe allows, is refused and reported, and the version before it
continues to be served. A pinned model serves only the export of its day; see `ml.serving.rollback`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from ml.artifacts.bundle import Bundle
from ml.artifacts.snapshot import DamagedSnapshot, SnapshotMismatch
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import DamagedManifest, Lake, MissingPartition, StalePartition
from ml.serving.pins import Pins, WrongPin
from ml.stages import exported_models
from ml.sync.packages import check_bundle
from ml.sync.probe import Probe
from ml.sync.receiver import Receiver
from ml.sync.status import Reason, Refused

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
        refusal: Why the newest version is not served; None if it is, or if the model is pinned.
        last_refusal: Why the last version was refused; None if none was.
        refused: Number of different refusals by reason, as in `ml.sync.status`.
        rollbacks: How often a version was left again because the probe found it to be worse.
        pinned: The day to which a person has pinned the model; None for the newest version.
    """

    model: str
    source: str
    version: str
    run_id: str | None
    event_to: int | None
    lag_seconds: float
    loaded_at: float
    refusal: str | None = None
    last_refusal: str | None = None
    refused: Mapping[Reason, int] = field(default_factory=dict)
    rollbacks: int = 0
    pinned: str | None = None


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


def load_export(lake: Lake, spec: DatasetSpec, name: str, day: str) -> Bundle:
    """Load the export of a day, and check that it can be served.

    Raises:
        Refused: It is missing, damaged, was made under another specification, or has a weight that is not finite.
    """
    try:
        folder = require_model(lake, exported_models(name), spec.name, day, spec.fingerprint)
        bundle = Bundle.load(folder)
    except StalePartition as error:
        raise Refused("schema", error) from error
    except MissingPartition as error:
        raise Refused("missing", error) from error
    except SnapshotMismatch as error:
        raise Refused("format", error) from error
    except FileNotFoundError as error:
        raise Refused("damaged", error) from error
    except OSError as error:
        raise Refused("folder", error) from error
    except (DamagedSnapshot, DamagedManifest) as error:
        raise Refused("damaged", error) from error
    check_bundle(bundle, f"export of {day}")
    return bundle


class ExportedModel:
    """The newest export of a model in the lake, or the export of the day that it is pinned to.

    Args:
        lake: Where exports are stored.
        spec: The dataset.
        name: Name of the model.
        probe: Rows to score each export on; by default none.
        pins: The pins of the dataset; by default none.

    Raises:
        NoModel: The lake has no export of the model that can be loaded.
    """

    def __init__(self, lake: Lake, spec: DatasetSpec, name: str, probe: Probe | None = None, pins: Pins | None = None) -> None:
        self._lake, self._spec, self._name, self._probe, self._pins = lake, spec, name, probe, pins
        self._served: tuple[Bundle, str, str] | None = None  # with its day and its digest
        self._refused: tuple[str, str] | None = None  # day and digest of the newest version, if it is not served
        self._loaded_at, self._rollbacks = 0.0, 0
        self._refusal: str | None = None
        self._last_refusal: str | None = None
        self._counts: Counter[Reason] = Counter()
        self.pinned: str | None = None
        if probe is not None:
            self._begin(probe)
        self.poll()
        if self._served is None:
            raise NoModel(
                f"{spec.name} has no export of {name} in {lake.root}"
                + (f" that can be loaded ({self._last_refusal})" if self._last_refusal else "")
                + f"; run `make demo DATASET={spec.name}` first"
            )

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
        return ModelVersion(
            self._name,
            "lake",
            self.day,
            *(None, None, 0.0, self._loaded_at),
            refusal=self._refusal,
            last_refusal=self._last_refusal,
            refused=dict(self._counts),
            rollbacks=self._rollbacks,
            pinned=self.pinned,
        )

    def poll(self) -> bool:
        """Load the export of the newest or pinned day if it is not the served one; see `ServedModel.poll`."""
        try:
            pinned = self._pins.day_of(self._name) if self._pins else None
        except WrongPin as error:
            self._refuse(Refused("damaged", error))
            return False
        moved, self.pinned = pinned != self.pinned, pinned
        if moved:
            self._refused = self._refusal = None
            _log.warning("%s/%s: %s", self._spec.name, self._name, f"pinned to {pinned}" if pinned else "no longer pinned")
        days = self._lake.days(exported_models(self._name), self._spec.name)
        was_refused = False
        for day in [pinned] if pinned else reversed(days):
            found = day, self._lake.readable_digest(exported_models(self._name), self._spec.name, day)
            if self._served and found == self._served[1:]:
                self._refusal = None
                return False
            if found == self._refused:
                return False
            try:
                bundle = load_export(self._lake, self._spec, self._name, day)
                self._judge(bundle, chosen=pinned is not None)
            except Refused as error:
                self._refuse(error, day)
                was_refused = True
                if self._served is not None:
                    self._refused = None if error.reason == "folder" else found  # a folder that cannot be read is tried again
                    return False
                continue
            self._served, self._loaded_at, self._refused = (bundle, *found), time.time(), None
            self._refusal = self._refusal if was_refused else None
            return True
        return False

    def _begin(self, probe: Probe) -> None:
        """Compare the last exports before the newest one, so that a restart does not serve a refused version."""
        for day in self._lake.days(exported_models(self._name), self._spec.name)[-5:-1]:
            try:
                probe.judge(load_export(self._lake, self._spec, self._name, day))
            except Refused as error:
                _log.warning("%s/%s: the newest export is not compared with %s: %s", self._spec.name, self._name, day, error)

    def _judge(self, bundle: Bundle, chosen: bool) -> None:
        """Score a bundle on the probe. A version that a person has chosen is not refused."""
        if self._probe is None:
            return
        if chosen:
            self._probe.accept(bundle)
        elif (worse := self._probe.judge(bundle).worse) is not None:
            self._rollbacks += 1
            raise Refused("quality", f"worse on the probe set ({worse})")

    def _refuse(self, error: Refused, day: str | None = None) -> None:
        """Count and log a refusal, once until another one."""
        text = f"{error.reason}: " + (f"export of {day}: " if day else "") + str(error)
        self._refusal = text
        if text != self._last_refusal:
            self._counts[error.reason] += 1
            _log.warning("%s/%s refused %s", self._spec.name, self._name, text)
        self._last_refusal = text


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
        status, exported = self._receiver.status, self._exported.version
        own = replace(
            exported,
            refusal=exported.refusal or (None if exported.pinned else status.refusal),
            last_refusal=exported.last_refusal or status.last_refusal,
            refused=Counter(exported.refused) + Counter(status.refused),
            rollbacks=exported.rollbacks + status.rollbacks,
        )
        if not self._is_synced:
            return own
        return replace(
            own,
            source="sync",
            version=str(status.version),
            run_id=status.run_id,
            event_to=status.event_to,
            lag_seconds=status.lag_wall_seconds,
            loaded_at=self._since,
        )

    def poll(self) -> bool:
        """Apply what was published, and load newer exports; see `ServedModel.poll`."""
        changed = self._exported.poll()
        end = day_bounds(self._exported.day, self._spec.zone)[1]
        is_pinned = self._exported.pinned is not None
        applied = None if is_pinned else self._receiver.poll(after=end)
        status = self._receiver.status
        is_synced = not is_pinned and status.version is not None and (status.event_to or 0) >= end
        if is_synced and (applied or not self._is_synced):
            self._since = time.time()
        changed = is_synced != self._is_synced or (applied is not None if is_synced else changed)
        self._is_synced = is_synced
        return changed
