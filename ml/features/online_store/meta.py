"""The metadata of a store: its plan, the position in the stream, the times of its events, and counters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import lmdb

from ml.features.online_store.environment import Environment

_KEY = b"meta"
NEVER = -(1 << 63)
NOT_BEGUN = (1 << 63) - 1


@dataclass(frozen=True)
class Meta:
    """The state of a store.

    Attributes:
        fingerprint: Fingerprint of the plan.
        position: Position in the stream, as JSON values; None before the first part.
        newest: Latest event time, in microseconds since 1970 UTC.
        settled: Latest median of the event times of a part. What is kept is counted back from it, so that a single row with a
            wrong time does not delete events.
        complete_from: Look-ups as of this instant or later find all events of their windows that were applied.
        began: Earliest median of the event times of a part. Windows that begin earlier may lack events from before the stream.
        parts: Number of parts that were applied.
        rows: Number of rows that were applied.
        late: Number of events that were earlier than sealed events of their entity.
        swept: Key after which the next sweep begins, in hexadecimal digits.
    """

    fingerprint: str
    position: Mapping[str, Any] | None = None
    newest: int = NEVER
    settled: int = NEVER
    complete_from: int = NEVER
    began: int = NOT_BEGUN
    parts: int = 0
    rows: int = 0
    late: int = 0
    swept: str = ""


def read_meta(txn: lmdb.Transaction, held: Environment) -> Meta | None:
    """Return the state of a store; None if nothing was stored yet."""
    found = txn.get(_KEY, None, held.meta)
    return None if found is None else Meta(**json.loads(bytes(found)))


def write_meta(txn: lmdb.Transaction, held: Environment, meta: Meta) -> None:
    """Store the state."""
    txn.put(_KEY, json.dumps(asdict(meta)).encode(), db=held.meta)
