"""A day that was killed or stopped ends with the same bytes as an uninterrupted day."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml.datasets.reader import BlockReader
from ml.lake import Lake
from ml.recipes.recipe import CheckpointRecipe
from ml.schema import FeatureSchema
from ml.training import checkpoint
from ml.training.checkpoint import Checkpoints
from ml.training.day import DayOptions, train_day
from ml.training.passes import train_pass
from ml.training.report import TrainedDay
from ml.training.state import TrainState, new_state
from tests.helpers.snapshots import OPTIMIZER_FILE, WEIGHTS_FILE
from tests.helpers.training_days import made_spec, small_recipe, write_days
from tests.helpers.trials import seeds

ALL = ("train", "validation", "test")
OFTEN = {"checkpoints": {"minutes": 1e-5}}
TRAINER = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever handler the parent process left
from tests.helpers.training_days import made_spec, small_recipe
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
options = DayOptions(recipe=small_recipe(checkpoints={"minutes": 1e-5}), progress=False)
train_day(made_spec(), sys.argv[2], Lake.at(sys.argv[1]), options=options)
"""


def trained(lake: Lake, day: str, **overrides: object) -> TrainedDay:
    return train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**overrides), progress=False))


def undisturbed(lake: Lake, days: int, rows: int) -> list[TrainedDay]:
    clean = Lake.at(lake.root.parent / "undisturbed")
    return [trained(clean, day) for day in write_days(clean, made_spec(), days, rows)]


def interrupt(lake: Lake, day: str, signum: int, after: int) -> int:
    """Train a day in another process, and send it a signal once a checkpoint has `after` batches."""
    command = [sys.executable, "-c", TRAINER, str(lake.root), day]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while taken(lake, day) < after:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signum)
    process.communicate()
    return process.returncode


def taken(lake: Lake, day: str) -> int:
    found = [0]
    for name in lake.days("checkpoints/dlrm", "made"):
        with contextlib.suppress(FileNotFoundError):  # it is being replaced
            found.append(lake.manifest("checkpoints/dlrm", "made", name)["reader"]["batches"])
    return max(found)


def test_a_position_that_changes_while_it_is_written_is_stored_as_it_was(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    class Position:
        def __init__(self) -> None:
            self.slices = [1, 2]

        def state_dict(self) -> dict[str, Any]:
            return {"batches": len(self.slices), "slices": self.slices}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    go_on, write = threading.Event(), checkpoint.save_shard

    def slow(*args: Any) -> None:
        go_on.wait(10)
        write(*args)

    monkeypatch.setattr(checkpoint, "save_shard", slow)
    own, position = Checkpoints(lake, "made", "checkpoints/dlrm", "2026-01-01", {}, CheckpointRecipe()), Position()
    state = new_state(small_recipe(), FeatureSchema.of(made_spec()))
    state.begin_pass()
    own.save(state, position)
    position.slices.append(3)
    go_on.set()
    own.wait()
    assert lake.manifest("checkpoints/dlrm", "made", "2026-01-01.0")["reader"] == {"batches": 2, "slices": [1, 2]}


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", seeds(1))
def test_a_day_killed_several_times_ends_as_if_undisturbed(lake: Lake, seed: int) -> None:
    rows, steps = 9600, 300
    days = write_days(lake, made_spec(), days=2, rows=rows)
    trained(lake, days[0])
    chance = random.Random(seed)
    first = chance.randrange(1, steps // 3)
    for after in (first, first + chance.randrange(1, steps // 3)):
        assert interrupt(lake, days[1], signal.SIGKILL, after) == -signal.SIGKILL
        assert lake.days("tuned_models/dlrm", "made") == days[:1], "nothing of the day is visible"
    resumed = trained(lake, days[1])
    assert resumed.resumed_at >= first * 32
    whole = undisturbed(lake, days=2, rows=rows)[1]
    assert resumed.digest == whole.digest
    assert (resumed.report.loss, resumed.report.rows_touched) == (whole.report.loss, whole.report.rows_touched)
    assert not lake.days("checkpoints/dlrm", "made"), "removed on success"


@pytest.mark.slow
def test_a_terminated_day_ends_with_the_signal_and_resumes_when_called_again(lake: Lake) -> None:
    rows = 9600
    (day,) = write_days(lake, made_spec(), days=1, rows=rows)
    assert interrupt(lake, day, signal.SIGTERM, after=3) == -signal.SIGTERM
    resumed = trained(lake, day)
    assert resumed.resumed_at >= 3 * 32
    assert resumed.digest == undisturbed(lake, days=1, rows=rows)[0].digest


def partly(lake: Lake, day: str, steps: int) -> tuple[TrainState, BlockReader, Checkpoints]:
    """Train a day for some steps, as `train_day` does."""
    recipe, schema = small_recipe(), FeatureSchema.of(made_spec())
    reader = BlockReader(lake, made_spec(), [day], splits=ALL, batch_size=32, order="time")
    state = new_state(recipe, schema)
    state.begin_pass()
    batches = iter(reader)
    train_pass(state, (next(batches) for _ in range(steps)), total_steps=len(reader))
    return (
        state,
        reader,
        Checkpoints(lake, "made", "checkpoints/dlrm", day, {"recipe": recipe.fingerprint}, CheckpointRecipe(minutes=60)),
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle SIGINT as in a terminal: a shell starts background commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_is_delivered_after_the_step_and_its_checkpoint(lake: Lake) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    state, reader, checkpoint = partly(lake, day, steps=4)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), checkpoint.on_signals():
        checkpoint.after_step(state, reader)
        assert taken(lake, day) == 0, "an hour has not passed"
        os.kill(os.getpid(), signal.SIGINT)
        checkpoint.after_step(state, reader)
        pytest.fail("the interrupt was swallowed")
    assert taken(lake, day) == 4
    assert signal.getsignal(signal.SIGINT) is before

    again = BlockReader(lake, made_spec(), [day], splits=ALL, batch_size=32, order="time")
    resumed = checkpoint.resume(state.recipe, state.schema, again)
    assert resumed is not None
    assert (resumed.steps, resumed.running) == (4, state.running)
    assert len(list(again)) == 6


@pytest.mark.usefixtures("interruptible")
def test_a_signal_after_the_last_step_is_not_lost(lake: Lake) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    _, _, checkpoint = partly(lake, day, steps=1)
    with pytest.raises(KeyboardInterrupt), checkpoint.on_signals():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("what", ["recipe", "data", "parent"])
def test_a_checkpoint_of_another_recipe_data_or_parent_is_not_used(
    lake: Lake, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = write_days(lake, made_spec(), days=2, rows=320)
    trained(lake, days[0])
    stop_in_the_sixth_step(lake, days[1], monkeypatch)
    recipe: dict[str, object] = {}
    if what == "recipe":
        recipe = {"seed": 1}
    if what == "data":
        write_days(lake, made_spec(), days=2, rows=352)
    if what == "parent":
        trained(lake, days[0], seed=1)
    assert trained(lake, days[1], **recipe).resumed_at == 0


def test_a_checkpoint_of_the_same_is_used(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    days = write_days(lake, made_spec(), days=2, rows=320)
    trained(lake, days[0])
    stop_in_the_sixth_step(lake, days[1], monkeypatch)
    assert trained(lake, days[1]).resumed_at == 5 * 32


@pytest.mark.parametrize("damage", ["state.json", "manifest.json", "half the weights", "no optimizer", "a flipped bit"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(lake: Lake, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=320)
    stop_in_the_sixth_step(lake, day, monkeypatch)
    folders = {
        lake.manifest("checkpoints/dlrm", "made", name)["reader"]["batches"]: lake.partition("checkpoints/dlrm", "made", name)
        for name in lake.days("checkpoints/dlrm", "made")
    }
    assert sorted(folders) == [4, 5], "two are kept"
    newest = Path(str(folders[5]))
    weights, optimizer = newest / WEIGHTS_FILE, newest / OPTIMIZER_FILE
    whole = weights.read_bytes()
    if damage == "half the weights":
        weights.write_bytes(whole[: len(whole) // 2])
    elif damage == "a flipped bit":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "no optimizer":
        optimizer.unlink()
    else:
        (newest / damage).write_bytes(b"")
    resumed = trained(lake, day)
    assert resumed.resumed_at == 4 * 32
    assert resumed.digest == undisturbed(lake, days=1, rows=320)[0].digest
    assert not lake.days("checkpoints/dlrm", "made")


def test_checkpoints_that_are_too_old_are_deleted_for_any_day(lake: Lake) -> None:
    days = write_days(lake, made_spec(), days=2, rows=320)
    state, reader, old = partly(lake, days[0], steps=2)
    old.save(state, reader)
    old.wait()
    state, reader, new = partly(lake, days[1], steps=2)
    new.kept = CheckpointRecipe(hours=1e-9)
    new.save(state, reader)
    new.wait()
    assert lake.days("checkpoints/dlrm", "made") == []


class _Stop(logging.Handler):
    """Raises at the sixth line of progress."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        if self.lines == 6:
            raise InterruptedError


def stop_in_the_sixth_step(lake: Lake, day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a checkpoint after each step, until logging the progress of the sixth fails."""
    monkeypatch.setattr("ml.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    log, stop = logging.getLogger("ml.training.progress"), _Stop()
    monkeypatch.setattr(log, "level", logging.INFO)
    log.addHandler(stop)
    try:
        with pytest.raises(InterruptedError):
            train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(**OFTEN)))
    finally:
        log.removeHandler(stop)
    assert taken(lake, day) == 5
