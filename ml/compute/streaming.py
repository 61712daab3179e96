"""Stops queries of Spark Structured Streaming between two batches."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

_POLL_SECONDS = 0.02


def stop_query(query: StreamingQuery, at_once: threading.Event, seconds: float = math.inf) -> None:
    """Stops a query when it has no batch in progress. If a batch is interrupted, Spark's processes print errors.

    Args:
        query: The query.
        at_once: If this event is set, the query is stopped without waiting.
        seconds: Longest wait.
    """
    until = time.monotonic() + seconds
    while is_busy(query) and time.monotonic() < until and not at_once.wait(_POLL_SECONDS):
        pass
    query.stop()


def is_busy(query: StreamingQuery) -> bool:
    """Returns whether a query starts, looks for files, or has a batch in progress."""
    status = query.status
    return query.isActive and (status["isTriggerActive"] or not status["message"].startswith("Waiting for"))
