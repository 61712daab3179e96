"""Ledger of the receivers of deltas and the latest step that each receiver has acknowledged.

Tables that delete rows keep tombstones until every registered receiver has acknowledged the step of the deletion. A receiver
that is silent for too long is dropped, because tombstones would otherwise grow without bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ml.embeddings.delta import Gap

RECEIVER_TTL = 7 * 24 * 3600.0
"""Default `receiver_ttl`, in seconds."""


@dataclass(frozen=True)
class Receiver:
    """The ledger's entry for one receiver.

    Args:
        step: Latest step that the receiver has acknowledged.
        heard: Time of its last registration or acknowledgement, in seconds on the ledger's clock.
    """

    step: int
    heard: float


class Receivers:
    """Ledger of the receivers of one collection's deltas.

    Args:
        clock: Returns the current time in seconds; only differences are used. Snapshots contain its times, so the same training
            gives the same bytes only with a clock that follows the data, as `Store.event_seconds` does. Infinity before the
            first event; the silence of a receiver that registered before it starts when the ledger is next read.
        ttl: Seconds of silence after which a receiver is dropped (`receiver_ttl`).

    Raises:
        ValueError: If `ttl` is not positive.

    Example:
        >>> now = 0.0
        >>> receivers = Receivers(lambda: now, ttl=60.0)
        >>> receivers.register("server", step=10)
        >>> receivers.register("backup", step=3)
        >>> receivers.oldest_step()
        3
        >>> now = 45.0
        >>> receivers.acknowledge("server", step=25)
        >>> now = 90.0
        >>> receivers.oldest_step()
        25
    """

    def __init__(self, clock: Callable[[], float], ttl: float = RECEIVER_TTL) -> None:
        self.clock = clock
        self.set_ttl(ttl)
        self.known: dict[str, Receiver] = {}

    def __len__(self) -> int:
        return len(self.known)

    def set_ttl(self, seconds: float) -> None:
        """Set the time of silence after which a receiver is dropped.

        Raises:
            ValueError: If the time is not positive.
        """
        if seconds <= 0:
            raise ValueError(f"receiver_ttl must be positive, found {seconds}")
        self.ttl = seconds

    def register(self, name: str, step: int) -> None:
        """Add a receiver, or replace its entry.

        Args:
            name: Name of the receiver, which must stay the same when the receiver restarts.
            step: The receiver's current step, usually the step of the snapshot that it loaded.
        """
        self.known[name] = Receiver(step, self.clock())

    def acknowledge(self, name: str, step: int) -> None:
        """Record that a receiver has applied all changes up to and including a step.

        A step that is not later than the last acknowledged step only records that the receiver is alive.

        Raises:
            Gap: If the receiver is not registered, or was dropped because it was silent for too long.
        """
        self.drop_silent()
        if name not in self.known:
            raise Gap(
                f"receiver {name!r} is not registered, or was dropped after {self.ttl:g} seconds of silence (receiver_ttl): "
                "load a snapshot, then register at its step"
            )
        self.known[name] = Receiver(max(step, self.known[name].step), self.clock())

    def drop_silent(self) -> list[str]:
        """Drop receivers that have been silent for longer than `ttl`, and return their names."""
        now = self.clock()
        for name, receiver in self.known.items():
            if receiver.heard > now:  # it registered before the first event
                self.known[name] = Receiver(receiver.step, now)
        dropped = [name for name, receiver in self.known.items() if now - receiver.heard > self.ttl]
        for name in dropped:
            del self.known[name]
        return dropped

    def oldest_step(self) -> int | None:
        """Return the latest step that all receivers have acknowledged; None without receivers.

        Silent receivers are dropped first.
        """
        self.drop_silent()
        return min((receiver.step for receiver in self.known.values()), default=None)

    def to_tensor(self) -> torch.Tensor:
        """Return the ledger as uint8 [n], for a training state: JSON that maps names to steps and times."""
        held = {name: [receiver.step, receiver.heard] for name, receiver in sorted(self.known.items())}
        return torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8)

    def restore(self, saved: torch.Tensor) -> None:
        """Replace all entries with those of a tensor that `to_tensor` returned."""
        self.known = _read(saved)


def merge_receivers(saved: Sequence[torch.Tensor]) -> torch.Tensor:
    """Merge the ledgers of the ranks that share one collection's rows.

    Args:
        saved: One ledger per rank, as `Receivers.to_tensor` returns it.

    Returns:
        The merged ledger, uint8 [n]. It has the receivers that are in every ledger, each at its earliest step in any of them.
        A receiver that any rank has dropped is left out, because that rank may have trimmed tombstones that it needs.
    """
    ledgers = [_read(one) for one in saved]
    merged = Receivers(lambda: 0.0)
    for name in set.intersection(*(set(ledger) for ledger in ledgers)):
        shares = [ledger[name] for ledger in ledgers]
        merged.known[name] = Receiver(min(share.step for share in shares), max(share.heard for share in shares))
    return merged.to_tensor()


def _read(saved: torch.Tensor) -> dict[str, Receiver]:
    held = json.loads(bytes(saved.tolist()))
    return {name: Receiver(step, heard) for name, (step, heard) in held.items()}
