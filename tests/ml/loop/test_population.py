"""The simulated users: who they are, when their tastes change, and which arm they belong to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.loop.population import Population
from ml.loop.settings import Settings

HOUR = 3_600_000_000
SETTINGS = Settings(users=60, items=30)


def chances(settings: Settings, time: int) -> np.ndarray:
    """[U, I]"""
    population = Population(settings)
    return np.stack([population.click_chances(time, user, 0) for user in range(settings.users)])


def test_every_user_belongs_to_one_arm() -> None:
    population = Population(replace(SETTINGS, users=3000))
    arms = [population.users_of(arm) for arm in SETTINGS.arms]
    assert sorted(np.concatenate(arms).tolist()) == list(range(3000))
    assert all(850 < len(users) < 1150 for users in arms)


def test_the_arm_of_a_user_does_not_depend_on_the_other_users() -> None:
    few, many = (set(Population(replace(SETTINGS, users=n)).users_of("daily").tolist()) for n in (60, 300))
    assert few == {user for user in many if user < 60}


def test_tastes_change_at_once_at_the_change_and_not_before() -> None:
    change = SETTINGS.change
    assert change is not None
    never = replace(SETTINGS, change_hours=None)
    assert np.array_equal(chances(SETTINGS, change - 1), chances(never, change - 1))
    before, after = chances(never, change), chances(SETTINGS, change)
    best = np.argsort(-before, axis=1)[:, :10]
    kept = np.take_along_axis(after, best, 1).sum() / np.sort(after, axis=1)[:, -10:].sum()
    assert kept < 0.75 < np.take_along_axis(before, best, 1).sum() / np.sort(before, axis=1)[:, -10:].sum() + 0.26


def test_drift_is_continuous_at_the_start_and_as_fast_as_asked() -> None:
    drifting = Population(replace(SETTINGS, change_hours=None, drift=5.0))
    start = SETTINGS.start
    assert drifting.tastes_of(start) == pytest.approx(start / (24 * HOUR))
    assert drifting.tastes_of(start - HOUR) == pytest.approx((start - HOUR) / (24 * HOUR))
    assert drifting.tastes_of(start + 24 * HOUR) - drifting.tastes_of(start) == pytest.approx(5.0)


def test_visits_are_those_of_the_users_that_can_visit() -> None:
    population = Population(SETTINGS)
    users, devices = population.draw_visits(SETTINGS.start, population.users_of("online"), 500, np.random.default_rng(0))
    assert set(users.tolist()) <= set(population.users_of("online").tolist())
    assert set(devices.tolist()) == {0, 1, 2, 3}


def test_items_are_the_same_at_all_times() -> None:
    ids = Population(SETTINGS).item_ids
    assert len(set(ids.tolist())) == len(ids) == 30
    assert np.array_equal(ids, Population(replace(SETTINGS, days=7, drift=3.0)).item_ids)
