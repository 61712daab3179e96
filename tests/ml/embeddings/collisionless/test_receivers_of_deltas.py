"""Receivers that are behind catch up by deltas alone, unless they are silent for too long."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.collisionless.store import Store
from ml.embeddings.delta import Gap
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.receivers import Receivers
from ml.embeddings.rules import TableRules

SECOND, DAY = 1_000_000, 86_400
RULES = {"t": TableRules("t", ttl_seconds=0.9 * DAY, max_rows=45)}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def new_bags(clock: Clock, ttl: float = 100.0) -> CollisionlessEmbeddingBags:
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])
    return CollisionlessEmbeddingBags([table], lr=0.1, init_scale=0.1, rules=RULES, receivers=Receivers(clock, ttl))


def train_pass(bags: CollisionlessEmbeddingBags, day: int) -> None:
    """Train a pass over one day. Half of the ids are new each day, so that rows expire and are evicted."""
    rng = np.random.default_rng(day)
    bags.begin_pass()
    for step in range(5):
        bags.set_time((day * DAY + step * 3600) * SECOND)
        ids = torch.from_numpy(rng.integers(day * 20, day * 20 + 40, 32))
        pooled = bags(KeyedJaggedTensor(["f"], ids, lengths=torch.ones(32, dtype=torch.int64))).values()
        pooled.backward(torch.from_numpy(rng.normal(size=(32, 4)).astype(np.float32)))
    bags.end_pass()


def same_rows(one: CollisionlessEmbeddingBags, other: CollisionlessEmbeddingBags) -> bool:
    mine, others = one.weights(), other.weights()
    return all(torch.equal(mine[name], others[name]) for name in mine)


def test_a_receiver_three_passes_behind_catches_up_by_deltas_alone() -> None:
    clock = Clock()
    trainer, server = new_bags(clock), new_bags(clock)
    trainer.register_receiver("server", server.step)
    train_pass(trainer, 0)
    server.apply_delta(trainer.delta(server.step))
    trainer.acknowledge("server", server.step)
    for day in (1, 2, 3):
        train_pass(trainer, day)
    assert len(trainer.store.tombstones) > 20
    assert trainer.store.counters.expired[0] > 0 < trainer.store.counters.evicted[0]
    assert server.apply_delta(trainer.delta(server.step))
    assert same_rows(server, trainer) and len(server.store) == len(trainer.store)
    trainer.acknowledge("server", server.step)
    assert len(trainer.store.tombstones) == 0, "tombstones that all receivers have applied are deleted"


def test_without_a_receiver_every_pass_trims() -> None:
    trainer = new_bags(Clock())
    for day in range(3):
        train_pass(trainer, day)
        trainer.begin_pass()
        assert len(trainer.store.tombstones) == 0
    with pytest.raises(Gap, match="changes since step 0 are unavailable"):
        trainer.delta(0)


def test_a_silent_receiver_is_dropped_and_memory_stays_bounded() -> None:
    clock = Clock()
    trainer, alive = new_bags(clock), new_bags(clock)
    for name in ("alive", "silent"):
        trainer.register_receiver(name, 0)
    sizes = []
    for day in range(12):
        clock.now = day * 30.0
        train_pass(trainer, day)
        alive.apply_delta(trainer.delta(alive.step))
        trainer.acknowledge("alive", alive.step)
        sizes.append(len(trainer.store.tombstones))
    assert sizes[3] > 0 and sizes[4:] == [0] * 8, "the silent receiver is dropped between the fourth and the fifth pass"
    with pytest.raises(Gap, match="'silent' is not registered, or was dropped after 100 seconds"):
        trainer.acknowledge("silent", trainer.step)
    with pytest.raises(Gap, match=r"changes since step 0 are unavailable.*load a snapshot"):
        trainer.delta(0)
    assert same_rows(alive, trainer)


def test_the_next_pass_trims_after_the_last_receiver_was_dropped() -> None:
    clock = Clock()
    trainer = new_bags(clock)
    trainer.register_receiver("silent", 0)
    train_pass(trainer, 0)
    train_pass(trainer, 2)
    assert len(trainer.store.tombstones) > 0
    clock.now = 101.0
    trainer.begin_pass()
    assert len(trainer.store.tombstones) == 0


def test_a_step_that_is_not_available_cannot_be_registered() -> None:
    trainer = new_bags(Clock())
    train_pass(trainer, 0)
    trainer.begin_pass()
    with pytest.raises(Gap, match="changes since step 0 are unavailable"):
        trainer.register_receiver("late", 0)
    with pytest.raises(Gap, match=f"since {trainer.step + 1} were requested"):
        trainer.register_receiver("ahead", trainer.step + 1)
    trainer.register_receiver("fine", trainer.step)
    with pytest.raises(Gap, match=f"acknowledges step {trainer.step + 1}: load a snapshot"):
        trainer.acknowledge("fine", trainer.step + 1)


def test_a_restored_trainer_keeps_tombstones_for_its_receivers() -> None:
    clock = Clock()
    trainer, server, again = new_bags(clock), new_bags(clock), new_bags(clock)
    trainer.register_receiver("server", 0)
    train_pass(trainer, 0)
    train_pass(trainer, 2)
    again.restore(trainer.weights(), trainer.training_state())
    train_pass(again, 3)
    assert server.apply_delta(again.delta(server.step)) and same_rows(server, again)
    clock.now = 100.5
    third = new_bags(clock)
    third.restore(again.weights(), again.training_state())
    third.begin_pass()
    assert len(third.store.tombstones) == 0 and len(third.store.receivers) == 0, "time in a snapshot counts as silence"


def followed(monkeypatch: pytest.MonkeyPatch, wall: float, days: int, hears: int) -> CollisionlessEmbeddingBags:
    """Train days with a receiver that registers first and acknowledges after day `hears`, at a given wall-clock time."""
    monkeypatch.setattr("time.time", lambda: wall)
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])
    bags = CollisionlessEmbeddingBags([table], lr=0.1, init_scale=0.1, rules=RULES)
    bags.register_receiver("server", 0)
    for day in range(20_000, 20_000 + days):
        if day == 20_000 + days - 1:
            monkeypatch.setattr("time.time", lambda: wall + 30 * DAY)
        train_pass(bags, day)
        if day == 20_000 + hears:
            bags.acknowledge("server", bags.step)
    return bags


def test_a_day_that_is_trained_again_after_the_time_to_live_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = followed(monkeypatch, 1e9, days=3, hears=0), followed(monkeypatch, 1.7e9, days=3, hears=0)
    saved, again = one.training_state(), other.training_state()
    assert saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)
    assert len(one.store.receivers) == 1 and len(one.store.tombstones) > 0, "30 days of wall-clock time are no silence"


def test_silence_is_measured_in_event_time_from_the_first_event_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(followed(monkeypatch, 1e9, days=7, hears=-1).store.receivers) == 1, "it registered before the first event"
    assert len(followed(monkeypatch, 1e9, days=10, hears=-1).store.receivers) == 0
    assert len(followed(monkeypatch, 1e9, days=10, hears=5).store.receivers) == 1
    copied = copy.deepcopy(followed(monkeypatch, 1e9, days=1, hears=0))
    train_pass(copied, 20_020)
    copied.begin_pass()
    assert len(copied.store.receivers) == 0, "the clock of a copy is its own"


@pytest.mark.parametrize(("written", "read"), [(1, 3), (3, 2)])
def test_shards_have_the_receivers(written: int, read: int) -> None:
    clock = Clock()
    trainer = new_bags(clock)
    trainer.register_receiver("server", 0)
    train_pass(trainer, 0)
    trainer.acknowledge("server", 2)
    train_pass(trainer, 2)
    whole = state_dict.weights(trainer.store) | state_dict.training_state(trainer.store)
    parts = [state_dict.shard(whole, ["t"], number, written) for number in range(written)]
    shards = [Store(list(RULES.values()), 4, RowOptimizer(), 0.1, 0, receivers=Receivers(clock, 100.0)) for _ in range(read)]
    for number, store in enumerate(shards):
        own = state_dict.merge_shards([state_dict.shard(part, ["t"], number, read) for part in parts], ["t"])
        state_dict.restore(store, *state_dict.split_optimizer_state(own, ["t"]))
        assert store.receivers.oldest_step() == 2
    assert sum(len(store.tombstones) for store in shards) == len(trainer.store.tombstones) > 0
    shards[0].receivers.acknowledge("server", 3)
    held = [state_dict.weights(store) | state_dict.training_state(store) for store in shards]
    merged = Receivers(clock)
    merged.restore(state_dict.merge_shards(held, ["t"])["receivers"])
    assert merged.oldest_step() == 2, "the merged step is the minimum over shards"
