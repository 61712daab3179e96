"""Adds stored events to the state that answers requests, and logs errors."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pyarrow as pa

_log = logging.getLogger("evergreen")


def observe_stored(observe: Callable[[pa.Table], None], rows: pa.Table) -> None:
    """Observe stored events. An error is logged, because a client must not send again what is stored."""
    try:
        observe(rows)
    except Exception:
        _log.exception("%d events were stored, but could not be added to this process's live state", len(rows))
