"""Deltas can be converted to tensors and back, and the shares of all ranks merge to the whole delta."""

from __future__ import annotations

import pytest
import torch

from ml.embeddings.delta import Delta, Gap, TableDelta, TableShape, check_delta, merge_deltas


def table(keys: list[int], deleted: list[int] | None = None, seen: bool = True) -> TableDelta:
    ids = torch.tensor(keys, dtype=torch.int64)
    weights = torch.stack([ids, -ids], 1).float()
    return TableDelta(ids, weights, ids + 100 if seen else None, torch.tensor(deleted or [], dtype=torch.int64))


def equal(one: Delta, other: Delta) -> bool:
    mine, theirs = one.to_tensors(), other.to_tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_a_delta_survives_conversion_to_tensors_with_any_table_names() -> None:
    delta = Delta(2, 9, 77, {"a": table([1, 5], [3]), "b.0": table([], seen=False), "span": table([4])})
    back = Delta.from_tensors(delta.to_tensors())
    assert equal(back, delta) and list(back.tables) == ["a", "b.0", "span"]
    assert back.tables["b.0"].seen is None and (back.since, back.step, back.time) == (2, 9, 77)
    assert delta.rows == 3 and delta.nbytes == 3 * (8 + 8 + 8) + 8


@pytest.mark.parametrize("missing", ["a.keys", "a.weights", "a.deleted", "span"])
def test_a_delta_with_a_missing_tensor_is_refused(missing: str) -> None:
    tensors = Delta(0, 1, 0, {"a": table([1])}).to_tensors()
    del tensors[missing]
    with pytest.raises(ValueError, match=missing.removeprefix("a.")):
        Delta.from_tensors(tensors)


def test_tensors_of_wrong_shapes_or_dtypes_are_refused() -> None:
    keys, none = torch.tensor([1, 2]), torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shape \(1, 4\) of weights does not match \(2,\) of keys"):
        TableDelta(keys, torch.zeros(1, 4), None, none)
    with pytest.raises(ValueError, match="expected float32 weights"):
        TableDelta(keys, torch.zeros(2, 4).double(), None, none)


def test_merged_shares_are_sorted_by_key() -> None:
    one = Delta(2, 9, 70, {"a": table([1, 5], [8]), "b": table([0], seen=False)})
    other = Delta(2, 9, 77, {"a": table([-3, 2], [3]), "b": table([], seen=False)})
    assert equal(merge_deltas([one, other]), Delta(2, 9, 77, {"a": table([-3, 1, 2, 5], [3, 8]), "b": table([0], seen=False)}))
    with pytest.raises(ValueError, match=r"the same steps and tables, found steps \[\(2, 9\), \(2, 8\)\]"):
        merge_deltas([one, Delta(2, 8, 70, other.tables)])


def test_rows_that_were_held_back_are_applied_at_their_step_and_an_empty_delta_is_not_new() -> None:
    shapes = {"t": TableShape(width=2, rows=None)}
    none = torch.tensor([], dtype=torch.int64)
    held_back = Delta(5, 5, 0, {"t": TableDelta(torch.tensor([7]), torch.ones(1, 2), torch.tensor([1]), none)})
    empty = Delta(5, 5, 0, {"t": TableDelta(none, torch.ones(0, 2), none, none)})
    assert check_delta(held_back, 5, shapes) and not check_delta(empty, 5, shapes)
    assert not check_delta(held_back, 6, shapes)
    with pytest.raises(Gap):
        check_delta(held_back, 4, shapes)
