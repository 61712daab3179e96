"""A bundle at a version of a run, to which the deltas of later versions are applied in order."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ml.artifacts.bundle import Bundle
from ml.artifacts.delta import ModelUndo
from ml.artifacts.finite import NotFinite, check_delta
from ml.embeddings.delta import Gap
from ml.give_way import give_way
from ml.sync.manifest import PackageManifest
from ml.sync.packages import Packages
from ml.sync.probe import Probe
from ml.sync.status import Refused

Seconds = defaultdict[str, float]


class VersionedBundle:
    """A bundle and the package that has brought it to its version.

    Args:
        packages: The packages of its run.
        bundle: The bundle. Other threads may predict with it.
        at: Manifest of the version that it has.
        probe: Rows to score versions on; None for none.
        seconds: The duration of each activity is added here.
        rows: Rows of the snapshot, if the bundle was loaded from one.
        nbytes: Its bytes.

    Attributes:
        bundle: The bundle.
        at: Manifest of the version that it has now.
        rows: Rows that were written, with those of the snapshot.
        nbytes: Bytes that were read, with those of the snapshot.
    """

    def __init__(
        self,
        packages: Packages,
        bundle: Bundle,
        at: PackageManifest,
        probe: Probe | None,
        seconds: Seconds,
        rows: int = 0,
        nbytes: int = 0,
    ) -> None:
        self.bundle, self.at, self.rows, self.nbytes = bundle, at, rows, nbytes
        self._packages, self._probe, self._seconds = packages, probe, seconds

    def apply_next(self, undoable: bool = False) -> ModelUndo | None:
        """Apply the delta of the next version.

        Returns:
            What `revert` needs, if `undoable`; None if nothing has changed.

        Raises:
            Refused: The delta cannot be applied. The bundle has not changed.
        """
        with timed(self._seconds, "read"):
            manifest, delta = self._packages.delta(self.at)
        undo = None
        give_way()
        with timed(self._seconds, "apply"):
            try:
                check_delta(delta)
                give_way()
                if undoable:
                    undo = self.bundle.apply_undoable(delta)
                else:
                    self.bundle.apply(delta)
            except Gap as error:
                raise Refused("gap", f"{manifest.name}: {error}") from error
            except NotFinite as error:
                raise Refused("not_finite", f"{manifest.name}: {error}") from error
            except ValueError as error:
                raise Refused("model", f"{manifest.name}: {error}") from error
        self.at, self.rows, self.nbytes = manifest, self.rows + manifest.rows, self.nbytes + manifest.nbytes
        give_way()
        return undo

    def judge(self) -> str | None:
        """Score the version. Returns why it is worse than the last good one; None if it is not, or there is no probe."""
        with timed(self._seconds, "probe"):
            return self._probe.judge(self.bundle).worse if self._probe else None

    def revert(self, undone: list[ModelUndo], to: PackageManifest) -> None:
        """Restore an earlier version bit for bit, from what each call of `apply_next` since then has returned."""
        for undo in reversed(undone):
            self.bundle.revert(undo)
        self.at = to


@contextmanager
def timed(seconds: Seconds, activity: str) -> Iterator[None]:
    """Add the duration of the block to an activity."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[activity] += time.perf_counter() - began
