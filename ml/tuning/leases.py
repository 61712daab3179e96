"""How long a suggestion belongs to a worker that no longer reports.

A worker names itself with the header `X-Evergreen-Worker`, with a token of the form `TOKEN@WORKER`, or with the key
`evergreen_worker` in the metadata of a suggestion or run. A named worker has at most one open suggestion per experiment: asking
again returns the same one. Its lease ends unless the worker renews it, and then the suggestion no longer counts against the
budget. A caller without a name gets a new suggestion each time, as in SigOpt, and keeps it for `anonymous` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_BEATS = 3


@dataclass(frozen=True)
class Leases:
    """Durations, in seconds.

    Attributes:
        beat: How often a named worker is expected to report.
        lease: How long its suggestion belongs to it after the last report; at least three beats, so that one lost report and a
            slow one do no harm.
        anonymous: How long a suggestion belongs to a caller that did not name itself.

    Raises:
        ValueError: A duration is not positive, or the lease is shorter than three beats.
    """

    beat: float = 60
    lease: float = 300
    anonymous: float = 24 * 3600

    def __post_init__(self) -> None:
        if min(self.beat, self.lease, self.anonymous) <= 0:
            raise ValueError("beat, lease and anonymous must be positive")
        if self.lease < MIN_BEATS * self.beat:
            raise ValueError(f"lease must be at least {MIN_BEATS} beats, {MIN_BEATS * self.beat:g} s, but is {self.lease:g} s")

    def deadline(self, worker: str | None, now: float) -> float:
        """Return the end of a lease that starts or is renewed now."""
        return now + (self.anonymous if worker is None else self.lease)
