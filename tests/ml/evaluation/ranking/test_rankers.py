"""Rankers on the same clicks: candidates and orders equal a second computation, and a winner is significantly better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from assets.evaluation_reports import _rankers
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.evaluation.evaluate import evaluate_day
from ml.evaluation.models import ranker_before
from ml.evaluation.ranking.metrics import METRICS, values_of
from ml.evaluation.ranking.rankers import LAMBDARANK, compare_rankers
from ml.evaluation.ranking.report import rank_day
from ml.evaluation.ranking.requests import DayRanking
from ml.evaluation.ranking.verdict import rankers_sentences
from ml.evaluation.scores import ScoredModel
from ml.features.clean import clean_day
from ml.lake import Lake, MissingPartition
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_lists import candidate_lists
from ml.retrieval.day import index_day
from ml.retrieval.ranks import MISSED
from tests.helpers.kiosk_days import DAYS, kiosk
from tests.helpers.kiosk_lake import HOUR, put_raw, raw_rows

FIRST, DAY = DAYS[:2]


def spec_of(**changes: Any) -> DatasetSpec:
    ranking = {"slice_minutes": 30, "popularity_minutes": [60], "lambdarank": {"trees": 5, "min_leaf_rows": 5}} | changes
    return kiosk(models={"dlrm": {}}, ranking=ranking)


class Fixed:
    """Scores items by the ids of a feature, the same for every request."""

    item_features, pair_features = ("item",), ()

    def __init__(self, by_pair: bool) -> None:
        self.by_pair = by_pair

    def index(self, items: pa.Table, pairs: Any = None) -> None:
        self.items = items["item"].to_numpy()

    def scores(self, requests: pa.Table) -> np.ndarray:
        return np.tile((self.items % 1009).astype(np.float32), (requests.num_rows, 1))


def filled(lake: Lake, spec: DatasetSpec, rows: pa.Table | None = None) -> LambdaRank:
    """Fill two days, and return the LambdaRank of the first."""
    later = raw_rows(seed=1) if rows is None else rows
    moved = pa.array(later["event_time"].to_numpy() + 24 * HOUR)
    for day, table in ((FIRST, raw_rows()), (DAY, later.set_column(0, "event_time", moved))):
        put_raw(lake, spec, table, day)
        clean_day(spec, day, lake, str(lake.root), LocalRunner())
    index_day(spec, FIRST, lake)
    ranker = ranker_before(spec, DAY, lake)
    assert ranker is not None
    return ranker


def day_ranking(lake: Lake, spec: DatasetSpec, ranker: LambdaRank) -> DayRanking:
    assert spec.ranked
    models = {"pairs": Fixed(by_pair=True), "towers": Fixed(by_pair=False)}
    ranking = DayRanking(spec, spec.ranked, DAY, lake, [FIRST], models, ranker=ranker)
    ranking.rank()
    return ranking


def test_candidates_and_orders_are_those_of_the_lists_of_the_day(lake: Lake) -> None:
    spec = spec_of()
    ranker = filled(lake, spec)
    ranking = day_ranking(lake, spec, ranker)
    assert ranking._rankers is not None
    result, ranks = ranking._rankers.result(), ranking._rankers._ranks
    lists = list(candidate_lists(spec, DAY, lake, 1 << 40))
    sizes = np.concatenate([np.diff(of.candidates.offsets) for of in lists])
    assert result["requests"] == len(sizes) == 400 and result["candidates"] == pytest.approx(sizes.mean())
    assert result["found"] == pytest.approx(sum(of.taken.sum() for of in lists) / len(sizes)) and 0.3 < result["found"] < 1
    checked = 0
    for of in lists:
        scores, offsets = ranker.scores(of.candidates.signals), of.candidates.offsets
        for b, number in enumerate(of.requests):
            part = slice(offsets[b], offsets[b + 1])
            taken = scores[part][of.taken[part]]
            if not len(taken):
                assert ranks[LAMBDARANK][number] == MISSED and ranks["pairs"][number] == MISSED
                continue
            order = np.argsort(-scores[part], kind="stable")
            assert ranks[LAMBDARANK][number] == np.flatnonzero(of.taken[part][order])[0]
            assert 0 <= ranks["pairs"][number] <= ranks["towers"][number], "all candidates are live items"
            checked += 1
    assert checked > 100
    assert {name: of["of"] for name, of in result["systems"].items()} == {
        LAMBDARANK: "candidates",
        "pairs": "candidates",
        "towers": "live items",
        "popularity_60m": "live items",
        "co_visitation": "live items",
    }
    assert rank_day(spec, DAY, lake, [FIRST], {}) is not None, "a report without a LambdaRank does not compare rankers"


def test_what_happens_later_does_not_change_ranks(lake: Lake) -> None:
    spec, rows = spec_of(), raw_rows(seed=1)
    late = rows["event_time"].to_numpy() >= np.sort(rows["event_time"].to_numpy())[300]
    items = rows["item"].to_numpy().copy()
    items[late] = items[late][::-1]
    ranker = filled(lake, spec)
    before = day_ranking(lake, spec, ranker)._rankers
    changed = rows.set_column(rows.column_names.index("item"), "item", pa.array(items))
    filled(lake, spec, changed)
    after = day_ranking(lake, spec, ranker)._rankers
    assert before and after
    for name in before._ranks:
        np.testing.assert_array_equal(before._ranks[name][:300], after._ranks[name][:300])
    assert any((before._ranks[name] != after._ranks[name]).any() for name in before._ranks)


def test_a_sample_is_the_same_for_all_and_the_report_names_the_winner(lake: Lake) -> None:
    spec = spec_of(scored_pairs=4000)
    ranker = filled(lake, spec)

    def predict(rows: pa.Table) -> np.ndarray:
        return np.full(rows.num_rows, 0.5)

    models = {"pairs": ScoredModel(predict, {"snapshot_day": FIRST}, ranks_only=True, items=Fixed(by_pair=True))}
    done = evaluate_day(spec, DAY, lake, models, ranker=ranker)
    rankers = done.metrics["ranking"]["rankers"]
    assert rankers["sampled"] and 20 < rankers["requests"] == done.metrics["ranking"]["models"]["pairs"]["requests"] < 400
    html = done.report.read_text()
    assert "<h2>Rankers</h2>" in html and "lambdarank" in html and rankers_sentences(done.metrics["ranking"])[0] in done.verdict
    shown = _rankers(done.metrics["ranking"])
    assert shown["best_ranker"] == (rankers["winner"] or "none: no significant difference")
    assert [record.data["ranker"] for record in shown["rankers"].records] == list(rankers["systems"])
    assert _rankers(done.metrics["ranking"] | {"rankers": None}) == {} == _rankers(None)


def test_a_winner_is_significantly_above_every_other() -> None:
    rng = np.random.default_rng(0)
    count = 2000
    good, groups = rng.integers(0, 60, count).astype(np.int32), np.arange(count) // 2
    near, bad = (good + rng.integers(-1, 2, count)).clip(0).astype(np.int32), np.full(count, MISSED, np.int32)
    found = compare_rankers({"bad": bad, "good": good}, groups)
    assert found["best"] == found["winner"] == "good"
    expected = {name: of.mean() for name, of in values_of(good).items()}
    assert {name: found["systems"]["good"][name] for name in METRICS} == pytest.approx(expected)
    assert found["systems"]["bad"]["behind"]["difference"] == pytest.approx(expected["recall@20"])
    both = compare_rankers({"near": near, "good": good, "bad": bad}, groups)
    assert both["best"] in ("near", "good") and both["winner"] is None
    same = compare_rankers({"one": good, "other": good}, groups)
    assert same["best"] == "one" and same["winner"] is None, "equal ranks have no winner"
    assert compare_rankers({}, groups[:0]) == {"systems": {}, "best": None, "winner": None}

    def sentences(of: dict[str, Any]) -> str:
        about = {"requests": count, "sampled": False, **of}
        return rankers_sentences({"sources": {}, "rankers": about})[0]

    assert sentences(found).startswith("The best ranker is good: its recall@20 of")
    assert sentences(both).startswith("No ranker wins") and "bad" not in sentences(both)
    assert rankers_sentences(None) == [] == rankers_sentences({"sources": {}, "rankers": None})


def test_a_ranker_needs_the_index_of_the_day_before(lake: Lake, tmp_path: Path) -> None:
    spec = spec_of()
    assert ranker_before(spec, FIRST, lake) is None, "nothing precedes the first day"
    assert ranker_before(kiosk(), DAY, lake) is None, "the entry does not ask for one"
    with pytest.raises(MissingPartition, match="candidate_index"):
        ranker_before(spec, DAY, lake)
    ranker = filled(lake, spec)
    with pytest.raises(ValueError, match="materialise candidate_index"):
        day_ranking(lake, spec, LambdaRank(ranker.text.replace("share_10m", "share_of_10m")))
    put_raw(lake, spec, raw_rows(seed=3), DAY)
    with pytest.raises(ValueError, match="make the features again"):
        day_ranking(lake, spec, ranker)
