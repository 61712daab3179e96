"""What is wrong with a live stream: it is stuck, events are late, rows are in quarantine, or files that were read changed."""

from __future__ import annotations

import time

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.blocks import SIDES
from ml.joiner.read_files import ReadFiles
from ml.joiner.status import HOURS, StreamStatus, joiner_folder
from ml.logs.arriving import arriving_files

MAX_LATE_SHARE = 0.01
STUCK_SECONDS = 300.0
"""A stream whose files are not read for this long is stuck."""


def stream_faults(spec: DatasetSpec, root: UPath, status: StreamStatus | None, now: float | None = None) -> dict[str, str]:
    """Returns what is wrong with a live join. The check of the stream and `make join` report it.

    Args:
        spec: A dataset with `actions`.
        root: Folder of the stream.
        status: Its status; None before the first batch.
        now: The present in seconds since 1970 UTC.

    Returns:
        Messages by subject. A subject stays the same while a fault lasts, although its message changes.
    """
    assert spec.actions is not None
    found = stuck(root, status, spec.actions.lateness, now)
    read = ReadFiles.load(joiner_folder(root))
    for side in SIDES:
        if changed := read.changed(root, side):
            more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
            found[f"{side} changed"] = (
                f"{side}/{changed[0]}{more} changed after it was read: added rows are not joined; write them to a new file"
            )
    if status is None:
        return found
    recent, when = status.recent, f"in the {HOURS} hours before the last batch"
    if recent.late_share > MAX_LATE_SHARE:
        found["late"] = f"{recent.late:,} events are late {when}; a larger lateness_minutes waits for them"
    most = spec.expectations.quarantine_rate.max
    if most is not None and recent.quarantined_share > most:
        found["quarantined"] = (
            f"{recent.quarantined:,} rows and files are in quarantine ({recent.quarantined_share:.1%}) {when}, more than "
            f"expectations.quarantine_rate allows; {root / 'quarantine'} has the reasons"
        )
    return found


def stuck(root: UPath, status: StreamStatus | None, lateness: int, now: float | None = None) -> dict[str, str]:
    """Returns why a live join makes no progress; empty if it does, or if nothing has arrived.

    Args:
        root: Folder of the stream.
        status: Its status; None before the first batch.
        lateness: `Actions.lateness` in microseconds: a log that is silent for longer than this makes events late.
        now: The present in seconds since 1970 UTC.

    Returns:
        Messages by subject.
    """
    now = time.time() if now is None else now
    written = status.written_at if status else 0.0
    read = ReadFiles.load(joiner_folder(root))
    found, ages = {}, {}
    for side in SIDES:
        names = arriving_files(root / side)
        ages[side] = min((age for name in names if (age := _age(root / side / name, now)) is not None), default=None)
        if unread := read.unread(root, side):
            age = _age(root / side / unread[0], now)
            if age is not None and (waiting := min(age, now - written)) > STUCK_SECONDS:
                found[f"{side} unread"] = f"{side}/{unread[0]} has not been read for {waiting:.0f} s; is `make join` running?"
    newest = min((age for age in ages.values() if age is not None), default=0.0)
    for side, age in ages.items():
        silent = "although the other log continues; its events will be late"
        if age is None and any(of is not None for of in ages.values()):
            found[f"{side} silent"] = f"{side}: no file has arrived, {silent}"
        elif age is not None and age - newest > max(lateness / 1e6, STUCK_SECONDS):
            found[f"{side} silent"] = f"{side}: no file has arrived for {age:.0f} s, {silent}"
    # With hourly files, each file is an hour ahead until the next one arrives. Warn after twice that time.
    if status and status.ahead and now - written > max(STUCK_SECONDS, 2 * status.ahead / 1e6):
        found["ahead"] = (
            f"the times of one file are {status.ahead / 1e6:,.0f} s ahead of the other files of its log, and no second "
            "file confirms them: a clock may be wrong, so the watermark waits for a second file"
        )
    return found


def _age(path: UPath, now: float) -> float | None:
    """Seconds since a file was written; None if it was removed since it was listed."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return None
