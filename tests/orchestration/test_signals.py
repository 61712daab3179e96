"""Signals that stop commands."""

from __future__ import annotations

import signal

from orchestration.signals import stopped_by_signals


def test_signals_set_the_event_and_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopped_by_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set() and not stop.again.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.again.is_set()
    assert signal.getsignal(signal.SIGINT) is before
