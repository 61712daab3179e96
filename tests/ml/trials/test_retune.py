"""A model is tuned again after lasting drift, a fall below its promise, or wrong calibration; not after one bad day."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.advisor.profiles.day import profile_day
from ml.catalog.retune import Retune
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS, online_updates, tuning_results
from ml.trials.retune import retune_needs
from tests.helpers.quality_days import DAYS, make_spec, write_features

SPEC = make_spec()
BASELINE = 0.70
"""AUC of the logistic regression on every day."""


def spec_with(**changes: Any) -> DatasetSpec:
    return SPEC.model_copy(update={"retune": Retune(**changes)})


def report(lake: Lake, day: str, auc: float | None, calibration: Sequence[float] = (0.9, 1.1)) -> None:
    """Write a report of one model, with the keys that are read."""
    model = {"auc": auc, "log_loss": 0.5, "intervals": {"calibration": list(calibration)}}
    metrics = {"models": {"dlrm": model}, "baselines": {"logistic_regression": {"auc": BASELINE, "log_loss": 0.55}}}
    with lake.write(EVALUATION_REPORTS, SPEC.name, day) as staging:
        (staging / "metrics.json").write_text(json.dumps(metrics))
        lake.write_manifest(staging, {})


def tuning(lake: Lake, day: str, window: list[str], *, adopted: bool = True, best: float = 0.75, in_use: float = 0.74) -> None:
    """Write the result of a tuning, with the keys that are read."""
    manifest = {"window": window, "scored": window[-2:], "best": {"values": {"auc": best}}, "adopted": adopted}
    manifest |= {"in_use": {"auc": in_use}}
    with lake.write(tuning_results("dlrm"), SPEC.name, day) as staging:
        lake.write_manifest(staging, manifest)


def reasons(lake: Lake, day: str = DAYS[-1], **changes: Any) -> set[str]:
    return set(retune_needs(spec_with(**changes), day, lake)["dlrm"].reasons)


def dearer(columns: dict) -> None:
    columns["price"] = pa.array(np.asarray(columns["price"]) + np.float32(2))


def profiled(lake: Lake, changed: Sequence[int]) -> None:
    """Write the profiles of all days, some of which have other prices."""
    for number, day in enumerate(DAYS):
        change: Callable[[dict], None] | None = dearer if number in changed else None
        write_features(lake, SPEC, day, change)
        profile_day(SPEC, day, lake)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ((4, 5, 6), {"drift"}),
        ((), set()),
        ((4, 6), set()),  # not on each of the last days
        ((1, 3, 4, 5, 6), set()),  # these days always differ
    ],
)
def test_drift_that_lasts_and_is_not_usual(lake: Lake, changed: tuple[int, ...], expected: set[str]) -> None:
    profiled(lake, changed)
    assert reasons(lake, reference_days=4) == expected
    assert reasons(lake, reference_days=4, drift=None) == set()


def test_drift_is_measured_from_the_days_of_the_last_tuning(lake: Lake) -> None:
    profiled(lake, changed=(4, 5, 6))
    tuning(lake, DAYS[4], DAYS[:4])
    need = retune_needs(spec_with(days=2), DAYS[-1], lake)["dlrm"]
    assert (need.since, set(need.reasons)) == (DAYS[4], {"drift"}) and "price" in need.reasons["drift"]
    tuning(lake, DAYS[5], [*DAYS[2:5]])  # it has seen a day with the new prices
    assert reasons(lake, days=2) == set()


def test_drift_is_not_judged_with_too_few_days(lake: Lake) -> None:
    profiled(lake, changed=(4, 5, 6))
    found = retune_needs(spec_with(reference_days=5), DAYS[-1], lake)["dlrm"]
    assert found.measured == {} and found.reasons == {}
    assert retune_needs(spec_with(reference_days=4), DAYS[3], lake)["dlrm"].measured == {}


@pytest.mark.parametrize(
    ("aucs", "expected"),
    [
        ((0.740, 0.742, 0.738), {"fall"}),  # promised are 0.75
        ((0.751, 0.748, 0.750), set()),
        ((0.746, 0.748, 0.747), set()),  # less than `fall`
        ((0.790, 0.700, 0.735), set()),  # more than `fall`, but not significant
        ((0.740, None, 0.738), set()),  # too few days
    ],
)
def test_a_significant_fall_below_the_promise(lake: Lake, aucs: tuple[float | None, ...], expected: set[str]) -> None:
    for day in DAYS[:4]:
        report(lake, day, 0.70)
    tuning(lake, DAYS[3], DAYS[:3])
    for day, auc in zip(DAYS[4:], aucs, strict=True):
        report(lake, day, auc)
    assert reasons(lake) == expected
    assert reasons(lake, fall=None) == set()


def test_a_tuning_whose_best_trial_was_not_adopted_promises_what_the_recipe_in_use_reached(lake: Lake) -> None:
    for day in DAYS[:4]:
        report(lake, day, 0.70)
    for day in DAYS[4:]:
        report(lake, day, 0.740)
    tuning(lake, DAYS[3], DAYS[:3], adopted=False)
    assert reasons(lake) == set()
    tuning(lake, DAYS[3], DAYS[:3], adopted=True)
    assert reasons(lake) == {"fall"}


def test_a_model_that_was_never_tuned_has_promised_nothing(lake: Lake) -> None:
    for day, auc in zip(DAYS, np.linspace(0.8, 0.6, len(DAYS)), strict=True):
        report(lake, day, float(auc))
    assert "fall" not in retune_needs(spec_with(), DAYS[-1], lake)["dlrm"].measured
    assert reasons(lake) == set()


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(1.3, 1.5)] * 3, {"calibration"}),
        ([(0.5, 0.7)] * 3, {"calibration"}),
        ([(1.3, 1.5), (1.1, 1.5), (1.3, 1.5)], set()),
        ([(1.3, 1.5), (0.5, 0.7), (1.3, 1.5)], set()),
    ],
)
def test_predictions_that_are_off_on_each_of_the_last_days(
    lake: Lake, intervals: list[tuple[float, float]], expected: set[str]
) -> None:
    for day, interval in zip(DAYS[-3:], intervals, strict=True):
        report(lake, day, 0.75, interval)
    assert reasons(lake) == expected
    assert reasons(lake, calibration=None) == set()


def online_day(lake: Lake, day: str, auc: float) -> None:
    """Write a day of online training, with the keys that are read."""
    scores = {"online": {"auc": auc, "auc_error": 0.001}}
    gain = {"auc": {"value": auc - 0.75, "error": 0.001, "df": 1000, "p_above": 0.5}}
    with lake.write(online_updates("dlrm"), SPEC.name, day) as staging:
        lake.write_manifest(staging, {"scores": scores, "gains": {"retrained": gain}})


@pytest.mark.parametrize(("fallen", "expected"), [(3, {"online"}), (2, set()), (0, set())])
def test_a_fall_of_the_auc_within_the_day_that_lasts(lake: Lake, fallen: int, expected: set[str]) -> None:
    for number, day in enumerate(DAYS):
        online_day(lake, day, 0.70 if number >= len(DAYS) - fallen else 0.76)
    assert reasons(lake) == expected and reasons(lake, online=False) == set()
