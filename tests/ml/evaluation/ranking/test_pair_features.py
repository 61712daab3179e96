"""Features of pairs of a click and an item equal a slow search of the log, and those of the row whose item it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.collate import batch_from_arrow
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.evaluation.ranking.item_scorers import item_scorer
from ml.evaluation.ranking.pair_features import PairFeatures
from ml.evaluation.ranking.requests import rank_requests
from ml.features.clean import clean_day
from ml.features.event_days import write_event_day
from ml.features.hashing import hash_values
from ml.features.read import feature_table
from ml.lake import Lake
from ml.models.build import build_model
from ml.recipes.recipe import load_recipe
from ml.schema import ITEM_KEY, MISSING_ID, FeatureSchema
from tests.helpers.feature_values import slow_value
from tests.helpers.table_days import DAY as DAY_LENGTH
from tests.helpers.table_days import DAYS, FIRST, TABLES, day_rows, in_time_order, table_spec, write_rows

DAY = DAYS[2]
CROSSES: list[dict[str, Any]] = [
    {
        "name": "item_here",
        "entity": ["item", "country"],
        "known_after_minutes": 30,
        "values": [
            {"name": "shown_here", "count": {"hours": 24}},
            {"name": "ctr_here", "rate": {"column": "click", "hours": 24, "strength": 5}},
            {"name": "idle_here", "recency": {"hours": 12}},
            {"name": "users_here", "last": {"column": "user", "most": 2, "hours": 24}},
        ],
    },
]
DENSE = ["shown", "clicks", "ctr", "shown_here", "ctr_here"]
PAIRS = ["shown", "idle", "together", "shown_here", "ctr_here", "idle_here", "bucket", "both", "rare", "users"]


def spec_of() -> DatasetSpec:
    return table_spec(
        feature_tables=TABLES + CROSSES,
        dense=[*DENSE, *({"name": name, "fill": -1} for name in ("idle", "together", "idle_here"))],
        sparse=[
            "item",
            "user",
            {"name": "seen", "history": "clicked"},
            {"name": "bucket", "column": "shown", "bucketise": [1, 4]},
            {"name": "both", "cross": ["item", "country"]},
            {"name": "rare", "cross": ["user", "item"], "vocabulary": {"min_count": 2}},
            {"name": "users", "history": "users_here"},
        ],
        ranking={"slice_minutes": 120, "live_hours": 20},
    )


def filled(lake: Lake, spec: DatasetSpec, seed: int) -> list[dict[str, Any]]:
    """Make three days, the first of which receives rows after it was made. Returns the events."""
    rows = [day_rows(day, 160, seed) for day in range(3)]
    late = day_rows(0, 30, seed + 100)

    def clean(day: str) -> None:
        write_event_day(spec, day, lake)
        clean_day(spec, day, lake, str(lake.root), LocalRunner())

    write_rows(lake, spec, DAYS[0], rows[0])
    clean(DAYS[0])
    write_rows(lake, spec, DAYS[0], in_time_order(rows[0], late))
    assert write_event_day(spec, DAYS[0], lake).late == 30
    for day, table in zip(DAYS[1:3], rows[1:], strict=True):
        write_rows(lake, spec, day, table)
        clean(day)
    events = in_time_order(pa.concat_tables(rows)).to_pylist()
    return events + [{**row, "arrived": FIRST + DAY_LENGTH} for row in late.to_pylist()]


def opened(lake: Lake, spec: DatasetSpec) -> tuple[PairFeatures, pa.Table]:
    """The features of pairs, and the clicks of the day."""
    features = feature_table(lake, spec, DAY)
    clicks = features.filter(pa.array(features["label"].to_numpy() > 0.5))
    since = day_bounds(DAY, spec.zone)[0] - 20 * MICROSECONDS_PER_HOUR
    pairs = PairFeatures(spec, DAY, lake, DAYS[:2], since, PAIRS)
    return pairs, pairs.with_columns(clicks, np.arange(len(clicks)))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_pair_has_the_values_of_a_slow_search(lake: Lake, seed: int) -> None:
    spec = spec_of()
    events = filled(lake, spec, seed)
    pairs, clicks = opened(lake, spec)
    items = np.arange(12)
    ids = hash_values(ITEM_KEY, pa.array(items))
    order, start = np.argsort(ids), day_bounds(DAY, spec.zone)[0]
    pairs.index(start, ids[order])
    chosen = clicks.take(pa.array(np.random.default_rng(seed).permutation(len(clicks))[:8]))
    found = pairs(chosen).to_pylist()
    assert len(found) == 8 * 12
    log = day_rows(2, 160, seed).to_pylist()
    values, compared = {v.name: (t, v) for t in spec.feature_tables for v in t.values}, 0
    users = {n: int(hash_values("user", pa.array([n]))[0]) for n in range(15)}
    clicked = [row for row in log if row["click"]]
    times = clicks["event_time"].to_pylist()
    for n, at in enumerate(chosen["event_time"].to_pylist()):
        which = [i for i, time in enumerate(times) if time == at]
        if len(which) > 1:  # rows of one instant cannot be told apart here
            continue
        row = clicked[which[0]]
        for place, item in enumerate(items[order].tolist()):
            pair, of = {**row, "item": item}, found[n * 12 + place]
            for name in PAIRS[:6]:
                slow = slow_value(spec, *values[name], pair, events)
                assert of[name] == pytest.approx(-1 if slow is None else slow, rel=1e-6), (name, pair)
                compared += slow not in (None, 0)
            last = slow_value(spec, *values["users_here"], pair, events)
            assert of["users"] == ([users[user] for user in last] or [MISSING_ID])
    assert compared > 150


def test_a_pair_has_the_features_of_the_row_that_has_both(lake: Lake) -> None:
    spec = spec_of()
    filled(lake, spec, 0)
    pairs, clicks = opened(lake, spec)
    with_item = clicks.filter(pa.array(clicks["key:item"].to_numpy() != MISSING_ID))
    ids = np.unique(with_item["key:item"].to_numpy())
    pairs.index(day_bounds(DAY, spec.zone)[1], ids)
    found = pairs(with_item)
    own = np.arange(len(with_item)) * len(ids) + np.searchsorted(ids, with_item["key:item"].to_numpy())
    for name in PAIRS:
        assert found[name].take(pa.array(own)).to_pylist() == with_item[name].to_pylist(), name
    assert len(set(found["rare"].to_pylist())) > 3


class Recorded:
    """Keeps the scores that a scorer gives."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.item_features, self.pair_features = scorer, scorer.item_features, scorer.pair_features
        self.by_pair, self.found = True, list[tuple[pa.Table, np.ndarray]]()

    def index(self, items: pa.Table, pairs: Any = None) -> None:
        self.items = items["item"].to_numpy()
        self.scorer.index(items, pairs)

    def scores(self, requests: pa.Table) -> np.ndarray:
        scores = self.scorer.scores(requests)
        at = np.searchsorted(np.sort(self.items), requests["item"].to_numpy())
        assert len(at) == len(scores)
        for n, item in enumerate(requests["item"].to_numpy()):
            if item in self.items:
                self.found.append((requests.slice(n, 1), scores[n, np.flatnonzero(self.items == item)]))
        return scores


def test_a_ranking_scores_the_clicked_item_as_its_row(lake: Lake) -> None:
    spec = spec_of()
    filled(lake, spec, 0)
    recipe, schema = load_recipe("dlrm", {"tables": {"init_scale": 0.5}}), FeatureSchema.of(spec)
    model = build_model(recipe, schema).eval()
    scorer = Recorded(item_scorer(spec, model, recipe, schema))
    assert sorted(scorer.pair_features) == sorted(PAIRS) and spec.ranked
    ranked = rank_requests(spec, spec.ranked, DAY, lake, DAYS[:2], {"dlrm": scorer})
    assert ranked.reachable > 50 and len(scorer.found) == ranked.reachable
    batch = batch_from_arrow(pa.concat_tables([rows for rows, _ in scorer.found]), schema)
    with torch.no_grad():
        of_rows = model(batch.dense, batch.sparse).numpy()
    np.testing.assert_allclose(np.concatenate([of for _, of in scorer.found]), of_rows, rtol=1e-5)


def test_features_of_another_log_are_refused(lake: Lake) -> None:
    spec = spec_of()
    filled(lake, spec, 0)
    write_rows(lake, spec, DAY, day_rows(2, 150, 7))
    with pytest.raises(ValueError, match="160 rows of features for 150 rows of the log"):
        opened(lake, spec)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")
