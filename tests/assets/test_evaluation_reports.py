"""Metadata of reports: numbers that the UI plots over days."""

from __future__ import annotations

from typing import Any

from assets.evaluation_reports import _means, _ranking

MEAN = {"mean": 0.7, "standard_error": 0.01, "days": 3}


def metrics(sampling: dict[str, Any] | None) -> dict[str, Any]:
    systems = {"recall@20": 0.6, "mrr@20": 0.2}
    ranking = {"models": {"dlrm": systems, "two_tower": systems | {"recall@20": 0.65}}, "sources": {"co_visitation": systems}}
    recent = {"days": [], "systems": {"dlrm": {"auc": MEAN, "recall@20": MEAN}, "two_tower": {"auc": MEAN}}}
    return {"sampling": sampling, "models": {"dlrm": {}, "two_tower": {}}, "ranking": ranking, "recent": recent}


def test_rankings_are_numbers_and_the_headline_has_short_names() -> None:
    found = _ranking(metrics({"draw": "uniform"}))
    assert found == {
        "recall_at_20": 0.6,
        "mrr_at_20": 0.2,
        "recall_at_20/dlrm": 0.6,
        "mrr_at_20/dlrm": 0.2,
        "recall_at_20/two_tower": 0.65,
        "mrr_at_20/two_tower": 0.2,
        "recall_at_20/co_visitation": 0.6,
        "mrr_at_20/co_visitation": 0.2,
    }
    assert "recall_at_20" not in _ranking(metrics(None)), "the headline is the AUC"
    assert _ranking(metrics(None) | {"ranking": None}) == {}


def test_means_are_of_the_primary_model() -> None:
    expected = {"auc_mean": 0.7, "auc_mean_error": 0.01, "recall_at_20_mean": 0.7, "recall_at_20_mean_error": 0.01}
    assert _means(metrics(None)) == expected
    assert _means(metrics(None) | {"models": {}}) == {}
