"""Online training of arriving rows: each slice once, whatever interrupts it, and published as it is trained."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.artifacts.snapshot import digest
from ml.lake import BusyPartition, Lake
from ml.logs.ingest_task import raw_schema
from ml.online.arriving import follow
from ml.online.arriving_day import ArrivingDay, ArrivingOptions
from ml.online.stream import OUT_OF_ORDER, UNREAD, LostFile, StreamFolder, stream_folder
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from ml.training.state import new_state
from ml.training.state_dict import save_snapshot
from tests.helpers.arriving import COUNTED, DAYS, SPEC, recipe, rows_of, run, write_files
from tests.helpers.joined_logs import START as FEED_START
from tests.helpers.joined_logs import feed
from tests.helpers.trials import SEED, TRIALS

STAGE = "online_updates/dlrm"


def stream_of(folder: Path) -> UPath:
    return stream_folder(UPath(folder), SPEC.name)


def two_days(folder: Path, files: int = 8) -> Path:
    """A whole first day, and the first file of the next one, which ends it."""
    write_files(stream_of(folder), 0, files)
    write_files(stream_of(folder), 1, 1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the first day's partition except the manifest, which has durations."""
    found = folder / "lake" / STAGE / SPEC.name / DAYS[0]
    return {path.name: path.read_bytes() for path in found.iterdir() if path.name != "manifest.json"}


def published(folder: Path) -> dict[str, str]:
    sync = SyncFolder.at(folder / "sync")
    return {
        manifest.name: manifest.contents
        for run_id in sync.runs()
        for kind in ("snapshot", "delta")
        for manifest in (sync.manifest(run_id, kind, version) for version in sync.versions(run_id, kind))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_days(tmp_path_factory.mktemp("whole"))
    assert len(run(folder, 100)) == 9
    return folder


def test_each_slice_is_predicted_then_trained_on_then_published(whole: Path) -> None:
    slices = pq.read_table(whole / "lake" / STAGE / SPEC.name / DAYS[0] / "slices.parquet").to_pylist()
    assert [of["rows"] for of in slices] == [64] * 8 and [of["version"] for of in slices] == list(range(8))
    assert slices[-1]["online_auc"] > slices[0]["online_auc"]
    head = SyncFolder.at(whole / "sync").head()
    assert head is not None and head.version == 10


def test_a_day_that_is_over_is_in_the_lake_and_is_continued_by_the_next(whole: Path) -> None:
    manifest = Lake.at(whole / "lake").manifest(STAGE, SPEC.name, DAYS[0])
    assert manifest["run"]["version"] == 9 and manifest["stream"]["is_complete"]
    assert manifest["metrics"] == {"rows": 512, "slices": 8, "rows_so_far": 512}
    assert not (stream_of(whole).parent / "taken" / "dlrm" / DAYS[0]).exists()


def test_a_day_continues_the_run_of_the_day_before(tmp_path: Path) -> None:
    for day in range(2):
        write_files(stream_of(tmp_path), day, 3)
    done = run(tmp_path, 100)
    assert len({one.run_id for one in done}) == 1 and [one.published.version for one in done] == [1, 2, 3, 5, 6, 7]
    sync = SyncFolder.at(tmp_path / "sync")
    assert sync.runs() == [done[0].run_id] and sync.versions(done[0].run_id, "snapshot") == [4]


def test_a_byte_budget_holds_no_rows_back_at_the_end_of_a_day(tmp_path: Path) -> None:
    for day in range(2):
        write_files(stream_of(tmp_path), day, 3)
    done = run(tmp_path, 100, sync={"byte_budget": 1024})
    assert len({one.run_id for one in done}) == 1 and [one.published.version for one in done] == [1, 2, 3, 5, 6, 7]
    sync = SyncFolder.at(tmp_path / "sync")
    assert sync.manifest(done[0].run_id, "snapshot", 4).pending == 0
    assert sync.manifest(done[0].run_id, "delta", 5).pending > 0


def test_a_file_under_an_earlier_name_that_arrives_while_nothing_runs_is_counted(tmp_path: Path) -> None:
    root = stream_of(tmp_path)
    write_files(root, 0, 3)
    run(tmp_path, 2)
    for name in ("000a", "000b"):
        pq.write_table(rows_of(0, 0, 8), root / f"{DAYS[0]}-{name}.parquet")
    (done,) = run(tmp_path, 100)
    assert done.quarantined == {UNREAD: 2} and len(done.result.labels) == 64
    write_files(root, 1, 1)
    run(tmp_path, 100)
    manifest = Lake.at(tmp_path / "lake").manifest(STAGE, SPEC.name, DAYS[0])
    assert manifest["quarantined"] == {UNREAD: 2} and manifest["metrics"]["rows"] == 3 * 64


@pytest.mark.parametrize("stop", [1, 2, 3, 8])
def test_a_run_that_was_stopped_continues_with_the_same_result(stop: int, whole: Path, tmp_path: Path) -> None:
    two_days(tmp_path)
    assert len(run(tmp_path, stop)) == stop
    rest = run(tmp_path, 100)
    assert len(rest) == 9 - stop
    assert contents(tmp_path) == contents(whole) and published(tmp_path) == published(whole)


def test_a_receiver_serves_what_was_trained(whole: Path) -> None:
    receiver = Receiver(SyncFolder.at(whole / "sync"), "server")
    receiver.poll()
    assert receiver.status.version == 10 and receiver.status.lag_wall_seconds == 0
    batch = rows_of(0, 0, 64).to_batches()[0]
    assert np.ptp(receiver.bundle.predict(batch)) > 0.1


def test_rows_that_arrive_later_are_trained_on_later(tmp_path: Path, whole: Path) -> None:
    for number in range(1, 9):
        write_files(stream_of(tmp_path), 0, number)
        assert len(run(tmp_path, 100)) == 1
    write_files(stream_of(tmp_path), 1, 1)
    run(tmp_path, 100)
    assert contents(tmp_path) == contents(whole)


def write_daily_model(folder: Path) -> None:
    """The daily model of the first day, as the daily chain writes it at night."""
    lake, state = Lake.at(folder / "lake"), new_state(recipe(), FeatureSchema.of(SPEC))
    state.begin_pass()
    state.end_pass()
    with lake.write("tuned_models/dlrm", SPEC.name, DAYS[0]) as staging:
        save_snapshot(state, staging)
        Lake.write_manifest(staging, {"digest": digest(staging), "fingerprint": state.schema.fingerprint})


def test_a_day_resumes_with_its_inputs_after_the_daily_chain_has_run(tmp_path: Path) -> None:
    folders = undisturbed, disturbed = [tmp_path / name for name in ("undisturbed", "disturbed")]
    for folder in folders:
        write_files(stream_of(folder), 0, 2)
        write_files(stream_of(folder), 1, 4)
        assert len(run(folder, 4)) == 4
    write_daily_model(disturbed)
    for path in stream_of(disturbed).glob("*"):
        if path.name < f"{DAYS[1]}-002":  # in the checkpoint, so it need not be read again
            path.unlink()
    for folder in folders:
        assert [(one.day, one.result.number) for one in run(folder, 100)] == [(DAYS[1], 2), (DAYS[1], 3)]
    assert published(disturbed) == published(undisturbed)


def test_another_recipe_begins_the_day_again_under_another_run_id(tmp_path: Path, whole: Path) -> None:
    two_days(tmp_path)
    before = run(tmp_path, 3)
    after = run(tmp_path, 100, learning_rate=0.5)
    assert len(after) == 9 and {one.run_id for one in after}.isdisjoint(one.run_id for one in before)


def test_a_changed_stream_begins_a_new_run_with_a_snapshot(tmp_path: Path) -> None:
    """The same run id with other contents would corrupt receivers."""
    two_days(tmp_path)
    run(tmp_path, 3)
    for path in (tmp_path / "lake" / "online_checkpoints").rglob("manifest.json"):
        path.unlink()
    pq.write_table(rows_of(0, 7, 64), str(stream_of(tmp_path) / f"{DAYS[0]}-000.parquet"))
    after = run(tmp_path, 100)
    assert len(after) == 9 and after[0].run_id.endswith("-2")
    receiver = Receiver(SyncFolder.at(tmp_path / "sync"), "server")
    receiver.poll()
    assert receiver.status.run_id == after[-1].run_id and receiver.status.version == 10


def test_slices_after_the_checkpoint_are_replayed_or_lost_as_the_recipe_says(tmp_path: Path) -> None:
    """A crash after the third slice, with a checkpoint after the second."""
    left = {}
    for restart in ("replay", "snapshot"):
        (tmp_path / restart).mkdir()
        two_days(tmp_path / restart)
        crashed = run(tmp_path / restart, 100, crash_after=3, restart=restart)
        rest = run(tmp_path / restart, 100, restart=restart)
        left[restart] = [(one.day, one.result.number) for one in rest]
        lost = Lake.at(tmp_path / restart / "lake").manifest(STAGE, SPEC.name, DAYS[0])["lost_slices"]
        assert lost == (restart == "snapshot") and len(crashed) == 3
        assert (rest[0].run_id == crashed[0].run_id) == (restart == "replay")
    assert left["replay"] == [*((DAYS[0], n) for n in range(2, 8)), (DAYS[1], 0)]
    assert left["snapshot"] == left["replay"][1:]


def test_a_day_that_is_over_is_landed_or_the_reason_is_given(tmp_path: Path) -> None:
    messages: list[str] = []
    run(two_days(tmp_path, files=2), 100, messages.append)
    assert messages[0].startswith(f"{DAYS[0]} is over; its rows were not written to the landing folder, because source.files")


def test_what_a_kill_at_the_end_of_a_day_leaves_is_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_days(tmp_path, files=2)

    def killed(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArrivingDay, "discard", killed)
        run(tmp_path, 100)
    taken, lake = stream_of(tmp_path).parent / "taken" / "dlrm", Lake.at(tmp_path / "lake")
    stage = "online_checkpoints/dlrm"
    assert (taken / DAYS[0]).exists() and [name for name in lake.days(stage, SPEC.name) if name.startswith(DAYS[0])]
    run(tmp_path, 100)
    assert not (taken / DAYS[0]).exists()
    assert not [name for name in lake.days(stage, SPEC.name) if name.startswith(DAYS[0])]


def test_late_rows_do_not_stop_a_day_with_feature_tables(tmp_path: Path) -> None:
    stream_of(tmp_path).mkdir(parents=True)
    for number, first in enumerate((0, 32)):  # the second file begins before the end of the first one
        pq.write_table(rows_of(0, first, 64), str(stream_of(tmp_path) / f"{number}.parquet"))
    done = run(tmp_path, 100, spec=COUNTED)
    assert [len(one.result.labels) for one in done] == [64, 33]
    assert done[-1].quarantined == {OUT_OF_ORDER: 31}


def test_a_day_after_days_without_rows_continues_the_newest_online_day(tmp_path: Path) -> None:
    write_files(stream_of(tmp_path), 0, 2)
    pq.write_table(rows_of(3, 0, 64), str(stream_of(tmp_path) / "2026-01-04-000.parquet"))
    done = run(tmp_path, 100)
    assert [one.day for one in done] == [DAYS[0], DAYS[0], "2026-01-04"]
    assert len({one.run_id for one in done}) == 1 and [one.published.version for one in done] == [1, 2, 4]


def test_a_day_from_the_daily_model_does_not_wait_for_the_night(tmp_path: Path) -> None:
    """At midnight the lake has the daily model of the day before yesterday."""
    write_files(stream_of(tmp_path), 0, 1)
    run(tmp_path, 100, base="daily")
    write_daily_model(tmp_path)
    write_files(stream_of(tmp_path), 1, 1)
    pq.write_table(rows_of(2, 0, 64), str(stream_of(tmp_path) / "2026-01-03-000.parquet"))
    done = run(tmp_path, 100, base="daily")
    assert [one.day for one in done] == [DAYS[1], "2026-01-03"]
    assert Lake.at(tmp_path / "lake").manifest(STAGE, SPEC.name, DAYS[1])["base"] == f"tuned_models/dlrm/{DAYS[0]}"
    saved = Lake.at(tmp_path / "lake").manifest("online_checkpoints/dlrm", SPEC.name, "2026-01-03.0")
    assert saved["identity"]["start"] == f"tuned_models/dlrm/{DAYS[0]}"


def test_what_was_quarantined_before_the_first_row_is_counted(tmp_path: Path) -> None:
    stream_of(tmp_path).mkdir(parents=True)
    (stream_of(tmp_path) / "0.parquet").write_bytes(b"no rows")
    write_files(stream_of(tmp_path), 0, 1)
    (done,) = run(tmp_path, 100)
    assert done.quarantined.total() == 1


def test_slices_of_an_earlier_attempt_are_not_lost_again(tmp_path: Path) -> None:
    """With `restart: snapshot`, a day continues after the slices that were taken since the checkpoint, and only after these."""
    write_files(stream_of(tmp_path), 0, 8)
    run(tmp_path, 6, learning_rate=0.5, restart="snapshot")
    assert [one.result.number for one in run(tmp_path, 2, restart="snapshot")] == [0, 1]
    assert [one.result.number for one in run(tmp_path, 100, restart="snapshot")] == list(range(2, 8))


def test_a_kill_while_a_slice_is_written_does_not_stop_the_next_start(tmp_path: Path) -> None:
    write_files(stream_of(tmp_path), 0, 3)
    run(tmp_path, 2)
    unfinished = stream_of(tmp_path).parent / "taken" / "dlrm" / DAYS[0] / ".000002.parquet.part"
    unfinished.write_bytes(b"PAR1")
    assert len(run(tmp_path, 100)) == 1
    assert not unfinished.exists()


def test_a_missing_slice_of_a_checkpoint_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_files(stream_of(tmp_path), 0, 3)
    run(tmp_path, 2)
    (stream_of(tmp_path).parent / "taken" / "dlrm" / DAYS[0] / "000001.parquet").unlink()
    with pytest.raises(LostFile, match=rf"000001\.parquet: .* delete .*online_checkpoints/dlrm/made/{DAYS[0]}\.\*"):
        run(tmp_path, 100)
    for path in (tmp_path / "lake/online_checkpoints/dlrm/made").glob(f"{DAYS[0]}.*"):
        shutil.rmtree(path)
    assert len(run(tmp_path, 100)) == 3


def test_the_manifest_says_how_late_joined_examples_are_scored(tmp_path: Path) -> None:
    spec, root = feed(), stream_folder(UPath(tmp_path), "feed")
    root.mkdir(parents=True)
    schema = raw_schema(spec.examples_log)
    for number, at in enumerate((FEED_START, FEED_START + 86_400_000_000)):
        values = {"event_time": at + np.arange(20), "request": [f"r{n}" for n in range(20)], "clicked": np.arange(20) % 2}
        columns = [
            pa.nulls(20, field.type)
            if pa.types.is_list(field.type)
            else pa.array(values.get(field.name, np.arange(20)), field.type)
            for field in schema
        ]
        pq.write_table(pa.table(columns, schema=schema), str(root / f"{number}.parquet"))
    options = ArrivingOptions(load_recipe("dlrm", {"model": {"embedding_dim": 4, "bottom": [4], "top": [4]}}))
    lake, sync = Lake.at(tmp_path / "lake"), SyncFolder.at(tmp_path / "sync")
    stream = StreamFolder.of(spec, root)
    done = list(follow(spec, lake, stream, sync, tmp_path, lambda seconds: seconds > 0, "dlrm", options))
    assert len(done) == 2
    waits = (2 * 60 + 10) * 60  # the longest wait of a label, and the lateness
    assert lake.manifest(STAGE, "feed", "2026-03-01")["scored_after_seconds"] == waits


def test_ctrl_c_stops_between_files_without_usable_rows(tmp_path: Path) -> None:
    write_files(stream_of(tmp_path), 0, 1)
    for number in range(3):
        (stream_of(tmp_path) / f"{DAYS[0]}-9{number}.parquet").write_bytes(b"no rows")
    assert len(run(tmp_path, 1)) == 1
    quarantine = tmp_path / "stream" / SPEC.name / "quarantine"
    assert not quarantine.exists()
    run(tmp_path, 0)
    assert len(list(quarantine.iterdir())) == 1


def test_a_second_trainer_is_refused(tmp_path: Path) -> None:
    two_days(tmp_path)
    with Lake.at(tmp_path / "lake").write(STAGE, SPEC.name, DAYS[0]) as staging:
        with pytest.raises(BusyPartition, match="is being written by another run"):
            run(tmp_path, 100)
        Lake.write_manifest(staging, {})


def kill_at_random_moments(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    command = [sys.executable, "-m", "tests.helpers.arriving", str(folder), "1000"]
    for _ in range(kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        begun = time.monotonic()
        checkpoint = folder / "sync" / "head.json"
        while process.poll() is None and not checkpoint.exists() and time.monotonic() - begun < 60:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 4.0))
        process.kill()
        process.wait()
    subprocess.run(command, check=True)


@pytest.mark.soak
@pytest.mark.slow
def test_a_trainer_that_is_killed_fifty_times_loses_nothing(tmp_path: Path) -> None:
    """Each start is a new process. `make test` kills it twice; see `test_killed_pair` for kills of trainer and receiver."""
    kills, whole, killed = min(50, 2 * TRIALS), tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        two_days(folder, files=8 * kills)
    run(whole, 1000)
    kill_at_random_moments(killed, kills, SEED)
    assert contents(killed) == contents(whole) and published(killed) == published(whole)
