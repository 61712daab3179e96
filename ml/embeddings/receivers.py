"""Which receivers of deltas there are, and up to which step each of them has applied changes.

Tables that delete rows keep tombstones of them until every registered receiver has acknowledged a later step. A receiver that
has been silent for too long is dropped, because tombstones would otherwise grow without bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ml.embeddings.delta import Gap

RECEIVER_TTL = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Receiver:
    """What is known of one receiver.

    Args:
        step: The latest step that it has acknowledged.
        heard: When it last registered or acknowledged, in seconds of the ledger's clock.
    """

    step: int
    heard: float


class Receivers:
    """Ledger of the receivers of one collection's deltas.

    Args:
        clock: Returns the present time in seconds; only differences are used. With snapshots that outlive the process it must
            continue across processes, such as `time.time`.
        ttl: Seconds of silence after which a receiver is dropped (`receiver_ttl`).

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
        if ttl <= 0:
            raise ValueError(f"receiver_ttl must be positive, found {ttl}")
        self.clock, self.ttl = clock, ttl
        self.known: dict[str, Receiver] = {}

    def __len__(self) -> int:
        return len(self.known)

    def register(self, name: str, step: int) -> None:
        """Adds a receiver, or registers it again.

        Args:
            name: Identifies the receiver across its restarts.
            step: The step that it is at: of the snapshot that it has loaded.
        """
        self.known[name] = Receiver(step, self.clock())

    def acknowledge(self, name: str, step: int) -> None:
        """Records that a receiver has applied all changes up to and including a step. An earlier step is a sign of life alone.

        Raises:
            Gap: The receiver is not registered, or was dropped for its silence.
        """
        self.drop_silent()
        if name not in self.known:
            raise Gap(
                f"receiver {name!r} is not registered, or was dropped after {self.ttl:g} seconds of silence (receiver_ttl): "
                "load a snapshot, then register at its step"
            )
        self.known[name] = Receiver(max(step, self.known[name].step), self.clock())

    def drop_silent(self) -> list[str]:
        """Drops receivers that have been silent for longer than `ttl`, and returns their names."""
        now = self.clock()
        dropped = [name for name, receiver in self.known.items() if now - receiver.heard > self.ttl]
        for name in dropped:
            del self.known[name]
        return dropped

    def oldest_step(self) -> int | None:
        """Returns the step that every receiver has acknowledged, None without receivers; silent receivers are dropped first."""
        self.drop_silent()
        return min((receiver.step for receiver in self.known.values()), default=None)

    def to_tensor(self) -> torch.Tensor:
        """Returns the ledger as uint8 [n], for a training state: JSON of names to steps and times."""
        held = {name: [receiver.step, receiver.heard] for name, receiver in sorted(self.known.items())}
        return torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8)

    def restore(self, saved: torch.Tensor) -> None:
        """Replaces the ledger by what `to_tensor` returned."""
        self.known = _read(saved)


def merge_receivers(saved: Sequence[torch.Tensor]) -> torch.Tensor:
    """Merges the ledgers of collections that share rows among them, as `Receivers.to_tensor` returned them.

    Returns:
        The receivers that all of them have, each at the earliest step that it has acknowledged to any. One that was dropped
        anywhere is left out, because tombstones that it needs may have been trimmed there.
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
