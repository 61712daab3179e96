"""Simulated users whose tastes are known: the users, items and click probabilities of the generator of the synthetic log.

The set of items is fixed, so that only tastes change. Tastes drift as in the generator before the loop, `drift` times as fast
during it, and by many days at once at the change of taste.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.days import MICROSECONDS_PER_HOUR
from ml.hashing import mix64_array
from ml.logs.synthetic.impressions import click_log_odds, draw_weighted
from ml.logs.synthetic.population import CATEGORIES, COUNTRIES, DEVICE_SHARE, DEVICES, Floats, Ints, Items, Users, World
from ml.loop.settings import Settings

MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR
AGE_GROUPS = (18, 25, 35, 45, 55, 65)
"""Lower bounds of the groups of ages, after the youngest."""


class Population:
    """The users and items of a loop.

    Args:
        settings: Sizes, the seed and the changes of taste.

    Attributes:
        item_ids: Ids of the I items, int64 [I].

    Example:
        >>> settings = Settings(users=5, items=4)
        >>> Population(settings).click_chances(settings.start, user=0, device=1).shape
        (4,)
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._world, self._users = World.of(settings.seed), Users.of(settings.seed, settings.users)
        day = (date.fromisoformat(settings.first_day) - date(1970, 1, 1)).days
        held = Items.alive_on(self._world, settings.seed, 2 * settings.items, day)
        oldest = np.argsort(held.born, kind="stable")[: settings.items]
        self._items = Items(**{name: getattr(held, name)[oldest] for name in Items.__dataclass_fields__})
        self.item_ids: Ints = self._items.id

    def tastes_of(self, time: int) -> float:
        """Return the day of the generator whose tastes hold at a simulated time, in days since 1970."""
        settings = self.settings
        since = max(time - settings.start, 0)
        jumps = settings.jump_days if settings.change is not None and time >= settings.change else 0.0
        return (time + (settings.drift - 1) * since) / MICROSECONDS_PER_DAY + jumps

    def click_chances(self, time: int, user: int, device: int) -> Floats:
        """Return the probability that a user clicks each item, float64 [I].

        Args:
            time: Simulated time, in microseconds since 1970 UTC.
            user: Index of the user.
            device: Index into `DEVICES`.
        """
        count = len(self.item_ids)
        age = np.maximum(time / MICROSECONDS_PER_HOUR - self._items.born * 24, 0.0)
        hour = datetime.fromtimestamp(time / 1e6, UTC).hour
        whole = (np.full(count, user), np.arange(count), np.full(count, device), age)
        odds = click_log_odds(self._world, self._users, self._items, self.tastes_of(time), hour, *whole)
        return 1 / (1 + np.exp(-odds))

    def draw_visits(self, time: int, among: Ints, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Draw who visits.

        Args:
            time: Simulated time, in microseconds since 1970 UTC.
            among: Indices of the users that can visit.
            count: Number of visits N.
            rng: Draws them.

        Returns:
            Indices of users and of their devices, int64 [N] each.
        """
        hour = datetime.fromtimestamp(time / 1e6, UTC).hour
        user = among[draw_weighted(self._users.activity_in(hour)[among], count, rng)]
        device = np.where(rng.random(count) < 0.8, self._users.device[user], draw_weighted(DEVICE_SHARE, count, rng))
        return user, device

    def users_of(self, arm: str) -> Ints:
        """Return the indices of the users of an arm, int64. The arm of a user depends on a hash of the user's id alone."""
        users, arms = np.arange(self.settings.users), self.settings.arms
        return users[mix64_array(users.astype(np.uint64) + np.uint64(1)) % np.uint64(len(arms)) == arms.index(arm)]

    def context_of(self, user: int, device: int) -> dict[str, Any]:
        """Return the columns of the log that describe a request."""
        group = int(np.searchsorted(AGE_GROUPS, self._users.age[user], side="right"))
        bounds = (0, *AGE_GROUPS)
        return {
            "country": COUNTRIES[self._users.country[user]],
            "age_group": f"{bounds[group]}+",
            "device": DEVICES[device],
        }

    def item_columns(self, items: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the columns of the log that describe items, by name. items: indices, [N]."""
        held = self._items
        return {
            "category": [CATEGORIES[c] for c in held.category[items]],
            "price": held.price[items].tolist(),
            "tags": held.tags[items].tolist(),
        }


def user_id(user: int) -> int:
    """Return the id of a user in the log."""
    return user + 1
