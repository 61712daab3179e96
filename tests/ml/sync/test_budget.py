"""The byte budget: what is published first, that nothing is lost, and that every row is published eventually."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.artifacts.delta import ModelDelta
from ml.embeddings.delta import Delta, TableDelta
from ml.sync.budget import Backlog
from ml.sync.ledger import Ledger

ROW = 8 + 8 + 16  # id, event time and four weights
PATH, DIM = "bags", 4


def of(rows: dict[int, float], deleted: tuple[int, ...] = (), step: int = 1) -> ModelDelta:
    """A delta of one table that stores ids; the weights of a row are equal."""
    keys = torch.tensor(sorted(rows), dtype=torch.int64)
    weights = torch.tensor([rows[int(key)] for key in keys]).view(-1, 1).expand(-1, DIM).contiguous()
    table = TableDelta(keys, weights, torch.full_like(keys, step), torch.tensor(deleted, dtype=torch.int64))
    return ModelDelta({}, {PATH: Delta(step - 1, step, 0, {"item": table})})


def sent(delta: ModelDelta) -> dict[int, float]:
    table = delta.tables[PATH].tables["item"]
    return dict(zip(table.keys.tolist(), table.weights[:, 0].tolist(), strict=True))


def begin(budget: int, rows: dict[int, float]) -> Backlog:
    backlog = Backlog(budget * ROW, "float32")
    keys = torch.tensor(sorted(rows))
    weights = torch.tensor([rows[int(key)] for key in keys]).view(-1, 1).expand(-1, DIM).contiguous()
    backlog.begin({f"tables/{PATH}/item.weight": weights, f"tables/{PATH}/item.id": keys, f"tables/{PATH}/step": keys})
    return backlog


def test_rows_with_the_largest_change_are_published_first() -> None:
    backlog = begin(2, {1: 5.0, 2: 1.0, 3: 1.0, 4: 1.0})
    first, pending = backlog.select(of({1: 5.1, 2: 1.2, 3: 4.0, 4: 2.0}))
    assert sent(first) == pytest.approx({3: 4.0, 4: 2.0}) and pending == 2
    rest, pending = backlog.select(of({}, step=2))
    assert sent(rest) == pytest.approx({1: 5.1, 2: 1.2}) and pending == 0


def test_rows_that_change_often_are_published_before_rows_that_change_rarely() -> None:
    backlog = begin(1, {1: 0.0, 2: 0.0})
    for step in range(1, 6):
        backlog.select(of({1: float(step)}, step=step))
    first, pending = backlog.select(of({1: 6.0, 2: 1.5}, step=6))
    assert sent(first) == {1: 6.0} and pending == 1


def test_rows_without_a_change_since_they_were_published_are_published_last() -> None:
    backlog = begin(1, {1: 3.0, 2: 3.0})
    first, _ = backlog.select(of({1: 3.0, 2: 3.1}))
    assert sent(first) == pytest.approx({2: 3.1})


def test_a_row_that_waits_is_published_with_its_newest_weights_once() -> None:
    backlog = begin(1, {1: 0.0, 2: 0.0})
    backlog.select(of({1: 9.0, 2: 0.1}))
    first, pending = backlog.select(of({2: 0.2}, step=2))
    assert sent(first) == pytest.approx({2: 0.2}) and pending == 0


def test_a_deleted_row_is_not_published_later_unless_it_is_admitted_again() -> None:
    backlog = begin(1, {1: 0.0, 2: 0.0, 3: 0.0})
    _, pending = backlog.select(of({1: 9.0, 2: 0.1, 3: 0.2}))
    assert pending == 2
    first, pending = backlog.select(of({3: 0.5}, deleted=(2, 3), step=2))
    assert sent(first) == {3: 0.5} and pending == 0
    assert first.tables[PATH].tables["item"].deleted.tolist() == [2, 3]


def test_deleted_ids_are_published_at_once_and_once() -> None:
    backlog = begin(1, {1: 0.0})
    first, _ = backlog.select(of({1: 1.0, 2: 2.0}, deleted=(7, 8, 9)))
    rest, _ = backlog.select(of({}, step=2))
    tables = [one.tables[PATH].tables["item"].deleted.tolist() for one in (first, rest)]
    assert tables == [[7, 8, 9], []]


def test_rows_that_have_waited_longest_have_an_eighth_of_the_budget() -> None:
    backlog = begin(8, {key: 0.0 for key in range(100)})
    backlog.select(of({key: 0.001 for key in range(50, 60)} | {key: 9.0 for key in range(8)}))
    published: list[int] = []
    for step in range(2, 12):
        hot = {key: 9.0 * step for key in range(8)}
        found = sent(backlog.select(of(hot, step=step))[0])
        assert len(found) == 8
        published += [key for key in found if key >= 50]
    assert sorted(published) == list(range(50, 60))


def test_at_least_one_row_is_published() -> None:
    backlog = Backlog(1, "float32")
    assert [len(sent(backlog.select(of(rows, step=step))[0])) for step, rows in enumerate(({1: 1.0, 2: 2.0}, {}), 1)] == [1, 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_receiver_has_the_trainers_rows_once_nothing_is_held_back(seed: int) -> None:
    """Random updates, deletions and admissions of two tables, with a checkpoint in between."""
    rng = np.random.default_rng(seed)
    backlog, trainer, server = begin(5, {1: 0.0}), {1: 0.0}, {1: 0.0}
    pending = 0
    for step in range(1, 60):
        quiet = step > 40
        deleted = () if quiet else tuple(sorted({int(key) for key in rng.integers(0, 40, 2)} & trainer.keys()))
        trainer = {key: value for key, value in trainer.items() if key not in deleted}
        changed = {} if quiet else {int(key): float(np.float32(rng.normal())) for key in rng.integers(0, 40, 8)}
        trainer |= changed
        if step % 13 == 0:
            backlog = Backlog(5 * ROW, "float32", {name: tensor.clone() for name, tensor in backlog.tensors().items()})
        delta, pending = backlog.select(of(changed, deleted, step))
        assert len(sent(delta)) <= 5
        server = {key: value for key, value in server.items() if key not in deleted} | sent(delta)
        assert pending >= sum(server.get(key) != value for key, value in trainer.items())
    assert pending == 0 and server == trainer


def test_tensors_of_a_checkpoint_do_not_change_while_it_is_written() -> None:
    backlog = begin(1, {1: 0.0, 2: 0.0})
    backlog.select(of({1: 9.0, 2: 0.1}))
    saved = backlog.tensors()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    backlog.select(of({1: 3.0, 2: 0.5}, step=2))
    assert all(torch.equal(saved[name], before[name]) for name in before)


def test_all_rows_can_be_published_over_the_budget() -> None:
    backlog = begin(1, {1: 0.0, 2: 0.0, 3: 0.0})
    backlog.select(of({1: 9.0, 2: 0.1}))
    whole, pending = backlog.select(of({3: 1.0}, step=2), everything=True)
    assert sent(whole) == pytest.approx({2: 0.1, 3: 1.0}) and pending == backlog.pending == 0


def test_equal_streams_give_equal_choices() -> None:
    rng = np.random.default_rng(0)
    stream = [of({int(k): float(rng.normal()) for k in rng.integers(0, 500, 100)}, step=step) for step in range(1, 10)]
    one, two = ([sent(backlog.select(delta)[0]) for delta in stream] for backlog in (begin(10, {1: 0.0}), begin(10, {1: 0.0})))
    assert one == two


def test_projections_estimate_distances() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 2000, 32)).astype(np.float32)
    keys = np.arange(2000)
    ledger = Ledger.of(decay=0.5, dim=32)
    ledger.published(keys, old, 0)
    ledger.changed(keys, 1)
    estimated = ledger.change_times_traffic(keys, new, 1) / 0.5
    exact = np.linalg.norm(new - old, axis=1)
    assert 0.85 < (estimated / exact).mean() < 1.05 and (estimated / exact).std() < 0.45
