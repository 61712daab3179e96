"""A live join of wide rows whose state is larger than its memory. All rows of a partition are in one bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.joiner_memory import joined, measure, write_streams
from tests.helpers.trials import TRIALS

ROW_BYTES, HEAP_MB, STATE_MB = 4000, 500, 4
IMPRESSIONS, LEAST_STATE_MB = (130_000, HEAP_MB) if TRIALS > 1 else (30_000, 25 * STATE_MB)
PROCESS_MB = 700
"""Compiled code, classes and buffers of Java outside its heap."""


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_state_larger_than_its_memory_is_joined(tmp_path: Path) -> None:
    """In the soak, the state is larger than Java's heap too."""
    truth, events = write_streams(tmp_path, IMPRESSIONS, ROW_BYTES, minutes=30)
    found = measure(tmp_path, events, HEAP_MB, STATE_MB, batch_bytes=IMPRESSIONS * ROW_BYTES // 8)
    assert joined(tmp_path).sort_by("request").equals(truth.sort_by("request")), "each example once, with its label"
    assert found.state_mb > LEAST_STATE_MB and found.rocksdb_mb <= 4 * STATE_MB, found
    assert found.java_mb <= HEAP_MB + 4 * STATE_MB + PROCESS_MB, found
