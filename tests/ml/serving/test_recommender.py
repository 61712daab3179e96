"""The two stages: candidates of every source, scores as of the training features, filters, histories and explanations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.lake import Lake
from ml.retrieval.postings import UnknownColumn
from ml.retrieval.vectors import user_vectors
from ml.schema import EVENT_TIME
from ml.serving.batches import batch_of, table_of
from ml.serving.engine import Engine
from ml.serving.explanations import column_contributions
from ml.serving.faults import WrongColumn
from ml.serving.recommender import Recommendation, Recommender
from ml.serving.start import start
from tests.helpers.kiosk_lake import HOUR, raw_rows, spec_of


def recommender(engine: Engine) -> Recommender:
    assert engine.recommender is not None
    return engine.recommender


def ask(engine: Engine, user: object = 3, k: int = 5, **options: object) -> Recommendation:
    return recommender(engine).recommend(engine.ranking.bundle, user, {}, k, engine.clock.now(), **options)  # type: ignore[arg-type]


def some_user(engine: Engine) -> int:
    return recommender(engine).window.users(1)[0]


def test_items_are_ranked_by_the_model_and_found_by_several_sources(engine: Engine) -> None:
    user = some_user(engine)
    found = ask(engine, user, k=50)
    scores = [ranked.score for ranked in found.items]
    assert scores == sorted(scores, reverse=True) and len(scores) > 5
    assert {"two_tower", "popularity", "co_visitation"} <= set(found.candidates)
    assert {name for ranked in found.items for name in ranked.sources} == {n for n, count in found.candidates.items() if count}
    assert "place" in found.filled and not {"item", "clicks_1h"} & {*found.filled, *found.missing}
    assert [ranked.item for ranked in ask(engine, user, k=2).items] == [ranked.item for ranked in found.items[:2]]


def test_scores_are_those_of_the_bundle_on_the_raw_columns(engine: Engine) -> None:
    user = some_user(engine)
    found, bundle = ask(engine, user, k=3), engine.ranking.bundle
    held = recommender(engine).window
    history = [event.item for event in held.last_of(user, engine.clock.now(), 3)]
    for ranked in found.items:
        row = {
            "clicks_1h": ranked.columns["clicks_1h"],
            "user": user,
            "item": ranked.item,
            "place": held.known_of(user, engine.clock.now())["place"],
            "history:history": history,
        }
        [score] = bundle.predict(pa.RecordBatch.from_pylist([row]))
        assert score == pytest.approx(ranked.score, rel=1e-6)


def test_nearest_items_have_the_largest_products_with_the_vector_of_the_user(engine: Engine) -> None:
    live = recommender(engine).source.live
    assert live.index is not None and live.tower is not None
    row = recommender(engine).row_of(live.tower, some_user(engine), {}, engine.clock.now())
    order = np.argsort(-(live.index.vectors @ user_vectors(live.tower, table_of(row))[0]))
    allowed = np.arange(len(live)) % 2 == 0
    assert live.nearest(row, 5, None).tolist() == order[:5].tolist()
    assert live.nearest(row, len(live), allowed).tolist() == order[allowed[order]].tolist()
    assert not len(replace(live, index=None, tower=None).nearest(row, 5, None))


def test_trailing_counts_are_those_of_the_log(engine: Engine) -> None:
    live = recommender(engine).source.live
    rows = [row for row in raw_rows().to_pylist() if live.at - HOUR <= row[EVENT_TIME] < live.at]
    for item in live.items.to_pylist():
        assert item["clicks_1h"] == sum(row["item"] == item["item"] for row in rows)


def test_a_click_changes_the_next_request(engine: Engine) -> None:
    user = some_user(engine)
    first = ask(engine, user).items[0].item
    engine.store({"examples": [{"user": user, "item": first}]}, engine.clock.now() - 1)
    after = ask(engine, user, k=50)
    assert after.context[0].item == first and first not in [ranked.item for ranked in after.items]
    again = ask(engine, user, k=50, exclude_seen=False)
    assert first in [ranked.item for ranked in again.items]


def test_a_new_item_is_recommended_after_a_refresh(engine: Engine) -> None:
    engine.store({"examples": [{"user": 1, "item": 999}]}, engine.clock.now() - 1)
    assert 999 not in [ranked.item for ranked in ask(engine, 5, k=100).items]
    engine.refresh()
    assert 999 in [ranked.item for ranked in ask(engine, 5, k=100).items]


def test_filters_keep_what_they_allow(engine: Engine) -> None:
    chosen = [ranked.item for ranked in ask(engine, k=100).items][::2]
    found = ask(engine, k=100, filters={"item": chosen})
    assert sorted(ranked.item for ranked in found.items) == sorted(chosen)
    assert ask(engine, filters={"item": [10**9]}).items == []
    with pytest.raises(UnknownColumn, match=r"filters\.brand"):
        ask(engine, filters={"brand": [1]})


def test_an_unknown_user_gets_popular_items(engine: Engine) -> None:
    found = ask(engine, user=None)
    assert found.items and "place" in found.missing and found.context == []


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"colour": 1}, r"context\.colour: no such column"),
        ({"item": 1}, r"context\.item: describes items"),
        ({"place": 7}, r"context\.place: expected string, found 7"),
    ],
)
def test_a_wrong_context_is_refused_by_name(engine: Engine, context: dict[str, object], said: str) -> None:
    with pytest.raises(WrongColumn, match=said):
        recommender(engine).recommend(engine.ranking.bundle, 1, context, 5, engine.clock.now())


def test_given_items_are_ranked_also_if_they_are_not_live(engine: Engine) -> None:
    found = recommender(engine).rank(engine.ranking.bundle, 3, {}, [1, 10**9, 2], engine.clock.now())
    assert sorted(ranked.item for ranked in found.items) == [1, 2, 10**9]


def test_items_that_are_not_live_have_the_trailing_counts_of_the_daily_features(engine: Engine) -> None:
    live = recommender(engine).source.live.items.to_pylist()[0]
    found = recommender(engine).rank(engine.ranking.bundle, 3, {}, [99_999, live["item"], 88_888], engine.clock.now())
    columns = {ranked.item: ranked.columns for ranked in found.items}
    assert columns == {live["item"]: live} | {item: {"item": item, "clicks_1h": 0} for item in (99_999, 88_888)}


def test_reasons_are_changes_of_the_log_odds(engine: Engine) -> None:
    held, bundle = recommender(engine), engine.ranking.bundle
    row = held.row_of(bundle, 3, {"place": "here"}, engine.clock.now())
    items = held.source.live.items.slice(0, 4)
    reasons = column_contributions(bundle, row, items)
    assert len(reasons) == 4 and set(reasons[0]) == {"clicks_1h", "user", "item", "place", "history"}
    without = bundle.score(batch_of(bundle, {**row, "place": pa.scalar(None, pa.string())}, items))
    base = bundle.score(batch_of(bundle, row, items))
    assert (base[0] > without[0]) == (reasons[0]["place"] > 0)


def test_columns_of_the_item_are_those_of_its_last_row(lake: Lake, tmp_path: Path) -> None:
    """And not of the user's last event."""
    engine = start(spec_of(item_columns=["place"]), lake, UPath(tmp_path / "stream"))
    found = ask(engine, some_user(engine), k=50)
    last = {row["item"]: row["place"] for row in raw_rows().sort_by(EVENT_TIME).to_pylist()}
    assert found.items and "place" not in {*found.filled, *found.missing}
    assert all(ranked.columns["place"] == last[ranked.item] for ranked in found.items)
    with pytest.raises(WrongColumn, match="describes items"):
        recommender(engine).recommend(engine.ranking.bundle, 1, {"place": "here"}, 5, engine.clock.now())
