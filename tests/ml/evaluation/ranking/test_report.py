"""The report of a log of positives alone: its headline is the ranking among all live items."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.evaluation.evaluate import EvaluatedDay, evaluate_day
from ml.evaluation.ranking.verdict import best_source, headline_model, ranking_verdict, source_title
from ml.evaluation.scores import ScoredModel
from ml.lake import Lake
from tests.helpers.kiosk_days import DAYS, kiosk, kiosk_day, put_features


class Chosen:
    """Scores every item by a function of its key."""

    def __init__(self, score: Any, by_pair: bool = False) -> None:
        self.score, self.item_features, self.pair_features, self.by_pair = score, ("item",), (), by_pair

    def index(self, items: pa.Table, pairs: Any = None) -> None:
        self.keys = items["item"].to_numpy()

    def scores(self, requests: pa.Table) -> np.ndarray:
        return np.tile(self.score(self.keys).astype(np.float32), (requests.num_rows, 1))


def model(items: Any) -> ScoredModel:
    def predict(rows: pa.Table) -> np.ndarray:
        return np.linspace(0.1, 0.9, rows.num_rows)

    return ScoredModel(predict, {"snapshot_day": DAYS[1]}, ranks_only=True, items=items)


def evaluated(lake: Lake, **models: Any) -> EvaluatedDay:
    spec = kiosk(ranking={"popularity_minutes": [60, 10], "scored_pairs": 1000})
    for day in DAYS:
        put_features(lake, spec, day, kiosk_day(spec, day, clicks=3000, items=400))
    evaluate_day(spec, DAYS[1], lake, {name: model(items) for name, items in models.items()})
    return evaluate_day(spec, DAYS[2], lake, {name: model(items) for name, items in models.items()})


def test_the_headline_is_the_ranking_and_not_the_auc(lake: Lake) -> None:
    best = Chosen(lambda keys: -keys)  # the most clicked items have the smallest keys
    done = evaluated(lake, broken="it crosses the item", good=best, slow=Chosen(lambda keys: keys, by_pair=True))
    ranking = done.metrics["ranking"]
    assert json.loads((done.report.parent / "metrics.json").read_text())["ranking"] == ranking
    assert headline_model(done.metrics) == "good" and ranking["unranked"] == {"broken": "it crosses the item"}
    assert set(ranking["sources"]) == {"popularity_60m", "popularity_10m", "co_visitation"}
    recall = ranking["models"]["good"]["recall@20"]
    assert done.verdict.startswith(f"good has the clicked item among its first 20 of {ranking['live_items']:,.0f} live items")
    assert f"{100 * recall:.1f} %" in done.verdict and "sampled clicks" in done.verdict
    assert done.metrics["verdict"]["word"] == "good"
    html = done.report.read_text()
    headline = "recall@20 of good over all live items"
    for text in (headline, "most clicked, 1 hour", "(sample)", "AUC, popular", "broken is not ranked"):
        assert text in html
    assert html.index("recall@20 of good") < html.index("AUC of the model")
    assert "filled-in times" in html and "Last 2 reported days" in html
    recent = done.metrics["recent"]
    assert recent["days"] == list(DAYS[1:]) and recent["systems"]["good"]["recall@20"]["days"] == 2
    assert recent["systems"]["co_visitation"]["mrr@20"]["standard_error"] > 0
    days = [entry["ranking"]["good"]["recall@20"] for entry in done.metrics["history"]]
    assert recent["systems"]["good"]["recall@20"]["mean"] == pytest.approx(np.mean(days))


def test_a_model_that_is_below_every_source_is_poor(lake: Lake) -> None:
    done = evaluated(lake, bad=Chosen(lambda keys: keys))
    assert done.metrics["verdict"]["word"] == "poor" and "bad is above none of them" in done.verdict


def test_without_a_model_that_ranks_the_auc_is_the_headline(lake: Lake) -> None:
    done = evaluated(lake, broken="no")
    assert headline_model(done.metrics) is None and "ranks a clicked impression" in done.verdict
    assert "broken is not ranked: no" in done.report.read_text()


def test_some_sources_are_beaten() -> None:
    def source(recall: float) -> dict[str, Any]:
        return {"recall@20": recall}

    def against(difference: float) -> dict[str, Any]:
        return {"recall@20": 0.0, "difference": difference, "standard_error": 0.01, "df": 200}

    differences = {"popularity_60m": against(0.02), "co_visitation": against(-0.05)}
    of = {"recall@20": 0.69, "standard_errors": {"recall@20": 0.001}, "sampled": False, "requests": 9, "against": differences}
    sources = {"popularity_60m": source(0.67), "co_visitation": source(0.72)}
    ranking = {"models": {"m": of}, "sources": sources, "live_items": 9.0}
    metrics = {"ranking": ranking, "sampling": {"draw": "popularity"}, "model": {"auc": 0.6}}
    word, sentences = ranking_verdict(metrics, "m")
    assert word == "mixed" and "AUC" not in " ".join(sentences)
    assert best_source(ranking) == "co_visitation" and source_title("co_visitation") == "co-visitation"
    against_all = {name: against(0.01) for name in differences}  # not more than its error
    assert ranking_verdict(metrics | {"ranking": ranking | {"models": {"m": of | {"against": against_all}}}}, "m")[0] == "poor"


@pytest.mark.parametrize("clicks", [0, 1, 3])
def test_days_of_few_clicks_have_a_report(lake: Lake, clicks: int) -> None:
    spec = kiosk()
    put_features(lake, spec, DAYS[1], kiosk_day(spec, DAYS[1]))
    put_features(lake, spec, DAYS[2], kiosk_day(spec, DAYS[2], clicks=5).slice(0, 2 * clicks))
    models = {"fast": Chosen(lambda keys: keys), "slow": Chosen(lambda keys: keys, by_pair=True)}
    done = evaluate_day(spec, DAYS[2], lake, {name: model(items) for name, items in models.items()})
    assert done.metrics["ranking"]["requests"] == clicks
    assert done.metrics["verdict"]["word"] in ("unknown", "poor", "mixed")
    assert "Ranking of all live items" in done.report.read_text()
