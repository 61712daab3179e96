"""Memory of the trainer, a receiver and the feeder while events are replayed for a long time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.memory_run import ROLES, measure
from tests.helpers.trials import TRIALS

HOURS, SPEED = (24.0, 50.0) if TRIALS > 1 else (1.0, 400.0)
LIMITS = {"feeder": 40.0, "trainer": 80.0, "receiver": 40.0}
"""Growth in MB after the warm-up that is accepted. The trainer keeps the predictions of the day for its scores."""


@pytest.mark.slow
@pytest.mark.soak
def test_memory_is_bounded_while_events_are_replayed(tmp_path: Path) -> None:
    """`make soak` replays a day at 50 times real time, which takes 29 minutes; `make test` replays an hour."""
    run = measure(tmp_path, HOURS, SPEED, every=4.0 if TRIALS > 1 else 0.5)
    assert run.slices == HOURS * 60 and run.lag[-1] < 15
    hours = run.seconds[-1] / 3600
    grown = {role: run.slope(role) * hours for role in ROLES}
    assert all(grown[role] <= LIMITS[role] for role in ROLES), grown
