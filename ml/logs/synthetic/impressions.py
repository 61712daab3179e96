"""Draws the impressions of one simulated hour and their click probabilities: the model behind the built-in log.

The log-odds of a click are a sum of user terms (propensity, device, local hour), item terms (quality, freshness, price, the
current fashion of its category) and their affinity, a product of latent factors (Koren et al., 2009).
`ml.logs.synthetic.population` makes users and items; `ml.logs.synthetic.simulate` writes a day to a landing file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.logs.synthetic.population import DEVICE_SHARE, FACTORS, UTC_OFFSET, Floats, Ints, Items, Stream, Users, World, generator

INTERCEPT = -2.8
DEVICE_EFFECT = np.array([0.12, -0.1, 0.05, -0.5])
STALENESS = 0.12  # log-odds lost per unit of log1p(age in hours)


@dataclass(frozen=True)
class Impressions:
    """N impressions of one hour, in time order.

    Attributes:
        time_ms: Milliseconds since 1970 UTC, int64 [N].
        user: Index into the day's `Users`, int64 [N].
        item: Index into the day's `Items`, int64 [N].
        device: Index into `DEVICES`, int64 [N].
        item_age_hours: Hours since the item's birth, float64 [N].
        probability: Probability of a click, float64 [N]. Rounded before clicks are drawn, so that it is exact in the log.
        clicked: Whether the user clicked, bool [N].
    """

    time_ms: Ints
    user: Ints
    item: Ints
    device: Ints
    item_age_hours: Floats
    probability: Floats
    clicked: NDArray[np.bool_]


def draw_weighted(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    """Draws indices in proportion to `weights`, int64 [count]. Raises `ValueError` if all weights are zero."""
    total = np.cumsum(weights)
    if not total[-1] > 0:
        raise ValueError("cannot draw impressions: all weights are zero; give the simulation more users or items")
    return np.minimum(np.searchsorted(total, rng.random(count) * total[-1], side="right"), len(weights) - 1)


def click_log_odds(
    world: World,
    users: Users,
    items: Items,
    tastes_of: float,
    hour: int,
    user: Ints,
    item: Ints,
    device: Ints,
    age: Floats,
) -> Floats:
    """Computes the log-odds of a click for N impressions.

    Args:
        world: Latent factors and fashions.
        users: All users.
        items: All items.
        tastes_of: Time in days since 1970 whose tastes and fashions hold.
        hour: Hour of the day, UTC.
        user: Index into `users`, [N].
        item: Index into `items`, [N].
        device: Index into `DEVICES`, [N].
        age: Hours since the birth of the item, [N].

    Returns:
        float64 [N].
    """
    local = (hour + UTC_OFFSET[users.country[user]]) % 24
    category = items.category[item]
    affinity = np.einsum("nk,nk->n", users.tastes(world, tastes_of)[user], items.factors[item]) / np.sqrt(FACTORS)
    return (
        INTERCEPT
        + users.propensity[user]
        + DEVICE_EFFECT[device]
        + 0.25 * np.cos(2 * np.pi * (local - 21) / 24)
        + items.quality[item]
        + world.fashion(tastes_of)[category]
        - 0.12 * (np.log(items.price[item]) - 2.2)
        - STALENESS * (np.log1p(age) - 3.0)
        + 0.7 * affinity
    )


def draw_hour(world: World, users: Users, items: Items, seed: int, day: int, hour: int, count: int) -> Impressions:
    """Draws the impressions of one hour.

    Args:
        world: Latent factors and fashions.
        users: All users.
        items: The items that are alive on the day.
        seed: The log's seed.
        day: Days since 1970-01-01, UTC.
        hour: Hour of the day, UTC.
        count: Number of impressions.
    """
    rng = generator(seed, Stream.IMPRESSIONS, day, hour)
    start = day + hour / 24
    time_ms = np.sort(rng.integers(0, 3_600_000, count)) + round(start * 24) * 3_600_000
    user = draw_weighted(users.activity_in(hour), count, rng)
    item = draw_weighted(items.exposure_at(world, start + 1 / 24), count, rng)
    age = np.maximum(np.round(time_ms / 3_600_000 - items.born[item] * 24, 2), 0.0)
    device = np.where(rng.random(count) < 0.8, users.device[user], draw_weighted(DEVICE_SHARE, count, rng))
    log_odds = click_log_odds(world, users, items, start, hour, user, item, device, age)
    probability = np.round(1 / (1 + np.exp(-log_odds)), 6)
    return Impressions(time_ms, user, item, device, age, probability, rng.random(count) < probability)
