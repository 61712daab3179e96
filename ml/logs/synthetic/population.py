"""The simulated world's inhabitants: users with tastes, items that are born and die, categories with their fashions.

Everything is a function of (seed, time): users and tastes come from the seed alone, items from the seed and the day of
their birth, so any day can be peopled without replaying those before it. Tastes turn slowly: a vector is
`a cos θ + b sin θ` of two fixed Gaussian vectors with θ growing in time, so it drifts without end and keeps its
variance. What is shown to whom, and what is clicked, is `ml.logs.synthetic.impressions`.
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

LIFE_DAYS = (1.0, 13.0)  # an item's life is uniform between these
RISE_DAYS = 0.25  # from birth to the height of its popularity


class Stream:
    """What a random stream is for; part of its seed, so that no two streams share their numbers."""

    WORLD, USERS, ITEMS, IMPRESSIONS, DAMAGE = range(5)


def generator(seed: int, stream: int, *parts: int) -> np.random.Generator:
    """The one generator of (seed, purpose, parts)."""
    return np.random.default_rng([seed, stream, *parts])


def turning(a: Floats, b: Floats, angle: Floats) -> Floats:
    """Vectors [N, K] that turn in the plane of `a` and `b` [N, K] by `angle` [N], in radians; unit variance stays unit."""
    return a * np.cos(angle)[:, None] + b * np.sin(angle)[:, None]


@dataclass(frozen=True)
class World:
    """What does not belong to one user or item: latent centres of categories, tags and countries, and their fashions."""

    category: Floats  # [C, K] centre of a category's items
    tag: Floats  # [C, TAGS_PER_CATEGORY, K]
    country: tuple[Floats, Floats]  # two of [P, K] between which a country's taste turns
    generation: Floats  # [K] how taste goes with age
    shelf_days: Floats  # [C] how long interest in a category's items holds
    fashion_days: Floats  # [C] period of a category's fashion
    phase: Floats  # [C]
    price_level: Floats  # [C] mean of log price

    @classmethod
    def of(cls, seed: int) -> World:
        rng, c = generator(seed, Stream.WORLD), len(CATEGORIES)

        def centres(count: int) -> Floats:
            """[count, K] of one length: few as they are, their lengths would make one seed's log much easier than another's."""
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
        """[C] log-odds that a category gains or loses these days."""
        return 0.35 * np.sin(2 * np.pi * day / self.fashion_days + self.phase)


@dataclass(frozen=True)
class Users:
    """U users for the whole log; a user's id is their index + 1. Ages that users keep to themselves are NaN in `told_age`."""

    activity: Floats  # [U] Zipf-Mandelbrot
    country: Ints
    device: Ints  # their usual one
    age: Floats
    told_age: Floats
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
            told_age=np.where(rng.random(count) < 0.12, np.nan, age),
            propensity=0.4 * rng.normal(size=count),
            taste=(rng.normal(size=(count, FACTORS)), rng.normal(size=(count, FACTORS))),
            taste_days=rng.uniform(20.0, 90.0, count),
        )

    def tastes(self, world: World, day: float) -> Floats:
        """[U, K] what each user likes at this time: their country's taste, their generation's, and their own."""
        countries = turning(*world.country, np.full(len(COUNTRIES), 2 * np.pi * day / 60.0))
        generation = ((self.age - 38.0) / 15.0)[:, None] * world.generation
        own = turning(*self.taste, 2 * np.pi * day / self.taste_days)
        return 0.8 * countries[self.country] + 0.6 * generation + 0.5 * own

    def awake(self, hour: int) -> Floats:
        """[U] weight of being shown something in this UTC hour: activity, by the hour where the user lives."""
        local = (hour + UTC_OFFSET[self.country]) % 24
        return self.activity * (1.0 + 0.6 * np.cos(2 * np.pi * (local - 20) / 24) + 0.3 * np.cos(4 * np.pi * (local - 9) / 24))


@dataclass(frozen=True)
class Items:
    """Items that live at some time of one day. Times are in days since 1970-01-01 UTC."""

    id: Ints
    born: Floats
    died: Floats
    category: Ints
    tags: NDArray[np.str_]  # names between |, possibly none
    factors: Floats  # [I, K]
    quality: Floats  # [I] log-odds
    price: Floats
    popularity: Floats  # [I] Pareto, which makes ranks Zipf

    @classmethod
    def born_on(cls, world: World, seed: int, alive: int, day: int) -> Items:
        """Those born on one day, so many that `alive` of all live at some time of any day."""
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
            popularity=(rng.random(n) + 2e-3) ** -0.8,  # bounded: nothing takes a third of a day
        )

    @classmethod
    def alive_on(cls, world: World, seed: int, alive: int, day: int) -> Items:
        births = [cls.born_on(world, seed, alive, d) for d in range(day - int(LIFE_DAYS[1]) - 1, day + 1)]
        living = [batch.died > day for batch in births]
        fields = {f: np.concatenate([getattr(b, f)[keep] for b, keep in zip(births, living, strict=True)]) for f in _FIELDS}
        return cls(**fields)

    def shown(self, world: World, time: float) -> Floats:
        """[I] weight of being shown at a time: nothing before birth and after death, a quick rise, then a long fall."""
        age = time - self.born
        curve = np.minimum(age / RISE_DAYS, np.exp(-(age - RISE_DAYS) / world.shelf_days[self.category]))
        return np.where((age > 0) & (time < self.died), self.popularity * curve, 0.0)


_FIELDS = tuple(Items.__dataclass_fields__)
