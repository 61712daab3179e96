"""Ranking of every click among all live items: against a slow reading of all rows, and without a look into the future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ml.catalog.spec import DatasetSpec
from ml.datasets.collate import batch_from_arrow
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.evaluation.ranking.item_scorers import CannotRank, PairItems, TwoTowerItems, item_scorer
from ml.evaluation.ranking.metrics import METRICS, paired_difference, ranking_metrics
from ml.evaluation.ranking.report import rank_day
from ml.evaluation.ranking.requests import DayRanking, RankedDay, rank_requests
from ml.lake import Lake
from ml.models.build import build_model
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import load_recipe
from ml.retrieval.co_visitation import CoVisitation
from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.ranks import MISSED, ranks_of
from ml.retrieval.source import Clicks
from ml.schema import FeatureSchema
from tests.helpers.kiosk_days import DAYS, kiosk, kiosk_day, put_features

MINUTE = 60_000_000
DAY = DAYS[2]


def filled(lake: Lake, spec: DatasetSpec, last: pa.Table | None = None) -> pa.Table:
    tables = [kiosk_day(spec, day) for day in DAYS]
    tables[2] = tables[2] if last is None else last
    for day, table in zip(DAYS, tables, strict=True):
        put_features(lake, spec, day, table)
    return pa.concat_tables(tables)


def ranked(lake: Lake, spec: DatasetSpec, scorers: Any = None) -> RankedDay:
    assert spec.ranked
    return rank_requests(spec, spec.ranked, DAY, lake, DAYS[:2], scorers or {})


def kiosk_times(spec: DatasetSpec) -> np.ndarray:
    """Which rows of `filled` are of the ranked day."""
    return np.repeat([False, False, True], [len(kiosk_day(spec, day)) for day in DAYS])


class Fixed:
    """Scores item i of the index by a feature, the same for every request."""

    item_features, pair_features, by_pair = ("clicks_1h", "item"), (), True

    def index(self, items: pa.Table, pairs: Any = None) -> None:
        self.items = items

    def scores(self, requests: pa.Table) -> np.ndarray:
        return np.broadcast_to(self.items["clicks_1h"].to_numpy(), (requests.num_rows, self.items.num_rows))


def test_every_system_ranks_as_a_slow_reading_does(lake: Lake) -> None:
    spec = kiosk()
    table = filled(lake, spec)
    found = ranked(lake, spec, {"fixed": Fixed()})
    begin, end = day_bounds(DAY, spec.zone)
    time, item, whose, clicked = (table[n].to_numpy() for n in ("event_time", "key:item", "key:session", "label"))
    clicked = clicked > 0.5
    requests = [n for n in range(len(table)) if clicked[n] and begin <= time[n] < end]
    assert found.whose.tolist() == whose[requests].tolist()
    dense, live_sizes, reachable, compared = table["clicks_1h"].to_numpy(), {}, 0, 0
    for number, n in enumerate(requests):
        start = begin + (time[n] - begin) // (30 * MINUTE) * 30 * MINUTE
        before = [m for m in range(len(table)) if time[m] < start]
        live = sorted({int(item[m]) for m in before if clicked[m] and time[m] >= start - 3 * MICROSECONDS_PER_HOUR})
        live_sizes[start] = len(live)
        reachable += int(item[n]) in live
        session = [m for m in range(len(table)) if clicked[m] and whose[m] == whose[n] and time[m] < time[n]]
        session = [m for m in session if time[m] >= begin - 3 * MICROSECONDS_PER_HOUR][::-1]
        assert found.gap[number] == (time[n] - time[session[0]] if session else -1)
        seen = {int(item[m]) for m in session[:20]}
        last = {int(item[m]): dense[m] for m in before}
        scores = {"fixed": {i: last[i] for i in live}}
        for minutes in (60, 20):
            near = [int(item[m]) for m in before if clicked[m] and time[m] >= start - minutes * MINUTE]
            scores[f"popularity_{minutes}m"] = {i: near.count(i) for i in live}
        for name, score in scores.items():
            order = sorted(live, key=lambda i: (-score[i], i))
            unseen = [i for i in order if i not in seen]
            of = (found.models | found.sources)[name]
            assert of.requests[number] == number
            assert of.ranks[number] == (order.index(item[n]) if item[n] in live else MISSED)
            assert of.unseen[number] == (unseen.index(item[n]) if item[n] in unseen else MISSED)
            near = [int(item[m]) for m in before if clicked[m] and time[m] >= start - 60 * MINUTE and item[m] != item[n]]
            drawn = [i for i in near if i in live]
            if item[n] in live and drawn:
                lower = [1.0 if score[i] < score[item[n]] else 0.5 if score[i] == score[item[n]] else 0.0 for i in drawn]
                assert of.above[number] == pytest.approx(np.mean(lower), rel=1e-6)
                compared += 1
            else:
                assert np.isnan(of.above[number])
    assert found.live == pytest.approx(np.mean(list(live_sizes.values())))
    assert found.reachable == reachable > 100 and compared > 300


def test_co_visitation_learns_from_the_sessions_before_the_slice(lake: Lake) -> None:
    spec = kiosk()
    table = filled(lake, spec)
    found = ranked(lake, spec).sources["co_visitation"]
    begin, _ = day_bounds(DAY, spec.zone)
    table = table.filter(pa.array(table["label"].to_numpy() > 0.5))
    table = table.filter(pa.array(table["event_time"].to_numpy() >= begin - 3 * MICROSECONDS_PER_HOUR))
    time, item, whose = (table[n].to_numpy() for n in ("event_time", "key:item", "key:session"))

    def context(n: int) -> list[int]:
        return [int(item[m]) for m in range(n - 1, -1, -1) if whose[m] == whose[n] and time[m] < time[n]][:20]

    contexts, first = [context(n) for n in range(len(time))], int(np.searchsorted(time, begin))
    for n in range(first, len(time), 7):
        start = begin + (time[n] - begin) // (30 * MINUTE) * 30 * MINUTE
        past = int(np.searchsorted(time, start))
        source, items = CoVisitation(60 * MINUTE), np.unique(item[time < start][time[time < start] >= start - 180 * MINUTE])
        source.observe(Clicks(time[:past], item[:past], Contexts.of(contexts[:past])))
        source.refresh(int(start), items)
        at = places(item[n : n + 1], items)
        assert found.ranks[n - first] == ranks_of(source.scores(Contexts.of([contexts[n]])), at)[0]
        assert (found.ranks[n - first] == MISSED) == (at[0] == NOT_LIVE)


def test_what_happens_later_changes_nothing(lake: Lake) -> None:
    spec = kiosk()
    whole = kiosk_day(spec, DAY)
    filled(lake, spec, whole)
    before = ranked(lake, spec, {"fixed": Fixed()})
    begin, end = day_bounds(DAY, spec.zone)
    middle = begin + (end - begin) // 2  # a slice begins here
    early = whole.filter(pa.array(whole["event_time"].to_numpy() < middle))
    other = kiosk_day(spec, DAY, seed=9, items=60)
    filled(lake, spec, pa.concat_tables([early, other.filter(pa.array(other["event_time"].to_numpy() >= middle))]))
    after, count = ranked(lake, spec, {"fixed": Fixed()}), int((early["label"].to_numpy() > 0.5).sum())
    for name, of in (before.sources | before.models).items():
        changed = (after.sources | after.models)[name]
        assert changed.ranks[:count].tolist() == of.ranks[:count].tolist()
        assert changed.unseen[:count].tolist() == of.unseen[:count].tolist()
        assert changed.ranks.tolist() != of.ranks.tolist()


def test_a_day_that_is_ranked_in_parts_is_ranked_as_in_one(lake: Lake) -> None:
    """Parts that end with the slices of time change nothing. A part that ends inside a slice brings newer statistics."""
    spec = kiosk()
    rows = filled(lake, spec).filter(pa.array(kiosk_times(spec)))
    assert spec.ranked
    begin, _ = day_bounds(DAY, spec.zone)
    of_slice = (rows["event_time"].to_numpy() - begin) // (30 * MINUTE)
    ends = [*np.flatnonzero(np.diff(of_slice)) + 1, len(rows)]
    whole = ranked(lake, spec, {"fixed": Fixed()})
    parts = DayRanking(spec, spec.ranked, DAY, lake, DAYS[:2], {"fixed": Fixed(), "same": Fixed()})
    found = [parts.rank(int(count)) for count in np.diff([0, *ends])]
    assert sum(len(part["fixed"].ranks) for part in found) == 300
    for name, of in (whole.models | whole.sources).items():
        for field in ("requests", "ranks", "unseen", "above"):
            joined = np.concatenate([getattr(part[name], field) for part in found])
            np.testing.assert_array_equal(joined, getattr(of, field))
    finer = DayRanking(spec, spec.ranked, DAY, lake, DAYS[:2], {"fixed": Fixed()})
    while len(finer.result().whose) < 300:
        finer.rank(2)  # a click and its negative
    assert (finer.result().sources["popularity_60m"].ranks != whole.sources["popularity_60m"].ranks).any()


def test_models_are_ranked_alike_without_sources(lake: Lake) -> None:
    spec = kiosk()
    filled(lake, spec)
    assert spec.ranked
    alone = DayRanking(spec, spec.ranked, DAY, lake, DAYS[:2], {"fixed": Fixed()}, with_sources=False)
    assert set(alone.rank()) == {"fixed"} and not alone.source_names
    found, whole = alone.result(), ranked(lake, spec, {"fixed": Fixed()})
    assert not found.sources and found.reachable == whole.reachable and found.live == whole.live
    assert np.isfinite(whole.models["fixed"].above).any()
    for field in ("requests", "ranks", "unseen", "above"):
        np.testing.assert_array_equal(getattr(found.models["fixed"], field), getattr(whole.models["fixed"], field))


def test_a_resumed_ranking_takes_the_ranks_of_models_from_before(lake: Lake) -> None:
    spec = kiosk()
    filled(lake, spec)
    assert spec.ranked
    one, other = (DayRanking(spec, spec.ranked, DAY, lake, DAYS[:2], {"fixed": Fixed()}) for _ in range(2))
    one.rank(250)
    other.rank(250, by_models=False)
    assert not len(other.models()["fixed"].ranks)
    other.restore(one.models())
    for ranking in (one, other):
        ranking.rank()
    a, b = one.result(), other.result()
    assert a.live == b.live and a.reachable == b.reachable and len(a.whose) == 300
    for name, of in (a.models | a.sources).items():
        same = (b.models | b.sources)[name]
        assert of.ranks.tolist() == same.ranks.tolist() and of.requests.tolist() == same.requests.tolist()


def test_models_that_score_pairs_rank_a_sample_that_the_report_states(lake: Lake) -> None:
    spec = kiosk(ranking={"slice_minutes": 30, "popularity_minutes": [60], "scored_pairs": 1000})
    filled(lake, spec)
    found = rank_day(spec, DAY, lake, DAYS[:2], {"fixed": Fixed(), "other": "no"})
    assert found == rank_day(spec, DAY, lake, DAYS[:2], {"fixed": Fixed(), "other": "no"})
    assert found is not None and found["unranked"] == {"other": "no"}
    of = found["models"]["fixed"]
    assert of["sampled"] and 20 < of["requests"] < 200 and not found["sources"]["popularity_60m"]["sampled"]
    assert 300 < of["requests"] * found["live_items"] < 2000
    beside = of["against"]["popularity_60m"]
    assert beside["difference"] == pytest.approx(of["recall@20"] - beside["recall@20"])
    ranks = ranked(lake, spec, {"fixed": Fixed()})
    chosen = ranks.models["fixed"].requests
    assert beside["recall@20"] == pytest.approx(np.isin(ranks.sources["popularity_60m"].ranks[chosen], range(20)).mean())


def test_true_and_filled_in_times_are_apart_and_add_up(lake: Lake) -> None:
    spec = kiosk()
    filled(lake, spec)
    found, ranks = rank_day(spec, DAY, lake, DAYS[:2], {}), ranked(lake, spec)
    assert found is not None and found["requests"] == 300
    filled_in = ranks.gap == 30_000_000
    assert found["filled_in"] == pytest.approx(filled_in.mean()) and 0.05 < found["filled_in"] < 0.5
    for name, of in found["sources"].items():
        parts = of["true_times"], of["filled_in_times"]
        assert [part["requests"] for part in parts] == [(~filled_in).sum(), filled_in.sum()]
        for metric in METRICS:
            assert sum(part[metric] * part["requests"] for part in parts) == pytest.approx(of[metric] * 300)
        inside = np.isin(ranks.sources[name].ranks[filled_in], range(20))
        assert of["filled_in_times"]["recall@20"] == pytest.approx(inside.mean())
    without = kiosk(session=None)
    filled(lake, without)
    apart = rank_day(without, DAY, lake, DAYS[:2], {})
    assert apart is not None and apart["filled_in"] is None and apart["sources"]["co_visitation"]["true_times"] is None


def test_a_first_day_and_a_day_without_rows(lake: Lake) -> None:
    spec = kiosk()
    put_features(lake, spec, DAYS[0], kiosk_day(spec, DAYS[0]))
    found = rank_day(spec, DAYS[0], lake, [], {"fixed": Fixed()})
    assert found is not None and found["requests"] == 300 and 0 < found["reachable"] < 1
    put_features(lake, spec, DAYS[1], kiosk_day(spec, DAYS[1]).slice(0, 0))
    empty = rank_day(spec, DAYS[1], lake, [], {"fixed": Fixed()})
    assert empty is not None and empty["requests"] == 0
    assert empty["live_items"] is empty["reachable"] is empty["filled_in"] is empty["models"]["fixed"]["recall@20"] is None


def test_metrics_by_hand() -> None:
    ranks = np.array([0, 4, 10, 19, 20, 99, 100, MISSED], np.int32)
    found = ranking_metrics(ranks, np.arange(8))
    expected = {"recall@10": 2 / 8, "recall@20": 4 / 8, "recall@100": 6 / 8, "mrr@20": (1 + 1 / 5 + 1 / 11 + 1 / 20) / 8}
    assert {name: found[name] for name in METRICS} == pytest.approx(expected)
    assert found["standard_errors"]["recall@20"] == pytest.approx(np.sqrt(0.25 / 7))
    twice = ranking_metrics(np.repeat(ranks, 2), np.repeat(np.arange(8), 2))
    assert twice["standard_errors"] == pytest.approx(found["standard_errors"]), "the same sessions twice are not twice as many"
    better = paired_difference(np.zeros(8, np.int32), ranks, np.arange(8))
    assert better is not None and better.value == pytest.approx(0.5) and better.error == pytest.approx(np.sqrt(0.25 / 7))
    assert ranking_metrics(ranks[:0], np.zeros(0, np.int64))["recall@20"] is None
    above = np.array([1, 0.5, 0, np.nan, 1, 1, 0.5, np.nan], np.float32)
    assert ranking_metrics(ranks, np.arange(8), above)["popular_auc"] == pytest.approx(4 / 6)
    assert ranking_metrics(ranks[:0], np.zeros(0, np.int64), above[:0])["popular_auc"] is None


TOWERS = {"user": ["user", "place", "history"], "item": ["item", "clicks_1h"], "embedding_dim": 8, "out": 8, "hidden": [8]}


def test_a_two_tower_model_scores_all_pairs_at_once_as_it_would_one_by_one() -> None:
    spec = kiosk()
    recipe, schema = load_recipe("two_tower", {"model": TOWERS, "tables": {"init_scale": 0.5}}), FeatureSchema.of(spec)
    model = build_model(recipe, schema).eval()
    table = kiosk_day(spec, DAY, clicks=20)
    scorer = item_scorer(spec, model, recipe, schema)
    assert isinstance(scorer, TwoTowerItems) and isinstance(model, TwoTower) and not scorer.by_pair
    slow = PairItems(model, scorer.item_features, schema)
    for one in (scorer, slow):
        one.index(table.select(["key:item", *one.item_features]).slice(0, 13))
    np.testing.assert_allclose(scorer.scores(table) / model.temperature, slow.scores(table), rtol=1e-4, atol=1e-4)


def test_a_ranker_scores_a_pair_as_the_row_that_has_both() -> None:
    spec = kiosk()
    recipe, schema = load_recipe("dlrm", {"tables": {"init_scale": 0.5}}), FeatureSchema.of(spec)
    model, table = build_model(recipe, schema).eval(), kiosk_day(spec, DAY, clicks=10)
    scorer = item_scorer(spec, model, recipe, schema)
    assert scorer.by_pair and scorer.item_features == ("clicks_1h", "item")
    scorer.index(table)
    scores = scorer.scores(table)
    batch = batch_from_arrow(table, schema)
    with torch.no_grad():
        rows = model(batch.dense, batch.sparse).numpy()
    np.testing.assert_allclose(np.diagonal(scores), rows, rtol=1e-5)
    assert scores.std(axis=0).max() > 0 and scores.std(axis=1).max() > 0


@pytest.mark.parametrize(
    ("sparse", "exclude", "message"),
    [
        (["user", "item", {"name": "both", "cross": ["clicks_1h", "place"]}], [], r"both crosses \['clicks_1h'\]"),
        (["user", "item"], ["item"], "describes the item"),
    ],
)
def test_a_model_that_cannot_rank_says_why(sparse: list[Any], exclude: list[str], message: str) -> None:
    spec = kiosk(sparse=sparse, dense=[])
    recipe, schema = load_recipe("dlrm", {"exclude_features": exclude}), FeatureSchema.of(spec)
    with pytest.raises(CannotRank, match=message):
        item_scorer(spec, build_model(recipe, schema), recipe, schema)
    without = load_recipe("dlrm", {"exclude_features": ["both"]})
    if not exclude:
        assert item_scorer(spec, build_model(without, schema), without, schema).item_features == ("item",)


def test_values_of_feature_tables_are_computed_for_each_pair() -> None:
    tables = [
        {"name": "items", "entity": ["item"], "values": [
            {"name": "seen", "count": {"hours": 1}},
            {"name": "near", "covisitation": {"session": "user", "hours": 1}},
        ]},
        {"name": "users", "entity": ["user"], "values": [{"name": "active", "count": {"hours": 1}}]},
    ]  # fmt: skip
    near = {"name": "near", "column": "near", "bucketise": [0.1]}
    both = {"name": "both", "cross": ["item", "place"]}
    spec = kiosk(feature_tables=tables, dense=["seen", "active"], sparse=["user", "item", both, near])
    schema = FeatureSchema.of(spec)
    for exclude, pairs in ([], ("seen", "both", "near")), (["near", "both"], ("seen",)):
        recipe = load_recipe("dlrm", {"exclude_features": exclude})
        scorer = item_scorer(spec, build_model(recipe, schema), recipe, schema)
        assert scorer.item_features == ("item",) and scorer.pair_features == pairs and scorer.by_pair
    towers = {**TOWERS, "user": ["user", "near"], "item": ["item", "seen"]}
    crossed = load_recipe("two_tower", {"model": towers, "exclude_features": ["both"]})
    with pytest.raises(CannotRank, match="near depends on the user and the item"):
        item_scorer(spec, build_model(crossed, schema), crossed, schema)
