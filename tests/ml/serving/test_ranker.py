"""LambdaRank as the narrow stage: trained with the candidate index, loaded by the service, with the signals of training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_index import RANKER, CandidateIndex, DamagedIndex, load_ranker
from ml.retrieval.candidate_lists import live_items, reach
from ml.retrieval.day import index_day
from ml.retrieval.interactions import PAST, context_columns, interactions_of, read_interactions, running_session
from ml.retrieval.signals import CandidateSignals
from ml.schema import EVENT_TIME
from ml.serving.engine import Engine
from ml.serving.ranker import ServedRanker
from ml.serving.recommender import Recommendation
from ml.serving.start import start
from ml.studies.served_recall import served_recall, table_of
from tests.helpers.kiosk_lake import DAY, HOUR, MIDNIGHT, kiosk_lake, raw_rows, spec_of

SPEC = spec_of(
    ranking={"slice_minutes": 30, "popularity_minutes": [60, 20], "lambdarank": {"trees": 5, "min_leaf_rows": 5}},
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = kiosk_lake(tmp_path / "lake")
    index_day(SPEC, DAY, lake)
    return lake


@pytest.fixture
def engine(lake: Lake, tmp_path: Path) -> Engine:
    return start(SPEC, lake, UPath(tmp_path / "stream"))


def ask(engine: Engine, user: int, context: dict[str, object] | None = None, **options: object) -> Recommendation:
    assert engine.recommender and engine.ranker
    ranker, now = engine.ranker.ranker, engine.clock.now()
    return engine.recommender.recommend(engine.ranking.bundle, user, context or {}, 50, now, ranker=ranker, **options)  # type: ignore[arg-type]


def test_a_day_has_a_ranker_with_the_same_bytes_again(lake: Lake) -> None:
    first = (lake.partition("candidate_index", SPEC.name, DAY) / RANKER).read_bytes()
    index_day(SPEC, DAY, lake)
    assert (lake.partition("candidate_index", SPEC.name, DAY) / RANKER).read_bytes() == first
    held = CandidateIndex.load(lake, SPEC, DAY)
    assert held.ranker is not None and held.ranker.names == CandidateSignals(context_columns(SPEC)).names
    assert RANKER in lake.manifest("candidate_index", SPEC.name, DAY)["files"]


def test_a_dataset_that_does_not_ask_has_none(tmp_path: Path) -> None:
    lake = kiosk_lake(tmp_path)
    index_day(spec_of(), DAY, lake)
    assert load_ranker(lake, spec_of(), DAY) is None


def test_the_service_ranks_by_it_and_explains_by_signals(engine: Engine) -> None:
    assert engine.recommender and engine.ranker and engine.default.ranked_by == ("lambdarank", DAY)
    user = engine.recommender.window.users(1)[0]
    found = ask(engine, user, explain=True)
    scores = [of.score for of in found.items]
    assert found.by_ranker and len(scores) > 5 and scores == sorted(scores, reverse=True)
    assert found.reasons and len(found.reasons) == len(scores) and set(found.reasons[0]) == set(engine.ranker.ranker.names)  # type: ignore[union-attr]
    assert {name for of in found.items for name in of.sources} <= set(found.candidates)
    seen = {event.item for event in found.context}
    assert seen and not seen & {of.item for of in found.items}
    assert seen & {of.item for of in ask(engine, user, exclude_seen=False).items}
    assert {of.item for of in ask(engine, user, filters={"item": [1, 2, 3]}).items} <= {1, 2, 3}


def test_the_signals_of_the_service_are_those_of_training(engine: Engine, lake: Lake) -> None:
    recommender = engine.recommender
    assert recommender
    now, live = recommender.source.live.at, recommender.source.live
    log = read_interactions(SPEC, DAY, lake, reach(SPEC, DAY))
    signals = CandidateSignals(context_columns(SPEC))
    signals.observe(log.events)
    np.testing.assert_array_equal(live_items(SPEC, log, now), live.ids)
    signals.refresh(now, live.ids)
    checked = 0
    for user in range(1, 30):
        past = recommender.window.last_of(user, now, PAST)
        row = {"event_time": now, "time": 1, "user": user, "item": 1, "visit": 9_999, "place": "here"}
        rows = [*raw_rows().to_pylist(), row]
        trained = interactions_of(SPEC, pa.Table.from_pylist(rows, raw_rows().schema), now)
        asked = recommender._requests(recommender.columns_of_request(user, {"place": "here"}, now), past, now)
        assert asked.past.items.tolist() == trained.requests.past.items.tolist()
        assert asked.session.tolist() == trained.requests.session.tolist()
        assert asked.codes.tolist() == trained.requests.codes.tolist()
        served, wanted = recommender.source.candidates(live, asked, None, True), signals.candidates(trained.requests)
        np.testing.assert_array_equal(served.places, wanted.places)
        np.testing.assert_array_equal(served.signals, wanted.signals)
        checked += len(served.places)
    assert checked > 300


def test_long_texts_of_a_context_are_not_kept(engine: Engine) -> None:
    assert engine.recommender
    held = engine.recommender._cached_hash.cache_info
    before = held().currsize
    for number in range(5):
        assert ask(engine, 3, {"place": str(number) * 50_000}).items
    assert held().currsize == before
    assert ask(engine, 3, {"place": "elsewhere"}).items and held().currsize == before + 1


def test_running_sessions() -> None:
    assert running_session([], 50, 10) == 0
    assert running_session([45, 40, 20], 50, 10) == 2
    assert running_session([45, 40, 31], 50, 10) == 3
    assert running_session([30], 50, 10) == 0


def test_a_damaged_ranker_is_refused_and_the_one_before_is_served(lake: Lake) -> None:
    served = ServedRanker(lake, SPEC)
    before = served.ranker
    assert before is not None and not served.poll()
    path = lake.partition("candidate_index", SPEC.name, DAY) / RANKER
    data = path.read_text()
    path.write_text(data + " ")
    with pytest.raises(DamagedIndex, match=RANKER):
        load_ranker(lake, SPEC, DAY)
    assert ServedRanker(lake, SPEC).ranker is None
    assert not served.poll() and served.ranker is before
    path.write_text(data)
    assert isinstance(ServedRanker(lake, SPEC).ranker, LambdaRank)


def test_a_ranker_that_cannot_be_read_is_refused(lake: Lake) -> None:
    folder, manifest = lake.partition("candidate_index", SPEC.name, DAY), lake.manifest("candidate_index", SPEC.name, DAY)
    (folder / RANKER).write_text("{}")
    lake.write_manifest(folder, manifest | {"files": manifest["files"] | {RANKER: hashlib.sha256(b"{}").hexdigest()}})
    with pytest.raises(DamagedIndex, match=f"{RANKER} cannot be read"):
        load_ranker(lake, SPEC, DAY)
    served = ServedRanker(lake, SPEC)
    assert served.ranker is None and str(served.refusal).startswith("damaged")


def test_recall_is_measured_through_the_service(lake: Lake, engine: Engine) -> None:
    ranking, retrieval = engine.ranking.bundle, engine.retrieval.bundle if engine.retrieval else None
    ranker = load_ranker(lake, SPEC, DAY)
    found = served_recall(SPEC, DAY, lake, ranking, None, ranker, requests=10_000)
    assert found.requests == len(raw_rows()) and 0 < found.recall[10] <= found.recall[20] <= found.recall[100] < 1
    assert found.recall[100] <= 1 - found.not_live - found.not_found + 1e-9 and found.not_live > 0
    other = served_recall(SPEC, DAY, lake, ranking, retrieval, None, requests=100)
    assert other.requests < 200 and len(table_of({"a": found, "b": other})) == 2
    alone = served_recall(SPEC, DAY, lake, None, retrieval, requests=10_000)
    assert alone.requests == found.requests and alone.not_live == found.not_live and 0 < alone.recall[10] < alone.recall[20]
    with pytest.raises(ValueError, match="neither a model that ranks nor a two-tower model"):
        served_recall(SPEC, DAY, lake, None)
    times = raw_rows()[EVENT_TIME].to_numpy()
    early = int((times < MIDNIGHT + HOUR / 2).sum())
    assert found.not_live >= early / found.requests / 2
