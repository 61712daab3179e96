"""The check of a day of online training fails when its AUC or recall falls, and not by chance."""

from __future__ import annotations

from typing import Any

import pytest

from ml.days import days_from
from ml.lake import Lake, MissingPartition
from ml.online.verdict import judge_day
from tests.helpers.training_days import FIRST, made_spec

SPEC, DAYS = made_spec(), days_from(FIRST, 5)


def write(lake: Lake, day: str, auc: float | None, gain: float = 0.01, error: float = 0.002) -> None:
    manifest: dict[str, Any] = {"scores": {}, "gains": {}}
    if auc is not None:
        manifest["scores"] = {"online": {"auc": auc, "auc_error": error}}
        manifest["gains"] = {"retrained": {"auc": {"value": gain, "error": error, "df": 500}}}
    with lake.write("online_updates/dlrm", SPEC.name, day) as folder:
        lake.write_manifest(folder, manifest)


def reasons(lake: Lake, day: str) -> list[str]:
    return judge_day(lake, SPEC, "dlrm", day).reasons


def test_a_steady_day_passes(lake: Lake) -> None:
    for day, auc in zip(DAYS, (0.75, 0.752, 0.748, 0.751, 0.749), strict=True):
        write(lake, day, auc)
    assert all(reasons(lake, day) == [] for day in DAYS)
    assert judge_day(lake, SPEC, "dlrm", DAYS[4]).values["mean_of_last_days"] == pytest.approx(0.75025)


def test_a_fall_below_the_last_days_fails(lake: Lake) -> None:
    for day, auc in zip(DAYS, (0.75, 0.752, 0.748, 0.751, 0.70), strict=True):
        write(lake, day, auc)
    (found,) = reasons(lake, DAYS[4])
    assert "0.0503 below its mean over the last 4 days" in found


def test_days_that_vary_much_do_not_fail_by_chance(lake: Lake) -> None:
    for day, auc in zip(DAYS, (0.70, 0.78, 0.72, 0.77, 0.70), strict=True):
        write(lake, day, auc)
    assert reasons(lake, DAYS[4]) == []


def test_two_days_are_too_few_to_compare_with(lake: Lake) -> None:
    for day, auc in zip(DAYS[:3], (0.75, 0.75, 0.60), strict=True):
        write(lake, day, auc)
    assert reasons(lake, DAYS[2]) == []


def test_a_day_that_is_worse_than_the_daily_model_fails(lake: Lake) -> None:
    write(lake, DAYS[0], 0.75, gain=-0.02)
    write(lake, DAYS[1], 0.75, gain=-0.002, error=0.002)
    (found,) = reasons(lake, DAYS[0])
    assert "the daily model of the day before has a significantly higher AUC, by 0.0200" in found
    assert reasons(lake, DAYS[1]) == []


def write_ranked(lake: Lake, day: str, recall: float, gain: float = 0.01, auc: float = 0.9, error: float = 0.002) -> None:
    """A day whose clicks were ranked. Its AUC does not count."""
    online = {"recall@20": recall, "popular_auc": 0.6, "standard_errors": {"recall@20": error}}
    gains = {"auc": {"value": -0.1, "error": 0.001, "df": 500}, "recall@20": {"value": gain, "error": error, "df": 500}}
    manifest = {
        "scores": {"online": {"auc": auc, "auc_error": 0.001}},
        "gains": {"retrained": gains},
        "ranking": {"models": {"online": online}},
    }
    with lake.write("online_updates/dlrm", SPEC.name, day) as folder:
        lake.write_manifest(folder, manifest)


def test_a_ranked_day_is_judged_by_its_recall(lake: Lake) -> None:
    """The AUC against sampled negatives is high for any model that knows popularity."""
    for day, recall, auc in zip(DAYS[:4], (0.70, 0.705, 0.698, 0.701), (0.95, 0.9, 0.85, 0.8), strict=True):
        write_ranked(lake, day, recall, auc=auc)
        assert reasons(lake, day) == []
    write_ranked(lake, DAYS[4], 0.60, gain=-0.03)
    first, second = reasons(lake, DAYS[4])
    assert "the daily model of the day before has a significantly higher recall@20, by 0.0300" in first
    assert "the recall@20 is 0.1010 below its mean over the last 4 days, 0.7010" in second
    values = judge_day(lake, SPEC, "dlrm", DAYS[4]).values
    assert values["recall@20"] == 0.60 and values["popular_auc"] == 0.6 and "auc" not in values


def test_a_ranked_day_is_not_compared_with_days_that_were_not_ranked(lake: Lake) -> None:
    for day in DAYS[:4]:
        write(lake, day, 0.95)
    write_ranked(lake, DAYS[4], 0.60)
    assert reasons(lake, DAYS[4]) == [] and "mean_of_last_days" not in judge_day(lake, SPEC, "dlrm", DAYS[4]).values


def test_an_empty_day_passes_and_a_missing_day_is_named(lake: Lake) -> None:
    write(lake, DAYS[0], None)
    assert reasons(lake, DAYS[0]) == []
    with pytest.raises(MissingPartition):
        judge_day(lake, SPEC, "dlrm", DAYS[1])
