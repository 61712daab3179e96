"""A receiver: it loads the newest snapshot of a run, applies the deltas after it in order, and acknowledges them.

The model predicts throughout. Whatever a receiver refuses leaves the served model as it is. If deltas cannot be applied, the
next snapshot is loaded aside, which takes the memory of a second model until it replaces the served one.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from ml.artifacts.bundle import Bundle
from ml.artifacts.delta import ModelUndo
from ml.artifacts.finite import NotFinite, check_delta
from ml.embeddings.delta import Gap
from ml.sync.folder import Acknowledgement, Head, SyncFolder
from ml.sync.manifest import DamagedPackage, PackageManifest
from ml.sync.packages import Packages, check_bundle
from ml.sync.probe import Probe
from ml.sync.status import Applied, Reason, ReceiverStatus, Refused

HEARTBEAT = 60.0
"""Seconds after which a receiver acknowledges its version again, so that it is not dropped."""
RETRY = 60.0
"""Seconds after which the same snapshots are read again, if none could be loaded while another model is served."""
MOST_UNDONE = 8
"""Versions after the last good one that are applied at once after a rollback. Later ones are tried as snapshots only."""
Seconds = defaultdict[str, float]
_log = logging.getLogger("evergreen")


class Receiver:
    """Keeps a bundle up to date from a sync folder.

    One thread may call `load`, `poll` or `follow`. Any thread may predict with `bundle` and read `status` meanwhile; see
    `Bundle.apply` for what a prediction may read during a call.

    With a probe, each version is scored after it was applied. If it is worse than the last good version, the replaced rows are
    restored, and the last good version is served. The receiver tries again with each later version, by all deltas since the
    good one or by the next snapshot, until one is good.

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
        self._behind_since: float | None = None
        self._acknowledged: float | None = None
        self._rejected: Head | None = None  # what the probe has found to be worse
        self._load_failed: tuple[Head, float] | None = None  # and when
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
            if self._head is not None and applied.version >= self._head.version:
                self._behind_since, self._newest = None, None
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
            raise Refused("head", f"{self._folder.root} has no head.json any more")
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
        now, size, rows = served, 0, 0
        try:
            while now.version < head.version:
                now, undo = self._apply_next(bundle, now, seconds)
                size, rows = size + now.nbytes, rows + now.rows
                undone += [undo] if undo is not None else []
                self._served = now
        except Refused as error:
            self._note(error)
        if now is served:
            return None
        with _timed(seconds, "probe"):
            worse = self._probe.judge(bundle).worse if self._probe else None
        if worse is not None:
            for undo in reversed(undone):
                bundle.revert(undo)
            self._served = served
            self._reject(head, f"rolled back to version {served.version}", worse)
            return None
        self._rows, self._rejected = self._rows + rows, None
        return self._done(now, served.version, rows, size, seconds)

    def _apply_next(
        self, bundle: Bundle, served: PackageManifest, seconds: Seconds
    ) -> tuple[PackageManifest, ModelUndo | None]:
        """Read the delta after a version, and apply it to a bundle that has the version."""
        with _timed(seconds, "read"):
            manifest, delta = Packages(self._folder, served.run_id).delta(served)
        with _timed(seconds, "apply"):
            try:
                check_delta(delta)
                if self._probe is not None:
                    return manifest, bundle.apply_undoable(delta)
                bundle.apply(delta)
                return manifest, None
            except Gap as error:
                raise Refused("gap", f"{manifest.name}: {error}") from error
            except NotFinite as error:
                raise Refused("not_finite", f"{manifest.name}: {error}") from error
            except ValueError as error:
                raise Refused("model", f"{manifest.name}: {error}") from error

    def _load(self, head: Head) -> Applied | None:
        """Load the newest snapshot that is not damaged and the deltas after it, and then serve it in place of the bundle."""
        served, packages = self._served, Packages(self._folder, head.run_id)
        if served is not None and self._load_failed is not None:
            failed, when = self._load_failed
            if failed == head and time.time() - when < RETRY:
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
                with _timed(seconds, "read"):
                    now, bundle = packages.bundle(version)
                if served is not None and (now.dataset, now.model) != (served.dataset, served.model):
                    raise Refused("model", f"{now.name} cannot replace {served.dataset}/{served.model}")
                check_bundle(bundle, now.name, self._fingerprint)
            except Refused as error:
                self._note(error)
                continue
            size, rows = now.nbytes, now.rows
            try:
                while now.version < head.version:
                    now, _ = self._apply_next(bundle, now, seconds)
                    size, rows = size + now.nbytes, rows + now.rows
            except Refused as error:
                self._note(error)
            with _timed(seconds, "probe"):
                worse = self._probe.judge(bundle).worse if self._probe else None
            if worse is not None:
                self._reject(head, "the snapshot is not served", worse)
                return None
            self._bundle, self._served, self._rejected = bundle, now, None
            self._snapshots += 1
            return self._done(now, same.version if same else None, rows, size, seconds, kind="snapshot")
        self._load_failed = head, time.time()
        if not tried:
            raise Refused("missing", f"run {head.run_id} has no snapshot")
        return None

    def _done(
        self, now: PackageManifest, since: int | None, rows: int, size: int, seconds: Seconds, kind: str = "delta"
    ) -> Applied:
        for activity, duration in seconds.items():
            self._seconds[activity] += duration
        return Applied(
            kind="snapshot" if kind == "snapshot" else "delta",
            run_id=now.run_id,
            since=since,
            version=now.version,
            rows=rows,
            nbytes=size,
            event_to=now.event_to,
            published_at=now.published_at,
            applied_at=time.time(),
            seconds=dict(seconds),
        )

    def _reject(self, head: Head, what: str, worse: str) -> None:
        self._rejected, self._rollbacks = head, self._rollbacks + 1
        self._note(Refused("quality", f"version {head.version} is worse on the probe set ({worse}): {what}"))

    def _note_lag(self, head: Head) -> None:
        """Remember which version is the newest, and since when it is not served."""
        served = self._served
        if head == self._head or (served and (served.run_id, served.version) == (head.run_id, head.version)):
            self._head = head
            return
        self._head = head
        kind = "delta" if head.version > head.snapshot else "snapshot"
        try:
            self._newest = Packages(self._folder, head.run_id).manifest(kind, head.version)
        except Refused:
            self._newest = None
        if self._behind_since is None:
            self._behind_since = self._newest.published_at if self._newest else time.time()

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


@contextmanager
def _timed(seconds: Seconds, activity: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[activity] += time.perf_counter() - began
