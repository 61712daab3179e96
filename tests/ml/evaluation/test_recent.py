"""Means over the last reported days, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ml.evaluation.recent import ranking_entry, recent_means


def entry(day: int, auc: float | None, **ranking: float) -> dict[str, Any]:
    models = {"dlrm": {"auc": auc, "log_loss": 0.5, "facts": {}}}
    found = {name: {"recall@20": value, "mrr@20": None} for name, value in ranking.items()}
    return {"day": f"2026-01-{day:02d}", "models": models, "logistic_regression": 0.6, "ranking": found}


def test_mean_and_standard_error() -> None:
    found = recent_means([entry(1, 0.70, dlrm=0.5), entry(2, 0.72, dlrm=0.6), entry(3, 0.74)])
    assert found["days"] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    of = found["systems"]["dlrm"]
    assert of["auc"] == pytest.approx({"mean": 0.72, "standard_error": 0.02 / 3**0.5, "days": 3})
    assert of["recall@20"] == pytest.approx({"mean": 0.55, "standard_error": 0.05, "days": 2})
    assert of["log_loss"] == {"mean": 0.5, "standard_error": 0.0, "days": 3}
    assert "mrr@20" not in of and found["systems"]["logistic_regression"]["auc"]["days"] == 3


def test_only_the_last_days_that_scored_a_model_count() -> None:
    first: dict[str, Any] = {"day": "2025-12-31", "models": {}, "logistic_regression": None, "ranking": {}}
    history = [first, *(entry(day, day / 100) for day in range(1, 11))]
    found = recent_means(history)
    assert found["days"] == [f"2026-01-{day:02d}" for day in range(4, 11)]
    assert found["systems"]["dlrm"]["auc"]["mean"] == pytest.approx(0.07)
    assert recent_means([first]) == {"days": [], "systems": {}}
    single = recent_means([first, entry(1, None), entry(2, 0.7)], days=2)["systems"]["dlrm"]["auc"]
    assert single == {"mean": 0.7, "standard_error": None, "days": 1}


def test_entries_of_earlier_versions_have_no_ranking() -> None:
    old = entry(1, 0.7)
    del old["ranking"]
    assert recent_means([old])["systems"]["dlrm"]["auc"]["mean"] == 0.7
    assert ranking_entry(None) == {}
