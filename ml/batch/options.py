"""What a batch of recommendations is for: how many items, and which users."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchOptions:
    """Options of a batch.

    Attributes:
        k: Number of items for each user.
        user_days: Users of this many days of the log, the last of which is the day, get recommendations.
        exclude_seen: Whether to leave out the users' last items.
    """

    k: int = 20
    user_days: int = 30
    exclude_seen: bool = True
