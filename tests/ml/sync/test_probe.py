"""A version that is significantly worse on the probe set is left again, bit for bit, until a version is good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ml.datasets.batch import Batch
from ml.sync import receiver as module
from ml.sync.packages import Packages
from ml.sync.probe import Probe
from ml.sync.receiver import Receiver
from ml.training.state import TrainState
from tests.helpers.sync_runs import Run, serves
from tests.helpers.training_days import make_batches
from tests.helpers.training_states import SCHEMA

HELD: dict[int, torch.Tensor] = {}


def probe_of(run: Run) -> Probe:
    """Rows whose labels the current model predicts well."""
    receiver = Receiver(run.folder, "labels")
    batches = list(make_batches(SCHEMA, 8, size=64, seed=99))
    labelled: list[Batch] = []
    for batch in batches:
        chance = torch.from_numpy(receiver.load().score(batch))
        labelled.append(replace(batch, labels=(chance > chance.median()).float()))
    return Probe(labelled)


def spoil(state: TrainState) -> None:
    """Turn the model's logits around, and make them large."""
    for number, parameter in enumerate(state.dense_parameters):
        HELD.setdefault(number, parameter.detach().clone())
        parameter.data.mul_(-3 if parameter.dim() > 1 and len(parameter) == 1 else 1)
        if parameter.dim() == 1 and len(parameter) == 1:
            parameter.data.add_(4)


def repair(state: TrainState) -> None:
    for number, parameter in enumerate(state.dense_parameters):
        parameter.data.copy_(HELD.pop(number))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    HELD.clear()
    own = Run(tmp_path)
    own.advance()
    return own


def test_a_good_version_is_kept(run: Run) -> None:
    receiver = Receiver(run.folder, "server", probe_of(run))
    receiver.load()
    run.advance()
    done = receiver.poll()
    assert done is not None and done.seconds["probe"] > 0 and receiver.status.rollbacks == 0
    assert serves(receiver.bundle, run.history[2])


def test_a_worse_version_is_rolled_back_and_a_good_one_is_served_again(run: Run) -> None:
    receiver = Receiver(run.folder, "server", probe_of(run))
    receiver.load()
    run.advance(2, change=spoil)
    assert receiver.poll() is None
    status = receiver.status
    assert (status.version, status.rollbacks, status.rolled_back_from) == (1, 1, 3) and status.refused == {"quality": 1}
    assert "version 3 is worse on the probe set (log loss" in str(status.last_refusal)
    assert "rolled back to version 1" in str(status.last_refusal)
    assert serves(receiver.bundle, run.history[1]), "rows, dense part and steps"
    (own,) = [one for one in run.folder.acknowledgements() if one.name == "server"]
    assert own.version == 1, "a version that is not served is not acknowledged"
    assert receiver.poll() is None and receiver.status.rollbacks == 1, "the same version is not tried again"
    run.advance(change=repair)
    done = receiver.poll()
    assert done is not None and (done.since, done.version) == (1, 4)
    assert serves(receiver.bundle, run.history[4]) and receiver.status.rolled_back_from is None


def test_a_worse_snapshot_is_not_served_and_later_versions_are_tried(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNDONE", 2)
    receiver = Receiver(run.folder, "server", probe_of(run))
    receiver.load()
    run.advance(change=spoil)
    assert receiver.poll() is None
    run.advance(3)
    assert receiver.poll() is None and receiver.status.rollbacks == 1, "too many versions to undo: it waits for a snapshot"
    run.snapshot()
    served = receiver.bundle
    assert receiver.poll() is None and receiver.bundle is served and receiver.status.rollbacks == 2
    assert serves(receiver.bundle, run.history[1])
    run.advance(change=repair)
    run.snapshot()
    assert receiver.poll() is not None and serves(receiver.bundle, run.history[6])


def test_predictions_that_are_not_numbers_are_worse(run: Run) -> None:
    probe, receiver = probe_of(run), Receiver(run.folder, "server")
    assert probe.judge(receiver.load()).worse is None
    for parameter in receiver.bundle.predictor.model.parameters():  # type: ignore[attr-defined]
        parameter.data.fill_(float("nan"))
    assert probe.judge(receiver.bundle).worse == "a prediction is not a number"


def test_a_version_that_is_chosen_by_hand_is_the_baseline_of_the_next_one(run: Run) -> None:
    probe, receiver = probe_of(run), Receiver(run.folder, "server")
    probe.judge(receiver.load())
    run.advance(change=spoil)
    receiver.poll()
    assert probe.judge(receiver.bundle).worse is not None
    probe.accept(receiver.bundle)
    assert probe.judge(receiver.bundle).worse is None


def test_a_difference_within_the_tolerance_or_by_chance_is_not_worse(run: Run) -> None:
    receiver = Receiver(run.folder, "server")
    few = list(make_batches(SCHEMA, 1, size=4, seed=99))
    probe = Probe(few)
    assert probe.judge(receiver.load()).worse is None
    run.advance(change=spoil)
    receiver.poll()
    verdict = probe.judge(receiver.bundle)
    assert verdict.worse is None, "four rows cannot tell"
    with pytest.raises(ValueError, match="no rows"):
        Probe([])


def test_a_receiver_that_is_restarted_serves_the_version_that_it_had_rolled_back_to(run: Run) -> None:
    running, restarted = (Receiver(run.folder, name, probe_of(run)) for name in ("server", "restarted"))
    running.load()
    run.advance(2, change=spoil)
    running.poll()
    restarted.load()
    assert [(one.status.version, one.status.rollbacks, one.status.rolled_back_from) for one in (running, restarted)] == [
        (1, 1, 3)
    ] * 2
    assert "version 3 is worse" in str(restarted.status.refusal) and "version 1 is served" in str(restarted.status.refusal)
    assert serves(restarted.bundle, run.history[1])
    acknowledged = {one.name: one.version for one in run.folder.acknowledgements()}
    assert acknowledged["restarted"] == 1, "a version that is not served is not acknowledged"
    assert restarted.poll() is None and restarted.status.rollbacks == 1, "the same version is not tried again"
    run.advance(change=repair)
    assert restarted.poll() is not None and serves(restarted.bundle, run.history[4])


def test_a_start_among_more_worse_versions_than_are_undone_ends_at_the_good_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNDONE", 2)
    receiver = Receiver(run.folder, "server", probe_of(run))
    run.advance(change=spoil)
    run.advance(3)
    receiver.load()
    assert (receiver.status.version, receiver.status.rolled_back_from) == (1, 5)
    assert serves(receiver.bundle, run.history[1])


def test_a_worse_run_is_not_read_again_for_each_of_its_versions(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver(run.folder, "server", probe_of(run))
    receiver.load()
    train = Run.train

    def badly(own: Run) -> None:
        train(own)
        spoil(own.state)

    monkeypatch.setattr(Run, "train", badly)
    worse = Run(tmp_path, run_id="b2")
    assert receiver.poll() is None and receiver.status.rollbacks == 1
    read = list[int]()
    load = Packages.bundle
    monkeypatch.setattr(Packages, "bundle", lambda packages, version: read.append(version) or load(packages, version))
    worse.advance()
    assert receiver.poll() is None and not read
    monkeypatch.setattr(module, "RETRY", 0.0)
    worse.advance()
    assert receiver.poll() is None and read == [0]
    assert serves(receiver.bundle, run.history[1])
