"""Deletes packages that no receiver needs: those behind the last snapshot that every registered receiver has passed.

A receiver is registered while its acknowledgements are recent. One that is silent for longer is dropped; it begins again at a
snapshot. The newest snapshot of the current run, and the deltas after it, are always kept.
"""

from __future__ import annotations

import logging
import time

from ml.sync.folder import Acknowledgement, SyncFolder
from ml.sync.manifest import Kind

_KINDS: tuple[Kind, ...] = ("snapshot", "delta")
_log = logging.getLogger("evergreen")


def collect(folder: SyncFolder, ttl: float) -> int:
    """Delete packages behind the last snapshot that every registered receiver has passed.

    Args:
        folder: The folder. Only its publisher may call this.
        ttl: Seconds of silence after which a receiver is dropped.

    Returns:
        The number of deleted packages.
    """
    head = folder.head()
    if head is None:
        return 0
    following = [one.version for one in registered(folder, ttl) if one.run_id == head.run_id]
    reached = min(following, default=head.snapshot)
    passed = [version for version in folder.versions(head.run_id, "snapshot") if version <= min(reached, head.snapshot)]
    kept = max(passed, default=0)
    deltas = [version for version in folder.versions(head.run_id, "delta") if version <= kept]
    old: list[tuple[str, Kind, list[int]]] = [
        (head.run_id, "snapshot", [version for version in passed if version < kept]),
        (head.run_id, "delta", deltas),
        *(
            (run_id, kind, folder.versions(run_id, kind))
            for run_id in folder.runs()
            if run_id != head.run_id
            for kind in _KINDS
        ),
    ]
    for run_id, kind, versions in old:
        for version in versions:
            folder.discard(run_id, kind, version)
    for run_id in folder.runs():
        if run_id != head.run_id:
            folder.remove_run(run_id)
    return sum(len(versions) for _, _, versions in old)


def registered(folder: SyncFolder, ttl: float) -> list[Acknowledgement]:
    """Return the last acknowledgement of each receiver that acknowledged within `ttl` seconds, and drop the other receivers."""
    found = []
    for one in folder.acknowledgements():
        if time.time() - one.heard <= ttl:
            found.append(one)
            continue
        folder.drop(one.name)
        _log.warning(
            "receiver %s was silent for more than %g seconds and is dropped; it begins again at a snapshot", one.name, ttl
        )
    return found
