"""A receiver: it loads the newest snapshot of a run, applies the deltas after it in order, and acknowledges them.

The model predicts throughout. A package that a receiver refuses does not change the served model. If deltas cannot be applied,
the next snapshot is loaded while the old model serves, which takes the memory of a second model until it replaces the served
one.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from contextlib import suppress
from threading import Event

from ml.artifacts.bundle import Bundle
from ml.artifacts.delta import ModelUndo
from ml.give_way import give_way
from ml.sync.folder import Acknowledgement, Head, SyncFolder
from ml.sync.lag import first_not_served
from ml.sync.manifest import DamagedPackage, Kind, PackageManifest
from ml.sync.packages import Packages, check_bundle
from ml.sync.probe import Probe
from ml.sync.status import Applied, Reason, ReceiverStatus, Refused
from ml.sync.versioned import Seconds, VersionedBundle, timed

HEARTBEAT = 60.0
"""Seconds after which a receiver acknowledges its version again, so that it is not dropped."""
RETRY = 60.0
"""Seconds after which the same snapshots are read again, if none could be served while another model is served."""
MOST_UNDONE = 8
"""Versions after the last good one that are applied at once after a rollback. Later ones are tried as snapshots only."""
_log = logging.getLogger("evergreen")


class Receiver:
    """Keeps a bundle up to date from a sync folder.

    One thread may call `load`, `poll` or `follow`. Any thread may predict with `bundle` and read `status` meanwhile; see
    `Bundle.apply` for what a prediction may read during a call.

    With a probe, each version is scored after it was applied. If it is worse than the last good version, the replaced rows are
    restored, and the last good version is served. The receiver tries again with each later version, by all deltas since the
    good one or by the next snapshot, until one is good. A receiver that starts scores the snapshot first, so that versions that
    were rolled back are not served after a restart.

    Args:
        folder: Where packages are published.
        name: Identifies the receiver across its restarts; letters, digits, `_` and `-`.
        probe: Rows to score each version on; by default none.
        fingerprint: Fingerprint of the dataset that snapshots must have been written under; by default not checked.

    Raises:
        ValueError: The name has other characters.

    Example:
        >>> receiver = Receiver(SyncFolder.at("memory://example-receiver"), "server-1")
        >>> receiver.poll(), receiver.status.version  # nothing has been published yet
        (None, None)
    """

    def __init__(self, folder: SyncFolder, name: str, probe: Probe | None = None, fingerprint: str | None = None) -> None:
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"name of a receiver: expected letters, digits, '_' and '-', found {name!r}")
        self.name, self._folder, self._probe, self._fingerprint = name, folder, probe, fingerprint
        self._bundle: Bundle | None = None
        self._served: PackageManifest | None = None
        self._head: Head | None = None
        self._newest: PackageManifest | None = None  # manifest of the newest version, if it is not served
        self._behind_since: float | None = None  # when the first version was published that is not served
        self._acknowledged: float | None = None
        self._rejected: Head | None = None  # what the probe has found to be worse
        self._snapshot_refused: tuple[str, int, float] | None = None  # run, snapshot, and when it was refused
        self._rows, self._snapshots, self._rollbacks = 0, 0, 0
        self._refused: Counter[Reason] = Counter()
        self._refusals: set[str] = set()  # since something was applied
        self._refusal: str | None = None  # why the newest version is not served
        self._noted = False  # whether the current poll has refused something
        self._last_refusal: str | None = None
        self._seconds = Seconds(float)

    @property
    def bundle(self) -> Bundle:
        """The bundle to predict with. Use it for one request, because a snapshot may replace it.

        Raises:
            LookupError: No snapshot has been loaded yet.
        """
        if self._bundle is None:
            raise LookupError(f"receiver {self.name} has no model yet: no snapshot was published, or it was refused")
        return self._bundle

    @property
    def status(self) -> ReceiverStatus:
        """The current state."""
        served, head, newest, behind = self._served, self._head, self._newest, self._is_behind
        lag: float | None = None if behind else 0.0
        if behind and served and newest and newest.event_to is not None and served.event_to is not None:
            lag = max(newest.event_to - served.event_to, 0) / 1e6
        since = self._behind_since
        return ReceiverStatus(
            name=self.name,
            run_id=served.run_id if served else None,
            version=served.version if served else None,
            newest=head.version if head else None,
            event_to=served.event_to if served else None,
            rows_applied=self._rows,
            snapshots=self._snapshots,
            lag_event_seconds=lag,
            lag_wall_seconds=max(time.time() - since, 0.0) if behind and since is not None else 0.0,
            refused=dict(self._refused),
            refusal=self._refusal,
            last_refusal=self._last_refusal,
            rollbacks=self._rollbacks,
            rolled_back_from=self._rejected.version if self._rejected else None,
            seconds=dict(self._seconds),
        )

    @property
    def _is_behind(self) -> bool:
        served, head = self._served, self._head
        if head is None:
            return False
        return served is None or served.run_id != head.run_id or served.version < head.version

    def load(self) -> Bundle:
        """Load the newest snapshot and the deltas after it.

        Raises:
            LookupError: No snapshot was published, or all were refused; the message has the last reason.
        """
        self.poll()
        if self._bundle is None:
            raise LookupError(f"receiver {self.name} has no model: {self._last_refusal or 'no snapshot was published'}")
        return self._bundle

    def follow(self, stop: Event, interval: float = 1.0) -> None:
        """Call `poll` until an event is set.

        Args:
            stop: Ends the call.
            interval: Seconds between two polls.
        """
        while not stop.is_set():
            self.poll()
            stop.wait(interval)

    def poll(self, after: int | None = None) -> Applied | None:
        """Apply what was published since the last call, and acknowledge it.

        Args:
            after: Microseconds since 1970 UTC. As long as the newest version has been trained on no event from then on, it is
                left alone. By default every version is applied.

        Returns:
            What was applied; None for nothing. `status` has the reason if something was refused.
        """
        applied, waits = None, False
        self._noted = False
        try:
            head = self._read_head()
            give_way()
            if head is not None:
                self._note_lag(head)
                waits = after is not None and not self._reaches(head, after)
                applied = None if waits else self._advance(head)
        except Refused as error:
            self._note(error)
        if not self._noted and (waits or not self._is_behind):
            self._refusal = None
        if applied is not None:
            self._refusals.clear()
            self._behind_since = None
            if self._head is not None:
                self._note_lag(self._head)
        give_way()
        self._acknowledge(always=applied is not None)
        return applied

    def _read_head(self) -> Head | None:
        try:
            head = self._folder.head()
        except DamagedPackage as error:
            raise Refused("head", error) from error
        except OSError as error:
            raise Refused("folder", error) from error
        if head is None and self._served is not None:
            raise Refused("head", f"{self._folder.root} has no head.json")
        return head

    def _advance(self, head: Head) -> Applied | None:
        served = self._served
        if head == self._rejected:
            return None
        if served is None or self._bundle is None or head.run_id != served.run_id:
            return self._load(head)
        if head.version <= served.version:
            return None
        dropped = self._was_dropped()
        if dropped:
            self._note(Refused("dropped", f"receiver {self.name} was dropped at version {served.version}"))
        many = self._rejected is not None and head.version - served.version > MOST_UNDONE
        if not many and not (dropped and head.snapshot > served.version):
            applied = self._apply(self._bundle, served, head)
            if applied is not None or self._rejected == head:
                return applied
        return self._load(head) if head.snapshot > served.version else None

    def _was_dropped(self) -> bool:
        try:
            return self._acknowledged is not None and not self._folder.is_registered(self.name)
        except OSError as error:
            raise Refused("folder", error) from error

    def _apply(self, bundle: Bundle, served: PackageManifest, head: Head) -> Applied | None:
        """Apply the deltas after a version to the served bundle. Returns None if none was applied, or all were reverted."""
        seconds, undone = self._waited(head), list[ModelUndo]()
        own = VersionedBundle(Packages(self._folder, served.run_id), bundle, served, self._probe, seconds)
        try:
            while own.at.version < head.version:
                undo = own.apply_next(undoable=self._probe is not None)
                undone += [undo] if undo is not None else []
                self._served = own.at
        except Refused as error:
            self._note(error)
        if own.at is served:
            return None
        if (worse := own.judge()) is not None:
            own.revert(undone, served)
            self._served = served
            self._reject(head, f"rolled back to version {served.version}", worse)
            return None
        self._rows, self._rejected = self._rows + own.rows, None
        return self._done(own, served.version, seconds)

    def _load(self, head: Head) -> Applied | None:
        """Load the newest snapshot that is not damaged and the deltas after it, and then serve it in place of the bundle."""
        served, packages = self._served, Packages(self._folder, head.run_id)
        if served is not None and self._snapshot_refused is not None:
            *refused, when = self._snapshot_refused
            if refused == [head.run_id, head.snapshot] and time.time() - when < RETRY:
                return None
        same = served if served is not None and served.run_id == head.run_id else None
        tried = False
        for version in packages.snapshots():
            if same is not None and version <= same.version:
                break
            tried, seconds = True, self._waited(head)
            if same is None:
                self._register(head.run_id, version)
            try:
                own, worse = self._loaded(packages, version, head, seconds)
            except Refused as error:
                self._note(error)
                continue
            if own is None:
                self._reject(head, "the snapshot is not served", str(worse))
                break
            self._bundle, self._served, self._rejected = own.bundle, own.at, None
            self._snapshots += 1
            if worse is not None:
                self._reject(head, f"version {own.at.version} is served", worse)
            return self._done(own, same.version if same else None, seconds, kind="snapshot")
        self._snapshot_refused = head.run_id, head.snapshot, time.time()
        if not tried:
            raise Refused("missing", f"run {head.run_id} has no snapshot")
        return None

    def _loaded(
        self, packages: Packages, version: int, head: Head, seconds: Seconds
    ) -> tuple[VersionedBundle | None, str | None]:
        """Load a snapshot, and apply the deltas after it.

        Returns:
            The last good version, None if there is none; and why the newest version is worse, None if it is not.

        Raises:
            Refused: The snapshot cannot be served.
        """
        own = self._snapshot(packages, version, seconds)
        worse_snapshot = worse = own.judge()
        self._apply_until(own, head.version)
        if own.at.version == version or (worse := own.judge()) is None:
            return (own if worse is None else None), worse
        if worse_snapshot is not None:
            return None, worse
        newest = own.at.version
        del own  # so that the memory of two models is enough
        own = self._snapshot(packages, version, seconds)
        self._apply_judged(own, newest)
        return own, worse if own.at.version < newest else None

    def _snapshot(self, packages: Packages, version: int, seconds: Seconds) -> VersionedBundle:
        """Read a snapshot of the served model. Raises `Refused`."""
        with timed(seconds, "read"):
            found, bundle = packages.bundle(version)
        served = self._served
        if served is not None and (found.dataset, found.model) != (served.dataset, served.model):
            raise Refused("model", f"{found.name} cannot replace {served.dataset}/{served.model}")
        check_bundle(bundle, found.name, self._fingerprint)
        return VersionedBundle(packages, bundle, found, self._probe, seconds, found.rows, found.nbytes)

    def _apply_until(self, own: VersionedBundle, version: int) -> None:
        """Apply deltas up to a version, or to the first one that is refused."""
        try:
            while own.at.version < version:
                own.apply_next()
        except Refused as error:
            self._note(error)

    def _apply_judged(self, own: VersionedBundle, version: int) -> None:
        """Apply deltas one by one and score each version. The bundle ends at the last good one."""
        good, undone = own.at, list[ModelUndo]()
        try:
            while own.at.version < version and own.at.version - good.version < MOST_UNDONE:
                undo = own.apply_next(undoable=True)
                undone += [undo] if undo is not None else []
                if own.judge() is None:
                    good, undone = own.at, []
        except Refused as error:
            self._note(error)
        own.revert(undone, good)

    def _done(self, own: VersionedBundle, since: int | None, seconds: Seconds, kind: Kind = "delta") -> Applied:
        for activity, duration in seconds.items():
            self._seconds[activity] += duration
        return Applied(
            kind=kind,
            run_id=own.at.run_id,
            since=since,
            version=own.at.version,
            rows=own.rows,
            nbytes=own.nbytes,
            event_to=own.at.event_to,
            published_at=own.at.published_at,
            applied_at=time.time(),
            seconds=dict(seconds),
        )

    def _reject(self, head: Head, what: str, worse: str) -> None:
        self._rejected, self._rollbacks = head, self._rollbacks + 1
        self._note(Refused("quality", f"version {head.version} is worse on the probe set ({worse}): {what}"))

    def _note_lag(self, head: Head) -> None:
        """Record which version is the newest, and when the first version was published that is not served."""
        served, is_new, self._head = self._served, head != self._head, head
        if not self._is_behind:
            self._behind_since = self._newest = None
            return
        if is_new:
            self._newest = None
            with suppress(Refused):
                kind = "delta" if head.version > head.snapshot else "snapshot"
                self._newest = Packages(self._folder, head.run_id).manifest(kind, head.version)
        if self._behind_since is None:
            run_id, version = (served.run_id, served.version) if served else (None, -1)
            first = first_not_served(self._folder, head, run_id, version)
            self._behind_since = time.time() if first is None else first

    def _reaches(self, head: Head, after: int) -> bool:
        """Whether the newest version was trained on events from a point in time on, or has to be read to find out."""
        newest = self._newest if self._is_behind else self._served
        return newest is None or (newest.event_to or 0) >= after

    def _waited(self, head: Head) -> Seconds:
        """Begin the account of a sync with the time since the publication of the newest version."""
        waited = time.time() - self._newest.published_at if self._newest and self._newest.version == head.version else 0.0
        return Seconds(float, wait=max(waited, 0.0))

    def _note(self, error: Refused) -> None:
        """Count and log a refusal, once until something is applied again."""
        text = f"{error.reason}: {error}"
        self._refusal, self._noted = text, True
        if text in self._refusals:
            return
        self._refusals.add(text)
        self._refused[error.reason] += 1
        self._last_refusal = text
        _log.warning("receiver %s refused %s", self.name, text)

    def _register(self, run_id: str, version: int) -> None:
        """Keep the packages after a snapshot from being deleted while the snapshot is loaded."""
        try:
            self._folder.acknowledge(Acknowledgement(self.name, run_id, version, {}, time.time()))
        except OSError as error:
            self._note(Refused("folder", error))

    def _acknowledge(self, always: bool) -> None:
        served, last = self._served, self._acknowledged
        if served is None or not (always or last is None or time.time() - last > HEARTBEAT):
            return
        try:
            heard = time.time()
            self._folder.acknowledge(Acknowledgement(self.name, served.run_id, served.version, served.steps, heard))
            self._acknowledged = heard
        except OSError as error:
            self._note(Refused("folder", error))
