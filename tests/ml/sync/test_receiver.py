"""A receiver serves the trainer's rows of a version, whatever it finds in the folder, and counts what it has refused."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from ml.give_way import set_wait
from ml.sync import receiver as module
from ml.sync.folder import HEAD, RECEIVERS, SyncFolder
from ml.sync.lag import serving_lag
from ml.sync.packages import Packages
from ml.sync.receiver import Receiver
from ml.sync.rows import DELTA_FILE
from ml.sync.status import Reason
from tests.helpers.sync_runs import Run, point_head, redigest, rewrite_manifest, serves
from tests.helpers.trials import seeds


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a snapshot and two deltas."""
    own = Run(tmp_path / "sync")
    own.advance(2)
    return own


def following(run: Run) -> Receiver:
    """A receiver that has loaded the newest version."""
    found = Receiver(run.folder, "server")
    found.load()
    assert serves(found.bundle, run.history[run.publisher.version])
    return found


def assert_refused(receiver: Receiver, reason: Reason, run: Run, version: int, said: str = "") -> None:
    """Polling changes nothing, and the reason is reported once, however often the receiver polls."""
    for _ in range(2):
        assert receiver.poll() is None
    status = receiver.status
    assert (status.version, status.refused.get(reason)) == (version, 1), status
    assert said in str(status.last_refusal)
    assert serves(receiver.bundle, run.history[version])


def assert_recovers(receiver: Receiver, run: Run) -> None:
    """The next snapshot brings the receiver up to date."""
    run.advance()
    run.snapshot()
    assert receiver.poll() is not None
    assert receiver.status.version == run.publisher.version and receiver.status.lag_wall_seconds == 0
    assert serves(receiver.bundle, run.history[run.publisher.version])


@pytest.mark.parametrize("rows", ["float32", "float16", "int8"])
def test_deltas_are_applied_in_order_and_acknowledged(tmp_path: Path, rows: str) -> None:
    run = Run(tmp_path, rows=rows)
    receiver = Receiver(run.folder, "server")
    first = receiver.poll()
    assert first is not None and (first.kind, first.since, first.version) == ("snapshot", None, 0)
    assert receiver.poll() is None
    run.advance(3)
    done = receiver.poll()
    assert done is not None and (done.kind, done.since, done.version, done.event_to) == ("delta", 0, 3, 3_000_000)
    assert done.rows > 0 and done.nbytes > 0 and {"wait", "read", "apply"} <= done.seconds.keys()
    assert done.published_at <= done.applied_at
    if rows == "float32":
        assert serves(receiver.bundle, run.history[3])
    (own,) = run.folder.acknowledgements()
    assert (own.name, own.run_id, own.version) == ("server", "a1", 3)
    assert own.steps == receiver.bundle.steps == run.folder.manifest("a1", "delta", 3).steps
    status = receiver.status
    assert (status.rows_applied, status.snapshots, status.lag_event_seconds) == (done.rows, 1, 0.0) and not status.refused


def test_lag_is_reported_in_event_time_and_in_wall_time(run: Run) -> None:
    receiver = following(run)
    run.advance(3)
    shutil.move(run.package("delta", 3), run.root / "kept")
    assert receiver.poll() is None
    status = receiver.status
    assert (status.version, status.newest, status.lag_event_seconds) == (2, 5, 3.0) and status.lag_wall_seconds > 0
    shutil.move(run.root / "kept", run.package("delta", 3))
    assert receiver.poll() is not None
    assert (receiver.status.lag_event_seconds, receiver.status.lag_wall_seconds) == (0.0, 0.0)


def test_lag_begins_with_the_first_version_that_is_not_served(run: Run) -> None:
    receiver, now = following(run), time.time()
    run.advance(3)
    for version, ago in ((3, 300), (4, 200), (5, 100)):
        rewrite_manifest(run.package("delta", version), published_at=now - ago)
    shutil.move(run.package("delta", 4) / DELTA_FILE, run.root / "kept")
    assert receiver.poll() is not None and receiver.status.version == 3
    (one,) = serving_lag(run.folder)
    assert [one.seconds, receiver.status.lag_wall_seconds] == pytest.approx([200, 200], abs=60)
    shutil.move(run.root / "kept", run.package("delta", 4) / DELTA_FILE)
    assert receiver.poll() is not None and receiver.status.lag_wall_seconds == 0


def test_lag_begins_with_a_delta_also_if_a_later_snapshot_is_damaged(run: Run) -> None:
    receiver, now = following(run), time.time()
    run.advance(1)
    run.snapshot()
    run.advance(2)
    for version, ago in ((3, 300), (4, 200), (5, 100)):
        rewrite_manifest(run.package("delta", version), published_at=now - ago)
    shutil.rmtree(run.package("delta", 3))
    shutil.rmtree(run.package("snapshot", 3))
    receiver.poll()
    (one,) = serving_lag(run.folder)
    assert one.seconds == pytest.approx(receiver.status.lag_wall_seconds, abs=60)


def test_a_missing_delta_is_a_gap_until_it_appears_or_a_snapshot_follows(run: Run) -> None:
    receiver = following(run)
    run.advance(2)
    shutil.rmtree(run.package("delta", 3))
    assert_refused(receiver, "missing", run, 2)
    assert_recovers(receiver, run)


def test_a_delta_that_is_published_twice_is_applied_once(run: Run) -> None:
    receiver = following(run)
    run.advance()
    assert receiver.poll() is not None
    rows = receiver.status.rows_applied
    shutil.copytree(run.package("delta", 3), run.package("delta", 4))
    point_head(run.root, "a1", 4, 0)
    assert_refused(receiver, "damaged", run, 3, "describes the delta 3")
    rewrite_manifest(run.package("delta", 4), version=4)
    assert receiver.poll() is None and receiver.status.refused["gap"] == 1, "it continues version 2"
    assert receiver.status.rows_applied == rows and serves(receiver.bundle, run.history[3])


def test_the_changes_of_an_earlier_delta_in_a_later_one_are_harmless(run: Run) -> None:
    receiver = following(run)
    shutil.copytree(run.package("delta", 2), run.package("delta", 3))
    rewrite_manifest(run.package("delta", 3), version=3, base_version=2)
    point_head(run.root, "a1", 3, 0)
    receiver.poll()
    assert serves(receiver.bundle, run.history[2])


def test_reordered_deltas_are_applied_in_the_order_of_versions(run: Run) -> None:
    receiver = following(run)
    run.advance(2)
    for version in (3, 4):
        shutil.move(run.package("delta", version), run.root / f"kept{version}")
    shutil.move(run.root / "kept4", run.package("delta", 4))
    assert_refused(receiver, "missing", run, 2)
    shutil.move(run.root / "kept3", run.package("delta", 3))
    assert receiver.poll() is not None and serves(receiver.bundle, run.history[4])


@pytest.mark.parametrize("missing", [DELTA_FILE, "manifest.json"])
def test_an_incomplete_delta_is_refused(run: Run, missing: str) -> None:
    receiver = following(run)
    run.advance()
    (run.package("delta", 3) / missing).unlink()
    assert_refused(receiver, "missing" if missing == "manifest.json" else "damaged", run, 2)
    assert_recovers(receiver, run)


@pytest.mark.parametrize("missing", ["state.json", "spec.json", "weights-00000-of-00001.safetensors"])
def test_an_incomplete_snapshot_is_refused_and_the_one_before_it_is_loaded(run: Run, missing: str) -> None:
    run.keep_all()
    run.snapshot()
    files = list(run.package("snapshot", 2).iterdir())
    (target,) = [path for path in files if path.name == missing] or [p for p in files if p.name.startswith("weights")]
    target.unlink()
    receiver = Receiver(run.folder, "server")
    receiver.load()
    assert serves(receiver.bundle, run.history[2]) and sum(receiver.status.refused.values()) == 1
    assert receiver.status.version == 2


@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("name", [DELTA_FILE, "manifest.json"])
def test_a_delta_that_is_damaged_in_any_region_is_refused(run: Run, name: str, where: float) -> None:
    receiver = following(run)
    run.advance()
    path = run.package("delta", 3) / name
    data = bytearray(path.read_bytes())
    data[min(int(where * len(data)), len(data) - 1)] ^= 0x80
    path.write_bytes(data)
    assert_refused(receiver, "damaged", run, 2)


def test_a_truncated_delta_with_a_matching_digest_is_refused(run: Run) -> None:
    receiver = following(run)
    run.advance()
    path = run.package("delta", 3) / DELTA_FILE
    path.write_bytes(path.read_bytes()[:-9])
    redigest(run.package("delta", 3), DELTA_FILE)
    assert_refused(receiver, "damaged", run, 2, "not a delta")


@pytest.mark.parametrize("seed", seeds(3))
def test_a_snapshot_that_is_damaged_anywhere_is_refused(run: Run, seed: int) -> None:
    receiver = following(run)
    run.advance(2)
    run.snapshot()
    shutil.rmtree(run.package("delta", 3))
    files = sorted(path for path in run.package("snapshot", 4).rglob("*") if path.is_file())
    path = files[seed % len(files)]
    data = bytearray(path.read_bytes())
    data[(seed * 7919) % len(data)] ^= 0x80
    path.write_bytes(data)
    assert receiver.poll() is None
    assert serves(receiver.bundle, run.history[2]) and receiver.status.refused["damaged"] == 1
    assert_recovers(receiver, run)


def test_deltas_of_another_run_are_refused(run: Run, tmp_path: Path) -> None:
    receiver = following(run)
    other = Run(tmp_path / "other", run_id="b2", seed=1)
    other.advance(3)
    shutil.copytree(other.package("delta", 3), run.package("delta", 3))
    point_head(run.root, "a1", 3, 0)
    assert_refused(receiver, "damaged", run, 2, "describes the delta 3 of run b2")


def test_deltas_of_another_model_are_refused(run: Run, tmp_path: Path) -> None:
    receiver = following(run)
    other = Run(tmp_path / "other", name="deepfm", seed=1)
    other.advance(3)
    shutil.copytree(other.package("delta", 3), run.package("delta", 3))
    point_head(run.root, "a1", 3, 0)
    assert_refused(receiver, "model", run, 2, "cannot be applied to made/dlrm")


def test_rows_of_another_width_are_refused_although_the_names_agree(run: Run, tmp_path: Path) -> None:
    receiver = following(run)
    other = Run(tmp_path / "other", model={"embedding_dim": 8, "bottom": [8], "top": [8]})
    other.advance(3)
    shutil.copytree(other.package("delta", 3), run.package("delta", 3))
    point_head(run.root, "a1", 3, 0)
    assert_refused(receiver, "model", run, 2)


def test_deltas_that_an_earlier_longer_run_left_are_not_applied(run: Run) -> None:
    run.advance(3)
    shutil.copytree(run.root / "a1", f"{run.root}-kept")
    receiver = following(run)
    shorter = Run(run.root, run_id="b2", seed=1)
    shutil.copytree(f"{run.root}-kept", run.root / "a1", dirs_exist_ok=True)
    shutil.rmtree(f"{run.root}-kept")
    shorter.advance()
    assert len(run.folder.versions("a1", "delta")) == 5
    applied = receiver.poll()
    assert applied is not None and (applied.kind, applied.run_id, applied.version) == ("snapshot", "b2", 1)
    assert receiver.poll() is None and serves(receiver.bundle, shorter.history[1])


def test_a_new_run_is_served_only_once_its_snapshot_can_be_loaded(run: Run) -> None:
    receiver = following(run)
    before = receiver.bundle
    point_head(run.root, "b2", 0, 0)
    assert_refused(receiver, "missing", run, 2, "run b2 has no snapshot")
    assert receiver.bundle is before


def test_a_head_of_an_earlier_version_changes_nothing(run: Run) -> None:
    receiver = following(run)
    point_head(run.root, "a1", 1, 0)
    assert receiver.poll() is None and serves(receiver.bundle, run.history[2]) and not receiver.status.refused


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "a1"}'])
def test_a_damaged_head_is_refused_and_reported(run: Run, text: str) -> None:
    receiver = following(run)
    run.advance()
    (run.root / HEAD).write_text(text)
    assert_refused(receiver, "head", run, 2)
    run.advance()
    assert receiver.poll() is not None and serves(receiver.bundle, run.history[4])


def test_a_missing_head_is_reported_by_a_receiver_that_serves(run: Run) -> None:
    receiver = following(run)
    (run.root / HEAD).unlink()
    assert_refused(receiver, "head", run, 2, "no head.json")


def test_a_folder_that_vanishes_leaves_the_model_served(run: Run) -> None:
    receiver = following(run)
    shutil.move(run.root, f"{run.root}-away")
    assert_refused(receiver, "head", run, 2)
    shutil.rmtree(run.root, ignore_errors=True)
    shutil.move(f"{run.root}-away", run.root)
    run.advance()
    assert receiver.poll() is not None and serves(receiver.bundle, run.history[3])


def test_an_unknown_format_is_refused_by_its_number(run: Run) -> None:
    receiver = following(run)
    run.advance()
    rewrite_manifest(run.package("delta", 3), format=2)
    assert_refused(receiver, "format", run, 2, "format 2, this code reads 1")


def test_a_folder_that_fails_while_registrations_are_read_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception would end the thread that follows the folder, and the receiver would serve old rows without a sign."""
    receiver = Receiver(run.folder, "server")
    receiver.load()
    run.advance()

    def failing(self: SyncFolder, name: str) -> bool:
        raise PermissionError("no access")

    with monkeypatch.context() as patch:
        patch.setattr(SyncFolder, "is_registered", failing)
        assert receiver.poll() is None and receiver.status.refused == {"folder": 1}
    receiver.poll()
    assert receiver.status.version == run.publisher.version


def test_a_receiver_that_was_dropped_begins_again_at_a_snapshot(run: Run) -> None:
    receiver = following(run)
    run.advance()
    run.snapshot()
    (run.root / RECEIVERS / "server.json").unlink()
    done = receiver.poll()
    assert done is not None and done.kind == "snapshot" and receiver.status.refused == {"dropped": 1}
    assert [one.version for one in run.folder.acknowledgements()] == [3]
    assert serves(receiver.bundle, run.history[3])


def test_before_the_first_snapshot_there_is_no_bundle(tmp_path: Path) -> None:
    receiver = Receiver(Run(tmp_path).folder.at(tmp_path / "empty"), "server")
    assert receiver.poll() is None and receiver.status.version is None and not receiver.status.refused
    with pytest.raises(LookupError, match="no snapshot was published"):
        receiver.load()
    with pytest.raises(LookupError, match="has no model yet"):
        _ = receiver.bundle
    with pytest.raises(ValueError, match="expected letters"):
        Receiver(receiver._folder, "../other")


def test_an_idle_receiver_is_heard_of_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = following(run)
    (before,) = run.folder.acknowledgements()
    assert receiver.poll() is None and run.folder.acknowledgements() == [before]
    monkeypatch.setattr(module, "HEARTBEAT", 0.0)
    receiver.poll()
    (after,) = run.folder.acknowledgements()
    assert after.heard > before.heard and after.version == before.version


def test_a_receiver_follows_in_a_thread_until_it_is_stopped(run: Run) -> None:
    receiver, stop = following(run), Event()
    thread = Thread(target=receiver.follow, args=(stop, 0.01))
    thread.start()
    run.advance(2)
    for _ in range(1000):
        if receiver.status.version == 4:
            break
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive() and serves(receiver.bundle, run.history[4])


def test_a_prediction_uses_one_version_of_the_dense_part(run: Run) -> None:
    receiver = following(run)
    model = receiver.bundle.predictor.model  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    run.advance()
    assert receiver.poll() is not None
    assert receiver.bundle.predictor.model is not model  # type: ignore[attr-defined]
    assert all(bool((tensor == before[name]).all()) for name, tensor in model.named_parameters())


def test_packages_are_kept_while_a_new_receiver_loads_their_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Run(tmp_path / "sync")
    own.advance(2)
    load = Packages.bundle

    def and_publish(packages: Packages, version: int) -> object:
        found = load(packages, version)
        if version == 0:
            own.advance()
            own.snapshot()  # it deletes what no registered receiver needs
        return found

    monkeypatch.setattr(Packages, "bundle", and_publish)
    receiver = Receiver(own.folder, "server")
    receiver.load()
    receiver.poll()
    assert receiver.status.version == 3 and not receiver.status.refused


def test_a_receiver_gives_way_to_requests_before_and_while_a_delta_is_applied(run: Run) -> None:
    receiver, served = following(run), list[int | None]()
    run.advance()
    set_wait(lambda: served.append(receiver.status.version))
    try:
        receiver.poll()
    finally:
        set_wait(None)
    assert served.count(2) >= 4 and served[-1] == 3 == receiver.status.version
