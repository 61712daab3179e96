"""Recall over all live items, compared with a slow computation from the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.days import MICROSECONDS_PER_HOUR
from ml.evaluation.ranking.recall import recall_over
from ml.models.build import build_model
from ml.models.two_tower import TwoTower
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState

SCHEMA = FeatureSchema(("age", "clicks"), ("user", "item"), (), "f")
MINUTE = 60_000_000


def state_of() -> TrainState:
    towers = {"user": ["user", "age"], "item": ["item", "clicks"]}
    sizes = {"embedding_dim": 8, "out": 8, "hidden": [8], **towers}
    recipe = load_recipe("two_tower", {"model": sizes, "tables": {"init_scale": 0.5}})
    return TrainState.of(recipe, SCHEMA, build_model(recipe, SCHEMA))


def rows_of(count: int, seed: int, minutes: int = 240, alike: bool = False) -> Batch:
    """Clicked and unclicked rows in time order. With `alike`, a row's user and item have the same number."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, minutes, count)) * MINUTE
    users = rng.integers(0, 30, count)
    items = users if alike else rng.integers(0, 30, count)
    sparse = KeyedJaggedTensor(
        ["user", "item"],
        torch.from_numpy(np.concatenate([users, items + 1000])),
        lengths=torch.ones(2 * count, dtype=torch.int32),
    )
    labels = torch.from_numpy((rng.random(count) < 0.6).astype(np.float32))
    dense = torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))
    return Batch(dense, sparse, labels, torch.ones(count), torch.from_numpy(times))


def cut(whole: Batch, sizes: list[int]) -> list[Batch]:
    at, found = 0, []
    for size in [*sizes, len(whole) - sum(sizes)]:
        kept = torch.zeros(len(whole), dtype=torch.bool)
        kept[at : at + size] = True
        found.append(whole.rows(kept))
        at += size
    return found


def test_counts_equal_a_slow_computation_for_any_batches() -> None:
    state = state_of()
    state.begin_pass()
    whole = rows_of(600, 0)
    train_pass(state, cut(whole, [200, 200]), total_steps=3)
    model = state.model.eval()
    assert isinstance(model, TwoTower)
    recall = recall_over(model, cut(whole, [1, 77, 200, 3]), begin=120 * MINUTE, minutes=30, live_hours=0.75)
    again = recall_over(model, [whole], begin=120 * MINUTE, minutes=30, live_hours=0.75)
    times, items = whole.event_time.numpy(), whole.sparse["item"].values().numpy()
    assert [s.start for s in recall.slices] == [m * MINUTE for m in range(120, 240, 30)]
    for found, other in zip(recall.slices, again.slices, strict=True):
        before = [i for i in range(600) if found.start - 45 * MINUTE <= times[i] < found.start]
        clicked = [i for i in range(600) if found.start <= times[i] < found.start + 30 * MINUTE and whole.labels[i] > 0.5]
        assert found.clicks == other.clicks == len(clicked)
        alive = {items[i] for i in before}
        assert found.live == other.live == len(alive)
        assert found.missing == other.missing == sum(items[i] not in alive for i in clicked)


def test_hits_are_those_of_the_whole_order() -> None:
    state, whole = state_of(), rows_of(400, 1, minutes=60)
    state.begin_pass()
    train_pass(state, [whole], total_steps=1)
    model = state.model.eval()
    assert isinstance(model, TwoTower)
    (found,) = recall_over(model, [whole], begin=30 * MINUTE, minutes=30, live_hours=6).slices
    early = whole.rows(whole.event_time < 30 * MINUTE)
    ids = early.sparse["item"].values()
    last = {int(i): n for n, i in enumerate(ids)}
    live = sorted(last)
    with torch.no_grad():
        vectors = model.item_embedding(early.dense, early.sparse)[[last[i] for i in live]]
        late = whole.rows((whole.event_time >= 30 * MINUTE) & (whole.labels > 0.5))
        scores = model.user_embedding(late.dense, late.sparse) @ vectors.T
    order = scores.argsort(1, descending=True)
    own = late.sparse["item"].values().tolist()
    popular = [ids[n] for n in range(len(ids)) if early.labels[n] > 0.5]
    ranked = sorted(live, key=lambda i: (-sum(int(p) == i for p in popular), i))
    for k in (10, 20):
        assert found.model[k] == sum(own[n] in [live[j] for j in order[n, :k]] for n in range(len(own)))
        assert found.popularity[k] == sum(item in ranked[:k] for item in own)
    assert found.live == len(live) and found.missing == sum(item not in last for item in own)


def model_that_gives(number: float) -> TwoTower:
    model = state_of().model
    assert isinstance(model, TwoTower)
    for side in (model.user, model.item):
        for parameter in side.parameters():
            parameter.data.zero_()
        side.mlp[-1].bias.data.fill_(number)
    return model


def test_equal_scores_are_in_the_order_of_the_catalogue() -> None:
    whole = rows_of(400, 1, minutes=60)
    (found,) = recall_over(model_that_gives(1.0), [whole], begin=30 * MINUTE, minutes=30).slices
    items, late = whole.sparse["item"].values(), whole.event_time >= 30 * MINUTE
    live = items[~late].unique()  # in order
    clicked = items[late & (whole.labels > 0.5)]
    assert found.clicks == len(clicked) and len(live) > 20
    for k in (10, 20):
        assert found.model[k] == int(torch.isin(clicked, live[:k]).sum()) < found.clicks


def test_scores_that_are_not_finite_are_no_hits() -> None:
    with pytest.raises(ValueError, match=r"slice that begins at 1800000000 µs are not finite"):
        recall_over(model_that_gives(float("nan")), [rows_of(400, 1, minutes=60)], begin=30 * MINUTE, minutes=30)


def test_a_model_that_learns_between_slices_finds_more() -> None:
    rows = cut(rows_of(6000, 2, minutes=600, alike=True), [500] * 11)
    scores = {}
    for learns in (False, True):
        state = state_of()

        def between(slice_: list[Batch], state: TrainState = state) -> None:
            for _ in range(5):
                state.begin_pass()
                train_pass(state, slice_, total_steps=len(slice_))

        assert isinstance(state.model, TwoTower)
        recall = recall_over(state.model, rows, begin=MICROSECONDS_PER_HOUR, minutes=30, between=between if learns else None)
        late = recall.slices[len(recall.slices) // 2 :]
        scores[learns] = sum(s.model[10] for s in late) / sum(s.clicks for s in late)
    assert scores[False] < 0.6 and scores[True] > 0.9


@pytest.mark.parametrize("begin", [0, 10**15])
def test_nothing_before_or_after_is_nothing_to_score(begin: int) -> None:
    state = state_of()
    assert isinstance(state.model, TwoTower)
    recall = recall_over(state.model, [rows_of(20, 3, minutes=5)], begin=begin, minutes=10)
    assert recall.clicks == 0 and recall.at(100) == 0
