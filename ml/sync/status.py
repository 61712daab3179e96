"""What a receiver reports: what it has applied, how far it is behind, what it has refused, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ml.sync.manifest import Kind

Reason = Literal["folder", "head", "missing", "damaged", "format", "gap", "model", "schema", "not_finite", "dropped", "quality"]
"""Why something was refused.

| reason    | meaning                                                                                |
|-----------|----------------------------------------------------------------------------------------|
| `folder`  | the folder cannot be read or written                                                   |
| `head`    | `head.json` is missing or damaged                                                      |
| `missing` | a package is missing, or not complete yet                                              |
| `damaged` | a file of a package is missing, has changed, or does not belong to the package         |
| `format`  | a package is in an unknown format                                                      |
| `gap`     | changes between the served version and a delta are missing                             |
| `model`   | a package belongs to another dataset or model                                          |
| `schema`  | a model was made under another specification of the dataset                            |
| `not_finite` | a weight is not a finite number                                                     |
| `dropped` | the publisher has dropped the receiver, which was silent for too long                  |
| `quality` | the probe has scored a version significantly worse than the last good one              |
"""


class Refused(Exception):
    """A package, or the whole folder, is refused. What is served is not changed."""

    def __init__(self, reason: Reason, text: object) -> None:
        super().__init__(str(text))
        self.reason: Reason = reason


@dataclass(frozen=True)
class Applied:
    """What one call of `Receiver.poll` has applied.

    Attributes:
        kind: `snapshot` if the model was loaded again, otherwise `delta`.
        run_id: The run.
        since: Version served before; None for the first one of a run.
        version: Version served afterwards.
        rows: Rows that were written.
        nbytes: Bytes that were read.
        event_to: Latest event that the version was trained on, in microseconds since 1970 UTC.
        published_at: Time at which the version was published, in seconds since 1970 UTC.
        applied_at: Time from which all predictions use the version, in seconds since 1970 UTC.
        seconds: Duration of each activity: `wait` from the publication to the call, `read`, `apply` and `probe`. In a service,
            `apply` includes waits for requests; see `ml.give_way`.
    """

    kind: Kind
    run_id: str
    since: int | None
    version: int
    rows: int
    nbytes: int
    event_to: int | None
    published_at: float
    applied_at: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class ReceiverStatus:
    """State of a receiver.

    Attributes:
        name: Name of the receiver.
        run_id: The served run; None before the first snapshot.
        version: The served version. While deltas are being applied, some rows may be of the next version.
        newest: Newest published version that the receiver knows of.
        event_to: Latest event that the served version was trained on, in microseconds since 1970 UTC.
        rows_applied: Rows written by deltas since the start of the process.
        snapshots: Snapshots loaded since the start of the process.
        lag_event_seconds: Event time between the latest events of the newest and the served version; None if unknown.
        lag_wall_seconds: Time since the first publication that is not applied yet; 0 without one.
        refused: Number of different refusals by reason.
        refusal: Why the newest version is not served; None if it is, or nothing was refused.
        last_refusal: Text of the last refusal.
        rollbacks: Number of rollbacks.
        rolled_back_from: Version that the last rollback has left, while the version before it is served; otherwise None.
        seconds: Total duration of each activity, as in `Applied`.
    """

    name: str
    run_id: str | None
    version: int | None
    newest: int | None
    event_to: int | None
    rows_applied: int
    snapshots: int
    lag_event_seconds: float | None
    lag_wall_seconds: float
    refused: Mapping[Reason, int]
    refusal: str | None
    last_refusal: str | None
    rollbacks: int
    rolled_back_from: int | None
    seconds: Mapping[str, float]
