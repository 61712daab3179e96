"""The online loop predicts each row before it is trained on, and trains exactly as the batch loop does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.slices import Chunk
from ml.lake import Lake
from ml.online.loop import ONLINE, SliceResult, online_slices
from ml.online.serving import Floats, ServingCopy, SyncStats
from ml.recipes.online import SyncRecipe
from ml.schema import FeatureSchema
from ml.training.loop import steps
from ml.training.state import TrainState, new_state
from tests.helpers.training_days import made_spec, small_recipe, write_days
from tests.helpers.training_states import same_weights

ROWS = 512
SPEC = made_spec()


@pytest.fixture
def day(lake: Lake) -> str:
    return write_days(lake, SPEC, 1, ROWS)[0]


def reader(lake: Lake, day: str, batch_size: int = 32) -> BlockReader:
    return BlockReader(lake, SPEC, [day], splits=("train", "validation", "test"), batch_size=batch_size, order="time")


def begun(**overrides: object) -> TrainState:
    state = new_state(small_recipe(**{"schedule": {"decay_to": 1.0}, **overrides}), FeatureSchema.of(SPEC))
    state.begin_pass()
    return state


@dataclass
class Probe:
    """A serving model that knows the state under training, and records what the state had seen at each prediction."""

    state: TrainState
    latest_trained: int = -1
    predicted: tuple[tuple[int, int], ...] = ()

    def sync(self, state: TrainState, number: int, learned: tuple[int, int] | None) -> SyncStats:
        assert learned is None or learned[1] == self.latest_trained
        return SyncStats("delta", number, 0, 0, 0, False)

    def predict(self, batch: Batch) -> Floats:
        self.predicted += ((int(batch.event_time[0]), self.latest_trained),)
        return np.full(len(batch), 0.5, np.float32)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


def results(lake: Lake, day: str, state: TrainState, count: int = 7, **options: object) -> list[SliceResult]:
    serving = ServingCopy(state, SyncRecipe())
    return list(online_slices(state, reader(lake, day).slices(count=count), serving, **options))  # type: ignore[arg-type]


def test_it_trains_as_the_batch_loop_does(lake: Lake, day: str) -> None:
    """With slices of whole batches and constant rates, the state is bit-equal to that of the batch loop."""
    online, batch = begun(), begun()
    serving = ServingCopy(online, SyncRecipe())
    losses = [r.loss for r in online_slices(online, reader(lake, day).slices(rows=64), serving)]
    of_batch = [step.loss for step in steps(batch, reader(lake, day), total_steps=16)]
    assert same_weights(online, batch)
    assert losses[:-1] == pytest.approx([(a + b) / 2 for a, b in zip(of_batch[:-2:2], of_batch[1:-2:2], strict=True)])


def test_no_row_is_predicted_after_it_was_trained_on(lake: Lake, day: str) -> None:
    """The probe records the latest event that the state has seen; each slice must begin after it."""
    state = begun()
    probe = Probe(state)
    for result in online_slices(state, reader(lake, day).slices(count=7), probe, scoring_rows=32):
        assert max(trained for _, trained in probe.predicted) < result.events[0]
        probe.latest_trained = result.events[1]


@pytest.mark.parametrize("wait", [1, 100, 10_000])
def test_with_a_label_wait_no_slice_is_predicted_with_labels_that_are_unknown(lake: Lake, day: str, wait: int) -> None:
    """The rows of the day are 1 microsecond apart."""
    state = begun()
    probe, slices = Probe(state), reader(lake, day).slices(count=7)
    learned, losses = list[tuple[int, int] | None](), list[float | None]()
    for result in online_slices(state, slices, probe, scoring_rows=32, label_wait=wait):
        assert max(trained for _, trained in probe.predicted) + wait <= result.events[0] or probe.latest_trained == -1
        probe.latest_trained = result.learned[1] if result.learned else probe.latest_trained
        learned.append(result.learned)
        losses.append(result.loss)
    assert learned[-1] is not None and learned[-1][1] == result.events[1], "the last slice trains on all that waits"
    assert [loss is None for loss in losses] == [span is None for span in learned]
    assert state.running is not None and state.running.rows == ROWS
    assert learned[0] is None and (wait == 1 or learned[1] is None)


def test_a_label_wait_changes_when_rows_are_trained_on_and_not_their_order(lake: Lake, day: str) -> None:
    late, batch = begun(), begun()
    list(online_slices(late, reader(lake, day).slices(rows=64), ServingCopy(late, SyncRecipe()), label_wait=10_000))
    for _ in steps(batch, reader(lake, day), total_steps=16):
        pass
    assert same_weights(late, batch)


class Memoriser:
    """A slice whose labels are random, so that only a model that has already seen them predicts them."""

    def __init__(self, number: int, batch: Batch, size: int) -> None:
        self.number, self.rows, self._batch, self._size = number, len(batch), batch, size

    def __len__(self) -> int:
        return -(-len(self._batch) // self._size)

    def chunks(self, rows: int) -> Iterator[Chunk]:
        kept = [(torch.arange(len(self._batch)) // self._size) == n for n in range(len(self))]
        yield Chunk(self._batch, [self._batch.rows(of_batch) for of_batch in kept])


def test_labels_do_not_leak_into_predictions(lake: Lake, day: str) -> None:
    """Labels are coin tosses of each row's own id. A model that saw a row before predicting it would rank it correctly."""
    batch = next(iter(reader(lake, day, batch_size=ROWS)))
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (ROWS,), generator=generator).float()
    values = batch.sparse.values().clone()
    values[:ROWS] = torch.arange(2, ROWS + 2)  # feature `a`: a row of its own for each example
    sparse = type(batch.sparse)(batch.sparse.keys(), values, lengths=batch.sparse.lengths(), stride=ROWS)
    noise = Batch(batch.dense, sparse, labels, batch.sample_rate, batch.event_time)
    state = begun(table_optimizer={"lr": 5.0})
    serving = ServingCopy(state, SyncRecipe())
    in_time = [torch.arange(ROWS) // 100 == n for n in range(5)]
    slices = [Memoriser(n, noise.rows(rows), 25) for n, rows in enumerate(in_time)]
    found = list(online_slices(state, slices, serving))
    labels_of, predicted = (
        np.concatenate([of(r) for r in found]) for of in (lambda r: r.labels, lambda r: r.predictions[ONLINE])
    )
    assert abs(np.mean((predicted > 0.5) == (labels_of > 0.5)) - 0.5) < 0.1
    serving.sync(state, 5, found[-1].events)
    assert np.mean((serving.predict(noise) > 0.5) == (labels.numpy() > 0.5)) > 0.75  # what a leak would look like


def test_results_do_not_depend_on_the_size_of_chunks(lake: Lake, day: str) -> None:
    small, large = (results(lake, day, begun(), scoring_rows=rows) for rows in (32, 4096))
    for one, other in zip(small, large, strict=True):
        assert (one.number, one.events, one.loss, one.sync) == (other.number, other.events, other.loss, other.sync)
        assert np.array_equal(one.labels, other.labels)
        assert np.allclose(one.predictions[ONLINE], other.predictions[ONLINE], atol=1e-6)


def test_the_same_slices_give_the_same_results(lake: Lake, day: str) -> None:
    one, other = (results(lake, day, begun()) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a.events, a.loss, a.sync) == (b.events, b.loss, b.sync)
        assert np.array_equal(a.predictions[ONLINE], b.predictions[ONLINE])


def test_models_beside_the_serving_model_predict_the_same_rows(lake: Lake, day: str) -> None:
    found = results(lake, day, begun(), beside={"half": lambda batch: np.full(len(batch), 0.5, np.float32)})
    assert sum(len(r.labels) for r in found) == ROWS
    assert all(len(r.predictions["half"]) == len(r.predictions[ONLINE]) == len(r.labels) for r in found)


def test_the_schedule_applies_to_each_slice(lake: Lake, day: str) -> None:
    state = begun(schedule={"decay_start": 0.0, "decay_to": 0.0})
    for _ in online_slices(state, reader(lake, day).slices(count=3), ServingCopy(state, SyncRecipe())):
        assert [group["lr"] for group in state.optimizer.param_groups] == [0.0]


def test_a_resumed_run_skips_the_synchronisation_that_was_made(lake: Lake, day: str) -> None:
    state = begun()
    probe = Probe(state)
    kept = SyncStats("delta", 41, 3, 0, 99, True)
    found = []
    for result in online_slices(state, reader(lake, day).slices(count=3), probe, synced=kept):
        probe.latest_trained = result.events[1]
        found.append(result.sync)
    assert found[0] is kept and [stats.version for stats in found[1:]] == [1, 2]


def test_an_error_of_a_prediction_is_raised(lake: Lake, day: str) -> None:
    def fail(batch: Batch) -> Floats:
        raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        results(lake, day, begun(), beside={"broken": fail})
