"""Scores by item sides are those of the bundle, before and after each delta, and never of two versions at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.artifacts.bundle import Bundle
from ml.artifacts.delta import ModelDelta, model_delta
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.give_way import set_wait
from ml.models.split_dlrm import ItemStates, SplitDLRM
from ml.recipes.recipe import recipe_of
from ml.retrieval.vectors import padded
from ml.schema import FeatureSchema
from ml.serving.batches import batch_of
from ml.serving.engine import Engine
from ml.serving.item_sides import UNDERWAY, ItemSides, feature_sides
from ml.sync.serving_copy import serving_copy
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from tests.helpers.kiosk_days import kiosk
from tests.helpers.training_days import make_batches

ITEMS, SPARSE = 40, ["user", "item", "place", {"name": "history", "history": 3}]
CROSS: dict[str, Any] = {"name": "place_x_item", "cross": ["place", "item"]}


class Served:
    """A model under training, the bundle that is served, its items and a request.

    Args:
        kind: The model.
        **changes: Of the catalog entry.
    """

    def __init__(self, kind: str = "dlrm", **changes: Any) -> None:
        tables = {"default": {"kind": "hashed", "rows": 64}}  # whose rows are found by the ids of a request
        models = {kind: {"overrides": {"tables": tables | {"init_scale": 0.5}, "dense_optimizer": {"lr": 0.05}}}}
        self.spec: DatasetSpec = kiosk(models=models, **changes)
        self.state: TrainState = new_state(recipe_of(self.spec, kind), FeatureSchema.of(self.spec))
        self.train(0)
        self.bundle = Bundle(self.spec, serving_copy(self.state, "float32"), {})
        self.items = pa.table({"item": np.arange(ITEMS), "clicks_1h": np.arange(ITEMS)[::-1] % 7})
        history = pa.array([[3, -5]], pa.list_(pa.int64()))
        self.request = pa.table({"user": [11], "place": ["here"], "history:history": history})
        self.sides = ItemSides(self.spec, set())

    def train(self, seed: int) -> None:
        self.state.model.train()
        self.state.begin_pass()
        train_pass(self.state, list(make_batches(self.state.schema, 2, seed=seed)), total_steps=2)
        self.state.model.eval()

    def delta(self, seed: int = 1) -> ModelDelta:
        self.train(seed)
        return model_delta(self.state.model, self.bundle.steps)

    def candidates(self, rows: np.ndarray) -> Callable[[], Batch]:
        columns = {name: pa.repeat(self.request[name][0], len(rows)) for name in self.request.column_names}
        table = self.items.take(pa.array(rows))
        given = {
            name: columns.get(name, table[name].combine_chunks() if name in table.column_names else None)
            for name in self.bundle.columns
        }
        return lambda: self.bundle.batch(pa.RecordBatch.from_pydict(given))

    def score(self, rows: np.ndarray) -> np.ndarray:
        return self.sides.score(self.bundle, self.items, rows, self.request, self.candidates(rows))

    def check(self, rows: np.ndarray) -> np.ndarray:
        """Compare the scores with the bundle's."""
        found, wanted = self.score(rows), self.bundle.score_labels(self.candidates(rows)())
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
        assert wanted.std() > 1e-3
        return found


@pytest.mark.parametrize("changes", [{}, {"sparse": [*SPARSE, CROSS]}, {"dense": []}], ids=["plain", "cross", "no dense"])
def test_scores_are_those_of_the_bundle_for_every_version(changes: dict[str, Any]) -> None:
    served, rng = Served(**changes), np.random.default_rng(0)
    before = served.check(np.arange(ITEMS))
    for seed in (1, 2):
        delta = served.delta(seed)
        undo = served.bundle.apply_undoable(delta)
        assert undo is not None
        after = served.check(np.arange(ITEMS))
        assert np.abs(after - before).max() > 1e-3
        served.bundle.revert(undo)
        np.testing.assert_array_equal(served.check(np.arange(ITEMS)), before)
        served.bundle.apply(delta)
        for _ in range(4):  # items are computed as they are asked for
            served.check(rng.permutation(ITEMS)[:9])
        before = served.check(np.arange(ITEMS))
    assert served.sides.counts == {"item_sides": served.sides.counts.total()} and served.sides.reason is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of items of each computation of item sides."""
    found, compute = list[int](), SplitDLRM.items

    def counted(self: SplitDLRM, batch: Batch) -> ItemStates:
        found.append(len(batch))
        return compute(self, batch)

    monkeypatch.setattr(SplitDLRM, "items", counted)
    return found


def test_a_new_version_is_prepared_for_the_items_of_the_one_before(asked: list[int]) -> None:
    served = Served()
    served.check(np.arange(9))
    served.bundle.apply(served.delta())
    served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 9]
    served.check(np.arange(9))
    assert asked == [9, 9]
    served.items = served.items.slice(3)  # items have other rows in the next table
    served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 9, 6]
    served.check(np.arange(6))
    served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 9, 6]
    served.check(np.arange(7))
    assert asked == [9, 9, 6, 1]
    served.bundle.apply(served.delta(2))
    served.check(np.arange(2))  # a request that comes before
    served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 9, 6, 1, 2, 5]
    for seed in (3, 4):  # without a request between them
        served.bundle.apply(served.delta(seed))
        served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 9, 6, 1, 2, 5, 2, 2]


@pytest.mark.parametrize("first", [0, 2], ids=["prepared first", "a request first"])
def test_another_predictor_of_a_model_is_prepared_as_well(asked: list[int], first: int) -> None:
    """A worker, and a service with a new export, predict with another object from then on."""
    served = Served()
    served.check(np.arange(9))
    served.sides.prepare([served.bundle], served.items)
    served.bundle = served.bundle.with_predictor(copy.deepcopy(served.bundle.predictor))
    if first:
        served.check(np.arange(first))
    served.sides.prepare([served.bundle], served.items)
    served.check(np.arange(9))
    assert sum(asked) == 9 + 9 and len(asked) == 2 + bool(first)


def test_each_model_of_an_experiment_is_prepared_and_sides_of_other_models_are_dropped(asked: list[int]) -> None:
    served = Served()
    other = Bundle(served.spec, copy.deepcopy(served.bundle.predictor), {})
    first, rows = served.bundle, np.arange(5)
    for bundle in (first, other):
        served.bundle = bundle
        served.check(rows)
    served.items = served.items.slice(1)
    served.sides.prepare([first, other], served.items)
    assert asked == [5, 5, 4, 4]
    for bundle in (first, other):
        served.bundle = bundle
        served.check(np.arange(4))
    assert asked == [5, 5, 4, 4]
    served.sides.prepare([first], served.items)
    assert list(served.sides._held) == [id(first.predictor)]


def test_preparation_gives_way_only_for_what_is_left_to_compute() -> None:
    served, waits = Served(), list[None]()
    served.check(np.arange(9))
    served.bundle.apply(served.delta())
    set_wait(lambda: waits.append(None))
    try:
        for _ in range(2):
            served.sides.prepare([served.bundle], served.items)
    finally:
        set_wait(None)
    assert len(waits) == 1


def test_nothing_is_prepared_before_the_first_request_and_during_a_delta(asked: list[int]) -> None:
    served = Served()
    served.sides.prepare([served.bundle], served.items)
    assert not asked
    served.check(np.arange(9))
    served.items = served.items.slice(1)
    with served.bundle.predictor._change():  # type: ignore[attr-defined]
        served.sides.prepare([served.bundle], served.items)
        assert asked == [9]
    served.sides.prepare([served.bundle], served.items)
    assert asked == [9, 8]


def test_a_delta_without_a_dense_part_changes_the_rows_that_it_has() -> None:
    served = Served()
    before = served.check(np.arange(ITEMS))
    served.train(1)
    assert served.bundle.apply(model_delta(served.state.model, served.bundle.steps, dense=False))
    assert np.abs(served.check(np.arange(ITEMS)) - before).max() > 1e-3


def test_other_items_have_sides_of_their_own() -> None:
    served = Served()
    before = served.check(np.arange(ITEMS))
    served.items = served.items.set_column(1, "clicks_1h", pa.array(np.arange(ITEMS) % 3))
    assert np.abs(served.check(np.arange(ITEMS)) - before).max() > 1e-3


def test_items_that_two_threads_need_at_once_are_computed_once() -> None:
    served = Served()
    served.check(np.arange(9))
    [side] = served.sides._held.values()
    both_wait, computed = threading.Barrier(2), list[int]()

    class Lock:
        """Lets no thread in before both want to enter, so that neither has computed anything when the other one looked."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            both_wait.wait(60)
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def batch(some: pa.Table) -> Batch:
        computed.append(len(some))
        return served.bundle.batch(padded(served.bundle, some))

    side._lock = Lock()  # pyright: ignore[reportAttributeAccessIssue]
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(side.compute, np.arange(ITEMS), batch) for _ in range(2)]:
            one.result()
    assert computed == [ITEMS - 9]
    served.check(np.arange(ITEMS))


def test_while_a_delta_is_applied_the_bundle_scores() -> None:
    served = Served()
    served.check(np.arange(ITEMS))
    served.bundle.predictor.changes += 1  # type: ignore[attr-defined]
    served.check(np.arange(ITEMS))
    assert served.sides.counts == {"item_sides": 1, "bundle": 1} and served.sides.reason == UNDERWAY
    served.bundle.predictor.changes += 1  # type: ignore[attr-defined]
    served.check(np.arange(ITEMS))
    assert served.sides.counts["item_sides"] == 2 and served.sides.reason is None


def test_no_score_combines_two_versions() -> None:
    """Deltas are applied and reverted all the time; scores by item sides are those of one of the two versions."""
    served, rows, stop = Served(), np.arange(ITEMS), threading.Event()
    delta = served.delta()
    other = Bundle(served.spec, copy.deepcopy(served.bundle.predictor), {})
    other.apply(delta)
    versions = [bundle.score_labels(served.candidates(rows)()) for bundle in (served.bundle, other)]
    assert np.abs(versions[0] - versions[1]).min() > 1e-6

    def change() -> None:
        while not stop.wait(0.02):
            if (undo := served.bundle.apply_undoable(delta)) is not None:
                served.bundle.revert(undo)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        while served.sides.counts["item_sides"] < 40:
            by_sides = served.sides.counts["item_sides"]
            found = served.score(rows)
            if served.sides.counts["item_sides"] > by_sides:
                assert any(np.allclose(found, wanted, rtol=1e-5, atol=1e-7) for wanted in versions)
    finally:
        stop.set()
        thread.join()


def test_models_of_an_experiment_keep_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, rows = Served(), Served(), np.arange(9)
    other.train(3)
    other.sides, other.items = one.sides, one.items
    computed, real = [], SplitDLRM.items
    monkeypatch.setattr(SplitDLRM, "items", lambda split, batch: computed.append(len(batch)) or real(split, batch))
    for _ in range(3):
        one.check(rows)
        other.check(rows)
    assert computed == [9, 9]


def test_the_bundle_scores_by_models_that_are_not_divided() -> None:
    served = Served("wide_deep")
    served.check(np.arange(ITEMS))
    assert served.sides.counts == {"bundle": 1} and "WideDeep" in (served.sides.reason or "")


def test_features_are_divided_by_the_columns_that_they_read() -> None:
    spec = kiosk(sparse=[*SPARSE, CROSS, {"name": "hour", "hour_of_day": True}])
    assert feature_sides(spec, set()).item == {"item", "clicks_1h"}
    assert feature_sides(spec, set()).pair == {"place_x_item"}
    assert feature_sides(spec, {"history:history"}).pair == {"place_x_item", "history"}


def test_the_service_ranks_by_item_sides(engine: Engine) -> None:
    recommender = engine.recommender
    assert recommender is not None
    live, ranking, now = recommender.source.live, engine.ranking.bundle, engine.clock.now()
    counts = recommender.item_sides.counts
    counts.clear()
    recommender.recommend(ranking, recommender.window.users(1)[0], {}, 5, now)
    assert counts == {"item_sides": 1}
    ids = live.items["item"].to_pylist()[:9]
    found = {one.item: one.score for one in recommender.rank(ranking, 3, {"place": "here"}, ids, now).items}
    assert counts == {"item_sides": 2}
    row = recommender.row_of(ranking, 3, {"place": "here"}, now)
    wanted = ranking.score(batch_of(ranking, row, live.items.slice(0, 9)))
    assert [found[item] for item in ids] == pytest.approx(wanted.tolist(), rel=1e-5)
    assert len(set(found.values())) > 3
