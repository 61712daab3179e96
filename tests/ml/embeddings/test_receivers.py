"""The ledger drops silent receivers, and returns the latest step that all receivers have acknowledged."""

from __future__ import annotations

import doctest

import pytest

import ml.embeddings.receivers
from ml.embeddings.delta import Gap
from ml.embeddings.receivers import Receivers, merge_receivers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ledger(clock: Clock, **steps: int) -> Receivers:
    receivers = Receivers(clock, ttl=60.0)
    for name, step in steps.items():
        receivers.register(name, step)
    return receivers


def test_examples() -> None:
    assert doctest.testmod(ml.embeddings.receivers).failed == 0


def test_the_oldest_step_is_the_minimum_over_receivers() -> None:
    receivers = ledger(Clock(), one=5, other=9)
    assert receivers.oldest_step() == 5
    receivers.acknowledge("one", 30)
    assert receivers.oldest_step() == 9
    receivers.acknowledge("other", 3)
    assert receivers.oldest_step() == 9, "an earlier step does not replace a later one"
    assert ledger(Clock()).oldest_step() is None


def test_a_silent_receiver_is_dropped_and_must_load_a_snapshot() -> None:
    clock = Clock()
    receivers = ledger(clock, silent=1, alive=2)
    clock.now = 40.0
    receivers.acknowledge("alive", 7)
    clock.now = 60.0
    assert receivers.drop_silent() == [], "silence must exceed the time to live"
    clock.now = 61.0
    assert receivers.drop_silent() == ["silent"] and receivers.oldest_step() == 7
    with pytest.raises(Gap, match=r"receiver 'silent' is not registered, or was dropped after 60 seconds.*load a snapshot"):
        receivers.acknowledge("silent", 8)
    receivers.register("silent", 8)
    receivers.acknowledge("silent", 9)
    assert len(receivers) == 2


def test_an_acknowledgement_after_the_time_to_live_is_refused() -> None:
    clock = Clock()
    receivers = ledger(clock, one=1)
    clock.now = 61.0
    with pytest.raises(Gap):
        receivers.acknowledge("one", 2)
    assert receivers.oldest_step() is None


def test_a_ledger_survives_a_snapshot() -> None:
    clock = Clock()
    clock.now = 3.5
    receivers, again = ledger(clock, one=5, other=9), Receivers(clock, ttl=60.0)
    again.restore(receivers.to_tensor())
    assert again.known == receivers.known
    assert again.to_tensor().tolist() == ledger(clock, other=9, one=5).to_tensor().tolist(), "order does not matter"
    clock.now = 63.6
    assert again.oldest_step() is None, "time between processes counts as silence"


def test_a_merged_ledger_has_the_receivers_that_all_ranks_have() -> None:
    clock = Clock()
    one = ledger(clock, a=5, b=9, dropped=1)
    clock.now = 7.0
    other = ledger(clock, a=8, b=2)
    merged = Receivers(clock)
    merged.restore(merge_receivers([one.to_tensor(), other.to_tensor()]))
    assert {name: (receiver.step, receiver.heard) for name, receiver in merged.known.items()} == {"a": (5, 7.0), "b": (2, 7.0)}


@pytest.mark.parametrize("ttl", [0.0, -1.0])
def test_a_time_to_live_that_is_not_positive_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="receiver_ttl must be positive"):
        Receivers(Clock(), ttl)
