"""A store is restored only from state that matches its rules, and shards of its state can be merged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.store import Store
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.stores import NAMES, RULES, held, new_store, trained_store


def saved(store: Store) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return state_dict.weights(store), state_dict.training_state(store)


def other_store(rules: list[TableRules] = RULES, kind: Kind = "adam") -> Store:
    return Store(rules, 4, RowOptimizer(kind), 0.1, 0)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (other_store(kind="ftrl"), "optimizer: expected ftrl, found adam"),
        (other_store([RULES[1], RULES[0], RULES[2]]), r"tables: expected \['u', 't', 'v'\], found \['t', 'u', 'v'\]"),
        (other_store([*RULES[:2], TableRules("v", 3)]), "filters: expected"),
        (other_store(RULES[:2]), "not expected"),
    ],
)
def test_state_of_other_rules_is_refused_before_a_row_is_created(store: Store, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        state_dict.restore(store, *saved(trained_store(12)))
    assert len(store) == 0 and store.step == 0


def test_the_error_names_missing_tables() -> None:
    other = Store([TableRules("x")], 4, RowOptimizer("adam"), 0.1, 0)
    with pytest.raises(ValueError, match=r"x\.id"):
        state_dict.restore(other, state_dict.weights(trained_store(1)), None)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(0, 99))
def test_merged_shards_equal_the_whole(steps: int, shards: int, seed: int) -> None:
    whole = held(trained_store(steps, seed))
    merged = state_dict.merge_shards([state_dict.shard(whole, NAMES, shard, shards) for shard in range(shards)], NAMES)
    assert whole.keys() == merged.keys() and all(torch.equal(whole[name], merged[name]) for name in whole)


def test_duplicate_ids_and_missing_tensors_are_refused() -> None:
    weights, state = saved(trained_store(12))
    twice = weights | {"t.id": torch.zeros_like(weights["t.id"])}
    with pytest.raises(ValueError, match="each id once"):
        state_dict.restore(new_store(), twice, state)
    with pytest.raises(ValueError, match=r"tensors \['u.seen'\] are missing"):
        state_dict.restore(new_store(), weights, {name: tensor for name, tensor in state.items() if name != "u.seen"})


def test_a_window_of_another_length_drops_the_candidates() -> None:
    store = trained_store(12)
    other = other_store([*RULES[:2], TableRules("v", 3, "sliding", 8.0)])
    state_dict.restore(other, *saved(store))
    assert store.candidates.by_table().tolist()[2] > 0
    assert other.candidates.by_table().tolist() == [*store.candidates.by_table().tolist()[:2], 0]


def test_a_restore_evicts_rows_down_to_a_lower_cap() -> None:
    store = trained_store(20)
    assert store.live[1] == 40
    other = other_store([RULES[0], TableRules("u", max_rows=10), RULES[2]])
    state_dict.restore(other, *saved(store))
    assert other.live.tolist() == [store.live[0], 10, store.live[2]]
