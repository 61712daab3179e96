"""Clicks per impression by variant: rates, intervals, and a difference that is found only where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.experiment import Experiment
from ml.days import day_bounds
from ml.evaluation.experiment import VariantResult, experiment_results, results_of
from ml.lake import Lake
from ml.parquet import write_table
from ml.serving.journal import Journal
from ml.serving.variants import variants_of
from tests.helpers.joined_logs import feed
from tests.helpers.kiosk_days import DAYS
from tests.helpers.kiosk_lake import DAY, END, MIDNIGHT, experiment_spec

SPEC = experiment_spec()
BOTH = Experiment(name="a", shares={"x": 0.5, "y": 0.5})


def drawn(gain: float, seed: int, users: int = 400, shown: int = 10) -> dict[str, VariantResult]:
    """Impressions of users who differ in how often they click; those of `y` click more often by `gain`."""
    rng = np.random.default_rng(seed)
    variant = np.repeat(np.where(np.arange(users) % 2 == 0, "x", "y"), shown)
    rate = np.repeat(rng.uniform(0.1, 0.5, users), shown) + gain * (variant == "y")
    return results_of(BOTH, variant, np.repeat(np.arange(users), shown), rng.random(users * shown) < rate)


def test_rates_are_those_of_the_variants() -> None:
    found = results_of(BOTH, np.array(list("xxxyy")), np.array([1, 1, 2, 3, 4]), np.array([1, 0, 0, 1, 1], bool))
    x, y = found["x"], found["y"]
    assert (x.impressions, x.users, x.clicks, y.impressions, y.users, y.clicks) == (3, 2, 1, 2, 2, 2)
    assert x.rate and y.rate and y.gain and x.gain is None
    assert (x.rate.value, y.rate.value, y.gain.value) == pytest.approx((1 / 3, 1, 2 / 3))


def test_intervals_by_user_hold_the_true_difference_as_often_as_they_promise() -> None:
    within = above = 0
    for seed in range(200):
        gain = drawn(0.0, seed)["y"].gain
        assert gain is not None
        interval = gain.interval()
        assert interval is not None
        within += interval[0] <= 0 <= interval[1]
        above += gain.is_above()
    assert 180 <= within <= 199 and above <= 22
    better = drawn(0.15, 0)["y"].gain
    assert better is not None and better.is_above() and better.value == pytest.approx(0.15, abs=0.05)


def test_a_variant_without_impressions_is_not_compared() -> None:
    found = results_of(BOTH, np.array(["y"]), np.array([1]), np.array([True]))
    assert found["x"].rate is None and found["y"].gain is None and found["y"].impressions == 1


def journalled(stream: Path, rates: dict[str, float]) -> None:
    """Store 2,000 impressions of the day, which users of a variant click at a rate, and one impression of the next day."""
    journal, users = Journal(SPEC, UPath(stream), SPEC.experiment), np.arange(2000) % 500
    assert SPEC.experiment is not None
    own = variants_of(SPEC.experiment, pa.array(users))
    clicked = np.random.default_rng(0).random(2000) < [rates[name or ""] for name in own]
    rows = [
        {"user": int(u), "item": 1, "clicked": int(c), "event_time": MIDNIGHT + n}
        for n, (u, c) in enumerate(zip(users, clicked, strict=True))
    ]
    last = [{"user": 1, "item": 1, "clicked": 1, "event_time": END}, {"user": 2, "item": 1}]
    journal.append({"examples": [*rows, *last]}, now=END)
    journal.rotate(at_once=True)


def test_what_the_service_has_noted_is_compared_up_to_the_end_of_the_day(tmp_path: Path) -> None:
    journalled(tmp_path, {"dlrm": 0.2, "deepfm": 0.4})
    found = experiment_results(SPEC, DAY, Lake.at(tmp_path), UPath(tmp_path))
    assert list(found) == ["dlrm", "deepfm"] and sum(of.impressions for of in found.values()) == 2000
    assert found["dlrm"].users + found["deepfm"].users == 500
    assert found["deepfm"].gain is not None and found["deepfm"].gain.is_above()
    later = experiment_results(SPEC, DAYS[1], Lake.at(tmp_path), UPath(tmp_path))
    assert sum(of.impressions for of in later.values()) == 2001, "a row without a label does not count"
    nothing = experiment_results(SPEC, DAY, Lake.at(tmp_path), UPath(tmp_path / "none"))
    assert [of.impressions for of in nothing.values()] == [0, 0]


def test_labels_of_a_log_of_actions_come_from_the_joined_examples(tmp_path: Path) -> None:
    """Each impression counts once with its label. One that is not joined yet does not count."""
    models = {"dlrm": {}, "deepfm": {}}
    spec = feed(models=models, experiment={"name": "a", "shares": {"dlrm": 0.5, "deepfm": 0.5}})
    day, lake = spec.days()[0], Lake.at(tmp_path / "lake")
    at, clicked = day_bounds(day, spec.zone)[0], {"r1": 1, "r2": 0, "r3": 1}
    journal = Journal(spec, UPath(tmp_path / "stream"), spec.experiment)
    shown = [{"request": name, "item": 7, "user": n, "event_time": at + n} for n, name in enumerate(["r1", "r2", "r3", "late"])]
    for rows in (shown, shown[:1]):
        journal.append({"impressions": rows}, now=at)
    journal.rotate(at_once=True)
    joined = {"event_time": [at] * 3, "request": list(clicked), "item": [7] * 3, "clicked": list(clicked.values())}
    with lake.write("joined_examples", spec.name, day) as folder:
        write_table(pa.table(joined), folder / "rows" / "part-00000.parquet")
        lake.write_manifest(folder, {"fingerprint": spec.examples_log.fingerprint})
    found = experiment_results(spec, day, lake, UPath(tmp_path / "stream"))
    assert sum(of.impressions for of in found.values()) == 3 and sum(of.clicks for of in found.values()) == 2
    assert spec.experiment is not None
    own = variants_of(spec.experiment, pa.array([0, 1, 2]))
    assert {name: of.impressions for name, of in found.items()} == {name: own.count(name) for name in found}
    empty = experiment_results(spec, day, Lake.at(tmp_path / "none"), UPath(tmp_path / "stream"))
    assert [of.impressions for of in empty.values()] == [0, 0]
