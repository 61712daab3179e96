"""A feeder, a trainer and a receiver in processes of their own, whose memory is sampled while events are replayed.

The trainer first takes a day as fast as it can, so that the tables know their ids. Then the feeder
replays the next day at a pace, and the first day is sealed. To see the figures:

python -m tests.helpers.memory_run FOLDER HOURS SPEED
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread

import numpy as np
from upath import UPath

from ml.artifacts.snapshot import digest
from ml.catalog.load import load_catalog
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.synthetic import simulate
from ml.online.arriving import follow
from ml.online.arriving_day import ArrivingOptions
from ml.online.feeder import feed_day
from ml.online.stream import StreamFolder, stream_folder
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.stages import tuned_models
from ml.sync.folder import SyncFolder
from ml.sync.lag import serving_lag
from ml.sync.receiver import Receiver
from ml.training.state import new_state
from ml.training.state_dict import save_snapshot

DATASET, MODEL, BEFORE, DAYS = "synthetic", "dlrm", "2026-01-01", ("2026-01-02", "2026-01-03")
SPEC = load_catalog()[DATASET]
ROLES = ("feeder", "trainer", "receiver")
MINUTES, WARM_MINUTES = 1.0, 30.0  # of event time in a file
REQUESTS, REQUEST_ROWS = 20, 100  # requests a second, and rows of a request


@dataclass
class MemoryRun:
    """Resident memory while the second day was replayed.

    Attributes:
        seconds: Wall-clock time of each sample since the replay began.
        mb: Resident memory of each process in MB at these times, by role.
        lag: Wall-clock seconds by which the receiver was behind, at these times.
        slices: Number of slices that were trained on.
    """

    seconds: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=lambda: {role: [] for role in ROLES})
    lag: list[float] = field(default_factory=list)
    slices: int = 0

    def slope(self, role: str, warm_up: float = 0.25) -> float:
        """Return the growth after the warm-up, a fraction of the samples, in MB an hour of wall time, by least squares."""
        first = int(len(self.seconds) * warm_up)
        return float(np.polyfit(np.array(self.seconds[first:]) / 3600, self.mb[role][first:], 1)[0])


def measure(root: Path, hours: float, speed: float, every: float = 4.0) -> MemoryRun:
    """Replay the first hours of the second day, after the same hours of the first, and sample memory.

    Args:
        root: An empty folder.
        hours: Hours of event time.
        speed: Pace of the second day as a multiple of real time.
        every: Seconds between two samples.
    """
    _prepare(root)
    spawn = multiprocessing.get_context("spawn")
    work = {"feeder": (_feed, (root, hours, speed)), "trainer": (_train, (root,)), "receiver": (_serve, (root,))}
    processes = {role: spawn.Process(target=target, args=args) for role, (target, args) in work.items()}
    folder, run = SyncFolder.at(root / "sync"), MemoryRun()
    try:
        for process in processes.values():
            process.start()
        _until(lambda: (root / "replay").exists(), processes)
        began = time.monotonic()
        while not (root / "replayed").exists():
            run.seconds.append(time.monotonic() - began)
            for role, process in processes.items():
                run.mb[role].append(_resident_mb(process))
            run.lag.append(max((one.seconds for one in serving_lag(folder)), default=0.0))
            time.sleep(every)
        files = math.ceil(hours * 60 / MINUTES)
        _until(lambda: _trained(root) >= files and _served(folder), processes)
        (root / "stop").touch()
        for process in processes.values():
            process.join(60)
        run.slices = _trained(root)
        return run
    finally:
        for process in processes.values():
            process.kill()


def _prepare(root: Path) -> None:
    """Write the logs of both days, and the state from which the trainer starts."""
    lake, landing = Lake.at(root / "lake"), root / "landing"
    landing.mkdir(parents=True)
    for day in DAYS:
        simulate.write_day(SPEC.log, day, landing)
        ingest_day(SPEC.log, day, str(landing), lake, LocalRunner())
    state = new_state(recipe_of(SPEC, MODEL), FeatureSchema.of(SPEC))
    state.begin_pass()
    state.end_pass()
    with lake.write(tuned_models(MODEL), DATASET, BEFORE) as staging:
        save_snapshot(state, staging)
        Lake.write_manifest(staging, {"digest": digest(staging), "fingerprint": state.schema.fingerprint})
    _stream(root).mkdir(parents=True)


def _feed(root: Path, hours: float, speed: float) -> None:
    """Write both days, the second one after the first was trained on."""
    lake, folder = Lake.at(root / "lake"), SyncFolder.at(root / "sync")
    warm = feed_day(SPEC, DAYS[0], lake, _stream(root), minutes=WARM_MINUTES)
    files = sum(1 for _ in itertools.islice(warm, math.ceil(hours * 60 / WARM_MINUTES)))
    while (head := folder.head()) is None or head.version < files:
        time.sleep(0.1)
    (root / "replay").touch()
    paced = feed_day(SPEC, DAYS[1], lake, _stream(root), minutes=MINUTES, speed=speed)
    for _ in itertools.islice(paced, math.ceil(hours * 60 / MINUTES)):
        pass
    (root / "replayed").touch()
    _waiting(root / "stop")(math.inf)


def _train(root: Path) -> None:
    lake, stream = Lake.at(root / "lake"), StreamFolder.of(SPEC, _stream(root))
    wait, options = _waiting(root / "stop"), ArrivingOptions(on_message=lambda text: None)
    with (root / "slices").open("a") as file:
        for done in follow(SPEC, lake, stream, SyncFolder.at(root / "sync"), str(root), wait, MODEL, options):
            if done.day == DAYS[1]:
                file.write(f"{done.result.number}\n")
                file.flush()


def _serve(root: Path) -> None:
    """Follow the sync folder, and predict at a steady rate."""
    receiver, stop = Receiver(SyncFolder.at(root / "sync"), "server"), Event()
    follower = Thread(target=receiver.follow, args=(stop, 0.2))
    follower.start()
    wait = _waiting(root / "stop")
    rows = raw_table(Lake.at(root / "lake"), DATASET, DAYS[1]).slice(0, 100 * REQUEST_ROWS).combine_chunks()
    requests = [rows.slice(first, REQUEST_ROWS).to_batches()[0] for first in range(0, len(rows), REQUEST_ROWS)]
    for number in itertools.count():
        if wait(1 / REQUESTS):
            break
        try:
            bundle = receiver.bundle
        except LookupError:
            continue
        bundle.predict(requests[number % len(requests)])
    stop.set()
    follower.join()


def _stream(root: Path) -> UPath:
    return stream_folder(UPath(root), DATASET)


def _trained(root: Path) -> int:
    """Return the number of slices of the second day that were trained on."""
    return len((root / "slices").read_text().splitlines())


def _served(folder: SyncFolder) -> bool:
    """Whether the receiver serves what was published."""
    head, done = folder.head(), folder.acknowledgements()
    return head is not None and bool(done) and all(one.version == head.version for one in done)


def _waiting(stop: Path) -> Callable[[float], bool]:
    """Return a function that waits some seconds and returns whether a file exists."""

    def wait(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not (found := stop.exists()) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return found

    return wait


def _until(reached: Callable[[], bool], processes: dict[str, BaseProcess]) -> None:
    limit = time.monotonic() + 600
    while not reached():
        stopped = [role for role, process in processes.items() if not process.is_alive()]
        if stopped or time.monotonic() > limit:
            raise RuntimeError(f"processes that have stopped: {stopped}; or the run takes too long")
        time.sleep(0.2)


def _resident_mb(process: BaseProcess) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    run = measure(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
    lines = [f"{run.slices} slices, {run.seconds[-1]:.0f} s, lag at most {max(run.lag):.1f} s, at the end {run.lag[-1]:.1f} s"]
    for role in ROLES:
        mb = run.mb[role]
        at = ", ".join(f"{mb[int(len(mb) * part)]:.0f}" for part in (0, 0.25, 0.5, 0.75, 0.999))
        lines.append(f"{role}: {at} MB; slope {run.slope(role):+.1f} MB/h; after half {run.slope(role, 0.5):+.1f} MB/h")
    sys.stdout.write("\n".join(lines) + "\n")
    (Path(sys.argv[1]) / "samples.json").write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
