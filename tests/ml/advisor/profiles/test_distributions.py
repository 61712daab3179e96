"""Drift from other days, read from stored profiles without their ids, and how much days differ among themselves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ml.advisor.profiles.day import profile_day
from ml.advisor.profiles.distributions import Distributions, drift_from, usual_drift
from ml.advisor.profiles.drift import drift_between
from ml.advisor.profiles.sketch import merge_days
from ml.advisor.profiles.store import read_distributions, read_sketch
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES
from tests.helpers.quality_days import DAYS, make_spec, write_features

SPEC = make_spec()


def dearer(columns: dict) -> None:
    columns["price"] = pa.array(np.asarray(columns["price"]) + np.float32(2))


def read(lake: Lake, days: list[str], changed: str | None = None) -> list[Distributions]:
    for day in days:
        write_features(lake, SPEC, day, dearer if day == changed else None)
        profile_day(SPEC, day, lake)
    return [read_distributions(lake.partition(FEATURE_PROFILES, SPEC.name, day)) for day in days]


def test_drift_equals_that_of_whole_sketches(lake: Lake) -> None:
    *before, today = read(lake, DAYS[:4], changed=DAYS[3])
    sketches = [read_sketch(lake.partition(FEATURE_PROFILES, SPEC.name, day)) for day in DAYS[:4]]
    expected = drift_between(sketches[3], merge_days(sketches[:3]))
    found = drift_from(today, before)
    assert found["price"] > 0.25 > found["country"]
    assert found == pytest.approx({name: float(index) for name, index in expected.items() if index is not None})
    assert drift_from(today, before, excluded={"price"}).keys() == found.keys() - {"price"}


def test_usual_drift_is_that_of_the_day_that_differs_most(lake: Lake) -> None:
    days = read(lake, DAYS[:3], changed=DAYS[1])
    found = usual_drift(days, excluded={"user"})
    assert found.keys() == {"price", "item", "country", "tags"}
    assert found["price"] == drift_from(days[1], [days[0], days[2]])["price"] > 0.25
    assert found["country"] < 0.05
