"""Ends commands that follow a stream folder, as a user does."""

from __future__ import annotations

import signal

import pytest

from ml.online.stream import StreamFolder


def interrupt_when_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver Ctrl-C to a process that follows a stream folder when there is nothing left to read."""
    follow = StreamFolder.follow

    def interrupted(self, position, wait, on_wait, passed):  # type: ignore[no-untyped-def]
        return follow(self, position, wait, lambda text: (on_wait(text), signal.raise_signal(signal.SIGINT)), passed)

    monkeypatch.setattr(StreamFolder, "follow", interrupted)
