"""For every kind of table, a base state with later deltas equals the current state, and a gap is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.delta import Delta, Gap
from ml.embeddings.inference.quantise import quantise_bags
from ml.embeddings.interface import TrainableBags
from ml.embeddings.mixed import MixedEmbeddingBags
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.reference_tables import ReferenceEmbeddingBags
from tests.ml.embeddings.test_interface import (
    DIM,
    NAMES,
    Build,
    compositional,
    configs_of,
    features_of,
    hashed,
    static,
)

SECOND = 1_000_000
RULES = {
    "type": TableRules("type", ttl_seconds=3.0),
    "keys": TableRules("keys", max_rows=4, evict="least_frequently_used"),
}


def growing(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    """Return collisionless tables whose rows expire, are evicted, and are admitted again."""
    return CollisionlessEmbeddingBags(configs, lr=0.1, init_scale=0.3, rules=RULES, optimizer=RowOptimizer())


def reference(configs: list[EmbeddingBagConfig]) -> TrainableBags:
    return ReferenceEmbeddingBags(configs, lr=0.1, init_scale=0.3, rules=RULES, optimizer=RowOptimizer())


KINDS: list[Build] = [growing, hashed, static, compositional]
FIXED: list[Build] = [hashed, static, compositional]
QUANTISED: list[Build] = [growing, hashed, static]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["train", "train", "train", "look up", "expire", "sync", "again"]),
        st.lists(st.integers(-3, 60), max_size=6),
    ),
    max_size=15,
)


def train(bags: TrainableBags, ids: list[int], now: int, update: bool = True) -> None:
    bags.train()
    bags.set_time(now * SECOND)
    pooled = bags(features_of({"type": [ids[::2]], "keys": [ids[1::2]]})).values()
    if update:
        pooled.backward(torch.randn(pooled.shape, generator=torch.Generator().manual_seed(now)))


def held(bags: TrainableBags) -> dict[str, torch.Tensor]:
    """Return copies of the weights, without the step."""
    return {name: tensor.clone() for name, tensor in bags.weights().items() if name != "step"}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def run(
    build: Build, steps: list[tuple[str, list[int]]], sync: Callable[[TrainableBags, bool], None], again: Callable[[], None]
) -> TrainableBags:
    """Run steps on a new trainer, and return it.

    `sync` is called with the trainer and with True if every look-up has been followed by an update. Otherwise a new row may not
    be in a delta yet, because deltas contain rows of counted steps.
    """
    trainer, settled = build(configs_of()), True
    for number, (what, ids) in enumerate([*steps, ("train", [1, 2])]):
        if what in ("train", "look up"):
            train(trainer, ids, number, update=what == "train")
            settled = what == "train"
        elif what == "expire":
            trainer.end_pass()
        elif what == "again":
            again()
        else:
            sync(trainer, settled)
    sync(trainer, True)
    return trainer


@pytest.mark.parametrize("build", KINDS)
@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_a_base_with_deltas_equals_the_current_state(build: Build, steps: list[tuple[str, list[int]]]) -> None:
    server, deltas = build(configs_of()), []

    def sync(trainer: TrainableBags, settled: bool) -> None:
        delta = Delta.from_tensors(trainer.delta(server.step).to_tensors())
        assert server.apply_delta(delta) is (trainer.step > delta.since or delta.rows > 0)
        deltas.append(delta)
        assert server.step == trainer.step and (same(held(server), held(trainer)) or not settled)

    def again() -> None:
        before = held(server)
        assert not any(server.apply_delta(delta) for delta in deltas if delta.step > delta.since)
        assert same(held(server), before)

    trainer = run(build, steps, sync, again)
    late = build(configs_of())
    late.apply_delta(trainer.delta(0))
    assert same(held(late), held(trainer))


@pytest.mark.parametrize("build", QUANTISED)
@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_a_quantised_base_with_deltas_equals_a_fresh_export(build: Build, steps: list[tuple[str, list[int]]]) -> None:
    """Rows, ids and step are equal bit for bit."""
    server, _ = quantise_bags(build(configs_of()), "int8", {"keys": "float16"})

    def sync(trainer: TrainableBags, settled: bool) -> None:
        since = server.step
        delta = trainer.delta(since)
        assert server.apply_delta(delta) is (trainer.step > since or delta.rows > 0)
        if not settled:
            return
        fresh, _ = quantise_bags(trainer, "int8", {"keys": "float16"})
        assert same(server.tensors(), fresh.tensors())
        features = features_of({"type": [[2, 3, 59], []], "keys": [[7, -3], [60]]})
        assert torch.equal(server(features).values(), fresh(features).values())

    run(build, steps, sync, lambda: None)


@pytest.mark.parametrize("build", KINDS)
def test_a_gap_is_refused_and_changes_nothing(build: Build) -> None:
    trainer, server = build(configs_of()), build(configs_of())
    train(trainer, [2, 3], 0)
    first = trainer.step
    train(trainer, [4, 5], 1)
    before = held(server)
    with pytest.raises(Gap, match=f"the tables are at step 0, the delta begins after step {first}"):
        server.apply_delta(trainer.delta(first))
    assert same(held(server), before) and server.step == 0
    with pytest.raises(Gap):
        trainer.delta(trainer.step + 1)


@pytest.mark.parametrize("build", KINDS)
def test_an_overlapping_delta_is_applied(build: Build) -> None:
    trainer, server = build(configs_of()), build(configs_of())
    train(trainer, [2, 3], 0)
    server.apply_delta(trainer.delta(0))
    train(trainer, [2, 5], 1)
    assert server.apply_delta(trainer.delta(0)) and same(held(server), held(trainer))


@pytest.mark.parametrize("build", FIXED)
def test_a_delta_contains_only_updated_rows(build: Build) -> None:
    trainer = build(configs_of())
    train(trainer, list(range(2, 40)), 0)
    since = trainer.step
    train(trainer, [7, 9], 1)
    delta = trainer.delta(since)
    assert delta.rows == 2 and delta.step == since + 1 and delta.time == SECOND


@pytest.mark.parametrize("build", KINDS)
def test_the_delta_after_a_backward_has_its_rows_even_if_one_was_taken_before_it(build: Build) -> None:
    trainer, server = build(configs_of()), build(configs_of())
    pooled = trainer.train()(features_of({"type": [[7]], "keys": [[9]]})).values()
    server.apply_delta(trainer.delta(server.step))
    pooled.sum().backward()
    server.apply_delta(trainer.delta(server.step))
    assert same(held(server), held(trainer))


@pytest.mark.parametrize("build", FIXED)
def test_row_steps_are_part_of_the_training_state(build: Build) -> None:
    trainer, resumed, loaded = (build(configs_of()) for _ in range(3))
    train(trainer, [7, 9], 0)
    resumed.restore(trainer.weights(), trainer.training_state())
    loaded.restore(trainer.weights(), None)
    assert resumed.step == loaded.step == trainer.step and resumed.rows_touched() == trainer.rows_touched()
    assert resumed.delta(0).rows == trainer.delta(0).rows > 0
    with pytest.raises(Gap, match="changes since step 0 are unavailable, the oldest available step is 1: load a snapshot"):
        loaded.delta(0)
    for bags in (trainer, resumed, loaded):
        train(bags, [11, 12], 1)
        assert bags.delta(1).rows == 2


def test_a_delta_of_another_kind_is_refused() -> None:
    by_id, by_row = growing(configs_of()), hashed(configs_of())
    train(by_id, [2, 3], 0)
    train(by_row, [2, 49], 0)
    with pytest.raises(ValueError, match="has a fixed number of rows, the delta has ids"):
        by_row.apply_delta(by_id.delta(0))
    with pytest.raises(ValueError, match="stores ids, the delta has row numbers"):
        by_id.apply_delta(by_row.delta(0))
    few = [replace(config, num_embeddings=40) for config in configs_of()]
    with pytest.raises(ValueError, match="'keys' has 40 rows, the delta has row 49"):
        hashed(few).apply_delta(by_row.delta(0))


def test_the_reference_tables_have_the_same_deltas() -> None:
    """Each collection is asked for changes since its own step, because the reference tables count fewer steps."""
    fast, slow = growing(configs_of()), reference(configs_of())
    since = {0: (0, 0)}
    for now in range(1, 9):
        for bags in (fast, slow):
            train(bags, [now, now + 1, 2 * now, 5, 7], now)
            bags.end_pass()
        since[now] = (fast.step, slow.step)
    for mine, theirs in since.values():
        found, wanted = fast.delta(mine), slow.delta(theirs)
        for name, table in found.tables.items():
            other = wanted.tables[name]
            assert table.seen is not None and other.seen is not None
            for kind in ("keys", "weights", "seen", "deleted"):
                torch.testing.assert_close(getattr(table, kind), getattr(other, kind))


def test_mixed_collections_have_a_delta_per_kind() -> None:
    def mixed() -> MixedEmbeddingBags:
        return MixedEmbeddingBags({"a": growing(configs_of()), "b": static(configs_of(("w",)))})

    trainer, server, other = mixed(), mixed(), mixed()
    batch = features_of({"type": [[2]], "keys": [[3]], "w": [[4]]})
    for _ in range(2):
        trainer(batch).values().sum().backward()
    deltas = trainer.delta(server.steps)
    assert server.apply_delta(deltas) and not server.apply_delta(deltas) and server.steps == trainer.steps
    assert torch.equal(server.eval()(batch).values(), trainer.eval()(batch).values())
    late = {**deltas, "b": replace(deltas["b"], since=1)}
    with pytest.raises(Gap):
        other.apply_delta(late)
    assert other.steps == {"a": 0, "b": 0}, "no collection was changed"
    assert set(NAMES) == set(deltas["a"].tables) and deltas["b"].tables["w"].weights.shape == (1, DIM)
