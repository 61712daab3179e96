"""What the simulated world's users are shown in an hour, and how probably they click: the model behind the built-in log.

The log-odds of a click add up what a person brings (propensity, device, the hour where they live), what an item
brings (quality, freshness, price, its category's fashion of the week) and their affinity, the product of latent
factors (low rank, as in Koren et al., 2009). Who they are is `ml.logs.synthetic.population`; how a day of it becomes a landing
file is `ml.logs.synthetic.simulate`.
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
    """N impressions of one hour, in time order. `user` and `item` are indices into the day's Users and Items."""

    time_ms: Ints
    user: Ints
    item: Ints
    device: Ints
    item_age_hours: Floats
    probability: Floats  # of a click; rounded first, so that what is written is exactly what `clicked` was drawn from
    clicked: NDArray[np.bool_]


def draw(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    """[count] indices, drawn in proportion to `weights`. Raises `ValueError` where all are zero."""
    total = np.cumsum(weights)
    if not total[-1] > 0:
        raise ValueError("nobody is awake or nothing is alive: all weights are zero")
    return np.minimum(np.searchsorted(total, rng.random(count) * total[-1], side="right"), len(weights) - 1)


def draw_hour(world: World, users: Users, items: Items, seed: int, day: int, hour: int, count: int) -> Impressions:
    """`count` impressions of one hour of a day (days since 1970-01-01, UTC)."""
    rng = generator(seed, Stream.IMPRESSIONS, day, hour)
    start = day + hour / 24
    time_ms = np.sort(rng.integers(0, 3_600_000, count)) + round(start * 24) * 3_600_000
    user = draw(users.awake(hour), count, rng)
    item = draw(items.shown(world, start + 1 / 24), count, rng)
    age = np.maximum(np.round(time_ms / 3_600_000 - items.born[item] * 24, 2), 0.0)
    device = np.where(rng.random(count) < 0.8, users.device[user], draw(DEVICE_SHARE, count, rng))
    local = (hour + UTC_OFFSET[users.country[user]]) % 24
    category = items.category[item]
    affinity = np.einsum("nk,nk->n", users.tastes(world, start)[user], items.factors[item]) / np.sqrt(FACTORS)
    log_odds = (
        INTERCEPT
        + users.propensity[user]
        + DEVICE_EFFECT[device]
        + 0.25 * np.cos(2 * np.pi * (local - 21) / 24)
        + items.quality[item]
        + world.fashion(start)[category]
        - 0.12 * (np.log(items.price[item]) - 2.2)
        - STALENESS * (np.log1p(age) - 3.0)
        + 0.7 * affinity
    )
    probability = np.round(1 / (1 + np.exp(-log_odds)), 6)
    return Impressions(time_ms, user, item, device, age, probability, rng.random(count) < probability)
