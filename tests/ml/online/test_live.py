"""Publishing a day of online training: what receivers get, what the lake gets, and runs that were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts.weights import weights_of
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.online.day import OnlineDay, OnlineOptions, online_day
from ml.online.live import LivePublisher, LiveSlice
from ml.online.loop import SliceResult
from ml.online.probe_set import probe_of
from ml.online.published import NAME
from ml.online.record import DayRecord
from ml.recipes.recipe import CheckpointRecipe, Recipe
from ml.stages import online_packages, online_updates
from ml.sync import publisher
from ml.sync.folder import SyncFolder
from ml.sync.manifest import PackageManifest
from ml.sync.publisher import Published, Publisher
from ml.sync.receiver import Receiver
from ml.sync.serving_copy import serving_copy
from ml.training.day import DayOptions, train_day
from ml.training.state_dict import load_snapshot
from tests.helpers.training_days import made_spec, small_recipe, write_days

SPEC = made_spec()


def recipe(**online: object) -> Recipe:
    return small_recipe(online={"slices": 5, **online})


def prepared(lake: Lake, count: int = 3) -> list[str]:
    """Days in the lake, of which the first was trained in batch."""
    days = write_days(lake, SPEC, count, 400)
    train_day(SPEC, days[0], lake, options=DayOptions(recipe=recipe(), progress=False))
    return days


def live(lake: Lake, day: str, root: Path, **keys: object) -> LivePublisher:
    folder = SyncFolder.at(root)
    return LivePublisher(SPEC, "dlrm", day, lake, folder, Receiver(folder, "test"), **keys)  # type: ignore[arg-type]


def run(lake: Lake, day: str, observer: LivePublisher | None) -> OnlineDay:
    return online_day(SPEC, day, lake, "dlrm", OnlineOptions(recipe(), progress=False, observer=observer))


def assert_serves_the_state(lake: Lake, day: str, receiver: Receiver) -> None:
    receiver.poll()
    state = load_snapshot(lake.partition(online_updates("dlrm"), SPEC.name, day))
    found, wanted = weights_of(receiver.bundle.predictor.model), weights_of(serving_copy(state, "float32").model)  # type: ignore[attr-defined]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_receiver_follows_two_days_bit_for_bit(lake: Lake, tmp_path: Path) -> None:
    days = prepared(lake)
    shown: list[LiveSlice] = []
    for number, day in enumerate(days[1:], 1):
        observer = live(lake, day, tmp_path / "sync", on_slice=shown.append)
        done = run(lake, day, observer)
        head = observer.folder.head()
        assert head is not None and head.version == head.snapshot == 5 * number == done.manifest["run"]["version"]
        assert_serves_the_state(lake, day, observer.receiver)
    assert [one.number for one in shown] == [*range(5), *range(5)]
    assert shown[0].published is None and all(one.published for one in shown[1:5])
    assert shown[4].score_so_far["online"] == pytest.approx(
        lake.manifest(online_updates("dlrm"), SPEC.name, days[1])["scores"]["online"]["auc"]
    )


def test_publishing_does_not_change_what_is_written(lake: Lake, tmp_path: Path) -> None:
    days = prepared(lake, 2)
    plain = run(lake, days[1], None).manifest["digest"]
    assert run(lake, days[1], live(lake, days[1], tmp_path / "sync")).manifest["digest"] == plain


@pytest.mark.parametrize(
    "sync", [{}, {"rows": "int8"}, {"dense_every": 2}, {"dense_every": 0}, {"dense_every": 0, "snapshot_every": 3}], ids=str
)
def test_a_receiver_predicts_each_slice_as_the_scored_copy_does(lake: Lake, tmp_path: Path, sync: dict[str, object]) -> None:
    days, found = prepared(lake, 2), []
    reader = BlockReader(lake, SPEC, days[1:], splits=SPLITS, batch_size=32, order="time")
    wholes = [next(iter(part.chunks(1000))).whole for part in reader.slices(count=5)]
    observer = live(lake, days[1], tmp_path / "sync")
    show = observer.trained

    def trained(result: SliceResult) -> None:
        observer.receiver.poll()  # it is at the version that has predicted the slice
        found.append(observer.receiver.bundle.score(wholes[result.number], sampled=True))
        np.testing.assert_array_equal(found[-1], result.predictions["online"])
        show(result)

    observer.trained = trained  # type: ignore[method-assign]
    online_day(SPEC, days[1], lake, "dlrm", OnlineOptions(recipe(sync=sync), progress=False, observer=observer))
    assert len(found) == 5 and not observer.receiver.status.refused


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_stopped_day_resumes_and_publishes_the_same_packages(lake: Lake, tmp_path: Path, at: int) -> None:
    days = prepared(lake, 2)
    whole = live(lake, days[1], tmp_path / "whole")
    digest = run(lake, days[1], whole).manifest["digest"]
    lake.discard(online_updates("dlrm"), SPEC.name, days[1])

    def stop(shown: LiveSlice) -> None:
        if shown.number == at:
            raise Stop

    with pytest.raises(Stop):
        run(lake, days[1], live(lake, days[1], tmp_path / "sync", on_slice=stop))
    again = live(lake, days[1], tmp_path / "sync")
    assert run(lake, days[1], again).manifest["digest"] == digest
    assert again.folder.head() == whole.folder.head()
    head = again.folder.head()
    assert head is not None
    one, two = (of.folder.manifest(head.run_id, "snapshot", head.snapshot) for of in (whole, again))
    assert one.contents == two.contents
    assert_serves_the_state(lake, days[1], again.receiver)


@pytest.mark.parametrize("at", [1, 3])
def test_a_day_with_a_byte_budget_resumes_and_publishes_the_same_packages(
    lake: Lake, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that were held back are in the checkpoint. At the end of a day, none is held back."""
    monkeypatch.setattr(publisher, "collect", lambda *_: 0)
    days = prepared(lake)
    often = recipe(sync={"byte_budget": 1024}).model_copy(update={"checkpoints": CheckpointRecipe(minutes=1e-9)})

    def train(day: str, observer: LivePublisher) -> None:
        online_day(SPEC, day, lake, "dlrm", OnlineOptions(often, progress=False, observer=observer))

    whole = live(lake, days[1], tmp_path / "whole")
    train(days[1], whole)
    lake.discard(online_updates("dlrm"), SPEC.name, days[1])

    def stop(shown: LiveSlice) -> None:
        if shown.number == at:
            raise Stop

    with pytest.raises(Stop):
        train(days[1], live(lake, days[1], tmp_path / "sync", on_slice=stop))
    again = live(lake, days[1], tmp_path / "sync")
    train(days[1], again)
    one, two = (packages(of.folder) for of in (whole, again))
    assert one == two and any(manifest.pending for manifest in one.values())
    train(days[2], live(lake, days[2], tmp_path / "sync"))
    assert_serves_the_state(lake, days[2], again.receiver)


SPOILED = 4


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 of the model turns its predictions around; version 3 is good again."""
    publish = Publisher.publish

    def spoiling(self: Publisher, *args: Any, **keys: Any) -> Published:
        bad = self.version + 1 == 2
        held = [parameter.detach().clone() for parameter in self._state.dense_parameters]
        if bad:
            for parameter in self._state.dense_parameters:
                parameter.data.mul_(-SPOILED)
        try:
            return publish(self, *args, **keys)
        finally:
            for parameter, before in zip(self._state.dense_parameters, held, strict=True):
                parameter.data.copy_(before)

    monkeypatch.setattr(Publisher, "publish", spoiling)


def test_a_version_that_is_worse_on_the_probe_set_is_rolled_back_and_not_scored(
    lake: Lake, tmp_path: Path, spoiled: None
) -> None:
    days = prepared(lake, 2)
    probed = recipe(sync={"probe": {"rows": 300}})
    observer = live(lake, days[1], tmp_path / "sync")
    receiver = Receiver(observer.folder, "server", probe_of(lake, SPEC, probed, days[1]))
    rollbacks: list[int] = []

    def follow(shown: LiveSlice) -> None:
        receiver.poll()
        rollbacks.append(receiver.status.rollbacks)

    observer.on_slice = follow
    done = online_day(SPEC, days[1], lake, "dlrm", OnlineOptions(probed, progress=False, observer=observer))
    assert [row["version"] for row in done.record.slices] == [0, 1, 1, 3, 4]
    assert rollbacks == [0, 0, 1, 1, 1] and receiver.status.refused == {"quality": 1}
    assert not [one for one in observer.folder.acknowledgements() if one.name == NAME]
    assert_serves_the_state(lake, days[1], receiver)


@pytest.mark.parametrize(
    "sync", [{"byte_budget": 1024}, {"probe": {"rows": 300}}, {"byte_budget": 1024, "snapshot_every": 2}], ids=str
)
@pytest.mark.parametrize("at", [1, 2])
def test_a_day_that_is_scored_by_a_receiver_resumes_with_the_same_bytes(
    lake: Lake, sync: dict[str, object], at: int, spoiled: None
) -> None:
    days = prepared(lake, 2)
    often = recipe(sync=sync).model_copy(update={"checkpoints": CheckpointRecipe(minutes=1e-9)})
    options = OnlineOptions(often, progress=False)
    whole = online_day(SPEC, days[1], lake, "dlrm", options).manifest["digest"]
    lake.discard(online_updates("dlrm"), SPEC.name, days[1])
    add, added = DayRecord.add, [0]

    def stop(self: DayRecord, result: SliceResult) -> None:
        add(self, result)
        added[0] += 1
        if added[0] == at + 1:
            raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(DayRecord, "add", stop)
        online_day(SPEC, days[1], lake, "dlrm", options)
    again = online_day(SPEC, days[1], lake, "dlrm", options)
    assert again.manifest["digest"] == whole and again.resumed_at == at
    assert not lake.partition(online_packages("dlrm"), SPEC.name, days[1]).exists()


@pytest.mark.parametrize("sync", [{"byte_budget": 1024}, {"byte_budget": 1024, "rows": "int8"}], ids=str)
def test_with_a_byte_budget_the_scores_are_those_of_a_receiver(lake: Lake, tmp_path: Path, sync: dict[str, object]) -> None:
    days, found = prepared(lake, 2), []
    reader = BlockReader(lake, SPEC, days[1:], splits=SPLITS, batch_size=32, order="time")
    wholes = [next(iter(part.chunks(1000))).whole for part in reader.slices(count=5)]
    observer = live(lake, days[1], tmp_path / "sync")
    show = observer.trained

    def trained(result: SliceResult) -> None:
        observer.receiver.poll()  # it is at the version that has predicted the slice
        found.append(observer.receiver.bundle.score(wholes[result.number], sampled=True))
        np.testing.assert_array_equal(found[-1], result.predictions["online"])
        show(result)

    observer.trained = trained  # type: ignore[method-assign]
    done = online_day(SPEC, days[1], lake, "dlrm", OnlineOptions(recipe(sync=sync), progress=False, observer=observer))
    assert len(found) == 5 and all(row["bytes_synced"] > 1024 for row in done.record.slices[1:])


def packages(folder: SyncFolder) -> dict[str, PackageManifest]:
    """All deltas of the current run, without the time of their publication."""
    head = folder.head()
    assert head is not None
    found = [folder.manifest(head.run_id, "delta", version) for version in folder.versions(head.run_id, "delta")]
    return {one.name: one.model_copy(update={"published_at": 0.0}) for one in found}


def test_slices_wait_for_their_events_at_a_pace(lake: Lake, tmp_path: Path) -> None:
    """The made days have one row a microsecond, so at 20 microseconds a second a slice of 80 rows takes 4 seconds."""
    days, now, waited = prepared(lake, 2), [0.0], [0.0]
    observer = live(lake, days[1], tmp_path / "sync", speed=20e-6, clock=lambda: now[0])
    plain = observer.wait

    def wait() -> float:
        seconds = plain()
        now[0] += seconds  # the next call finds that the time has passed
        waited[0] += seconds
        return 0.0

    observer.wait = wait  # type: ignore[method-assign]
    run(lake, days[1], observer)
    assert waited[0] == pytest.approx(4 * 4, abs=0.3)
