"""How far receivers are behind what was published, from their acknowledgements in the folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ml.sync.folder import Acknowledgement, Head, SyncFolder
from ml.sync.manifest import DamagedPackage, Kind


@dataclass(frozen=True)
class ReceiverLag:
    """Lag of one receiver.

    Attributes:
        name: Name of the receiver.
        run_id: The run that it serves.
        version: The version that it serves.
        seconds: Wall-clock seconds since the first publication that it does not serve; 0 if it serves the newest version.
        silent_seconds: Seconds since its last acknowledgement.
    """

    name: str
    run_id: str
    version: int
    seconds: float
    silent_seconds: float


def serving_lag(folder: SyncFolder, now: float | None = None, ignore: Sequence[str] = ()) -> list[ReceiverLag]:
    """Return the lag of each registered receiver, by name; none before the first publication.

    Args:
        folder: The sync folder of a model.
        now: The time, in seconds since 1970 UTC; by default, the current time.
        ignore: Names of receivers that are left out.

    Example:
        >>> serving_lag(SyncFolder.at("memory://example-lag"))
        []
    """
    now = time.time() if now is None else now
    try:
        head = folder.head()
    except DamagedPackage:
        head = None
    if head is None:
        return []
    known = (done for done in folder.acknowledgements() if done.name not in ignore)
    return [
        ReceiverLag(done.name, done.run_id, done.version, _seconds(folder, head, done, now), max(now - done.heard, 0.0))
        for done in known
    ]


def _seconds(folder: SyncFolder, head: Head, done: Acknowledgement, now: float) -> float:
    """Return the seconds since the publication of what a receiver needs next."""
    if done.run_id == head.run_id and done.version >= head.version:
        return 0.0
    first = first_not_served(folder, head, done.run_id, done.version)
    return max(now - (done.heard if first is None else first), 0.0)


def first_not_served(folder: SyncFolder, head: Head, run_id: str | None, version: int) -> float | None:
    """Return when the first package was published that a receiver needs next.

    Args:
        folder: The sync folder of the model.
        head: The newest version.
        run_id: The run that is served; None for none.
        version: The version that is served.

    Returns:
        Seconds since 1970 UTC; None if no such package can be read.
    """
    after = version if run_id == head.run_id else -1
    kinds: tuple[Kind, ...] = ("delta", "snapshot")
    times = []
    for kind in kinds:
        with suppress(OSError, DamagedPackage):  # deleted meanwhile
            later = [found for found in folder.versions(head.run_id, kind) if found > after]
            times += [folder.manifest(head.run_id, kind, found).published_at for found in later[:1]]
    return min(times, default=None)
