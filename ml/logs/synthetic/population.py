"""Makes the simulated users with drifting tastes, items that are born and die, and categories with changing fashions.

Everything is a function of (seed, time): users and tastes depend on the seed alone, items on the seed and the day of their
birth. So any day can be simulated without the days before it. A taste is `a cos θ + b sin θ` of two fixed Gaussian vectors,
with θ proportional to time: it drifts indefinitely and keeps its variance. `ml.logs.synthetic.impressions` draws impressions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FACTORS = 6
CATEGORIES = ("news", "sport", "music", "film", "games", "travel", "food", "fashion", "garden", "pets", "science", "health",
              "money", "cars", "books", "art", "kids", "tools", "phones", "politics")  # fmt: skip
COUNTRIES = ("US", "BR", "IN", "DE", "FR", "GB", "JP", "MX", "ES", "NG", "KR", "AU")
COUNTRY_SHARE = np.array([0.22, 0.15, 0.14, 0.09, 0.08, 0.08, 0.07, 0.05, 0.04, 0.03, 0.03, 0.02])
UTC_OFFSET = np.array([-6, -3, 5, 1, 1, 0, 9, -6, 1, 1, 9, 10])
DEVICES = ("phone", "desktop", "tablet", "tv")
DEVICE_SHARE = np.array([0.62, 0.26, 0.08, 0.04])
TAGS_PER_CATEGORY = 8

LIFE_DAYS = (1.0, 13.0)  # bounds of an item's lifetime, which is uniform
RISE_DAYS = 0.25  # from birth to the peak of an item's popularity


class Stream:
    """Purposes of random streams. A purpose is part of the seed, so that no two streams draw the same numbers."""

    WORLD, USERS, ITEMS, IMPRESSIONS, CORRUPTION = range(5)


def generator(seed: int, stream: int, *parts: int) -> np.random.Generator:
    """The random generator of one seed, purpose and parts such as a day and an hour."""
    return np.random.default_rng([seed, stream, *parts])


def rotate(a: Floats, b: Floats, angle: Floats) -> Floats:
    """Rotates vectors in the plane of `a` and `b` [N, K] by `angle` [N], in radians, which keeps their variance."""
    return a * np.cos(angle)[:, None] + b * np.sin(angle)[:, None]


@dataclass(frozen=True)
class World:
    """Parameters shared by users and items: latent centres of C categories and their tags, of P countries, and fashions."""

    category: Floats  # [C, K] centre of the items of a category
    tag: Floats  # [C, TAGS_PER_CATEGORY, K]
    country: tuple[Floats, Floats]  # two of [P, K], between which the taste of a country rotates
    generation: Floats  # [K] change of taste with age
    shelf_days: Floats  # [C] decay time of the interest in an item
    fashion_days: Floats  # [C] period of the fashion of a category
    phase: Floats  # [C]
    price_level: Floats  # [C] mean of log price

    @classmethod
    def of(cls, seed: int) -> World:
        rng, c = generator(seed, Stream.WORLD), len(CATEGORIES)

        def centres(count: int) -> Floats:
            """[count, K] of equal length. They are few, so unequal lengths would make some seeds easier than others."""
            vectors = rng.normal(size=(count, FACTORS))
            return vectors * np.sqrt(FACTORS) / np.linalg.norm(vectors, axis=1, keepdims=True)

        category = centres(c)
        return cls(
            category=category,
            tag=0.5 * category[:, None] + rng.normal(size=(c, TAGS_PER_CATEGORY, FACTORS)),
            country=(centres(len(COUNTRIES)), centres(len(COUNTRIES))),
            generation=centres(1)[0],
            shelf_days=rng.uniform(0.7, 4.0, c),
            fashion_days=rng.uniform(5.0, 20.0, c),
            phase=rng.uniform(0, 2 * np.pi, c),
            price_level=rng.normal(2.2, 0.8, c),
        )

    def fashion(self, day: float) -> Floats:
        """[C] log-odds that a category gains or loses at a time in days."""
        return 0.35 * np.sin(2 * np.pi * day / self.fashion_days + self.phase)


@dataclass(frozen=True)
class Users:
    """The U users of the log. A user's id is their index + 1. `reported_age` is NaN if a user does not give their age."""

    activity: Floats  # [U] Zipf-Mandelbrot
    country: Ints
    device: Ints  # the usual device
    age: Floats
    reported_age: Floats
    propensity: Floats  # [U] log-odds
    taste: tuple[Floats, Floats]  # two of [U, K]
    taste_days: Floats  # [U] period of their drift

    @classmethod
    def of(cls, seed: int, count: int) -> Users:
        rng = generator(seed, Stream.USERS)
        age = np.clip(np.round(rng.gamma(7.0, 5.5, count)), 13, 95)
        return cls(
            activity=(rng.permutation(count) + 30.0) ** -0.9,
            country=rng.choice(len(COUNTRIES), count, p=COUNTRY_SHARE),
            device=rng.choice(len(DEVICES), count, p=DEVICE_SHARE),
            age=age,
            reported_age=np.where(rng.random(count) < 0.12, np.nan, age),
            propensity=0.4 * rng.normal(size=count),
            taste=(rng.normal(size=(count, FACTORS)), rng.normal(size=(count, FACTORS))),
            taste_days=rng.uniform(20.0, 90.0, count),
        )

    def tastes(self, world: World, day: float) -> Floats:
        """[U, K] taste of each user at a time in days: the sum of their country's, their generation's and their own."""
        countries = rotate(*world.country, np.full(len(COUNTRIES), 2 * np.pi * day / 60.0))
        generation = ((self.age - 38.0) / 15.0)[:, None] * world.generation
        own = rotate(*self.taste, 2 * np.pi * day / self.taste_days)
        return 0.8 * countries[self.country] + 0.6 * generation + 0.5 * own

    def activity_in(self, hour: int) -> Floats:
        """[U] weights of users in an hour (UTC): their activity, scaled by their local time of day."""
        local = (hour + UTC_OFFSET[self.country]) % 24
        return self.activity * (1.0 + 0.6 * np.cos(2 * np.pi * (local - 20) / 24) + 0.3 * np.cos(4 * np.pi * (local - 9) / 24))


@dataclass(frozen=True)
class Items:
    """The I items that are alive at some time of one day. Times are in days since 1970-01-01 UTC."""

    id: Ints
    born: Floats
    died: Floats
    category: Ints
    tags: NDArray[np.str_]  # names separated by |; can be empty
    factors: Floats  # [I, K]
    quality: Floats  # [I] log-odds
    price: Floats
    popularity: Floats  # [I] Pareto, so that popularity by rank is Zipf

    @classmethod
    def born_on(cls, world: World, seed: int, alive: int, day: int) -> Items:
        """The items born on one day; their number is such that `alive` items are alive on any day."""
        rng = generator(seed, Stream.ITEMS, day)
        n = max(1, round(alive / (sum(LIFE_DAYS) / 2 + 1)))
        category = rng.integers(0, len(CATEGORIES), n)
        born = day + rng.random(n)
        tagged = rng.random((n, TAGS_PER_CATEGORY)).argsort(axis=1) < rng.integers(0, 5, n)[:, None]
        from_tags = (tagged[:, :, None] * world.tag[category]).sum(axis=1) / np.sqrt(np.maximum(tagged.sum(axis=1), 1))[:, None]
        names = [[f"{c}-{t + 1}" for t in range(TAGS_PER_CATEGORY)] for c in CATEGORIES]
        return cls(
            id=day * 10 ** len(str(n)) + np.arange(n),
            born=born,
            died=born + rng.uniform(*LIFE_DAYS, n),
            category=category,
            tags=np.array(["|".join(np.array(names[c])[row]) for c, row in zip(category, tagged, strict=True)]),
            factors=0.7 * world.category[category] + 0.5 * from_tags + 0.4 * rng.normal(size=(n, FACTORS)),
            quality=0.5 * rng.normal(size=n),
            price=np.exp(world.price_level[category] + 0.6 * rng.normal(size=n)).round(2),
            popularity=(rng.random(n) + 2e-3) ** -0.8,  # bounded, so that no item gets a third of all impressions
        )

    @classmethod
    def alive_on(cls, world: World, seed: int, alive: int, day: int) -> Items:
        """The items alive on one day (days since 1970-01-01), about `alive` of them."""
        births = [cls.born_on(world, seed, alive, d) for d in range(day - int(LIFE_DAYS[1]) - 1, day + 1)]
        living = [batch.died > day for batch in births]
        fields = {f: np.concatenate([getattr(b, f)[keep] for b, keep in zip(births, living, strict=True)]) for f in _FIELDS}
        return cls(**fields)

    def exposure_at(self, world: World, time: float) -> Floats:
        """[I] weights of items at a time in days: zero before birth and after death, a fast rise, then a slow decay."""
        age = time - self.born
        curve = np.minimum(age / RISE_DAYS, np.exp(-(age - RISE_DAYS) / world.shelf_days[self.category]))
        return np.where((age > 0) & (time < self.died), self.popularity * curve, 0.0)


_FIELDS = tuple(Items.__dataclass_fields__)
