"""A trainer of arriving rows and a receiver that are killed at random moments while files arrive. Each start is a fork.

Called with the folder of the run, the file of the row history, a seed and the number of kills. The receiver reads rows in a
second thread; each must be the row of a version that may be served at that time. `summary.json` has what happened, and
`fault-*` what was wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import torch

from ml.sync.folder import SyncFolder
from ml.sync.manifest import PackageManifest
from ml.sync.packages import Packages
from ml.sync.receiver import Receiver
from tests.helpers.arriving import run
from tests.helpers.receiver_process import check, read_rows

LONGEST = 3.0  # seconds until a kill
LIMIT = 300.0


def history_of(root: Path, run_id: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the rows of every version of a run, float32 [V, N, sum of D], and their ids, int64 [N], from its packages."""
    packages = Packages(SyncFolder.at(root), run_id)
    served, bundle = packages.bundle(packages.snapshots()[-1])
    newest = packages.folder.versions(run_id, "delta")[-1]
    deltas = [packages.folder.manifest(run_id, "delta", version) for version in range(served.version + 1, newest + 1)]
    ids = torch.cat([torch.arange(-3, 40), *(_ids(packages, manifest) for manifest in deltas)]).unique()
    rows = [read_rows(bundle, ids)]
    for _ in deltas:
        served, delta = packages.delta(served)
        bundle.apply(delta)
        rows.append(read_rows(bundle, ids))
    return torch.stack(rows), ids


def _ids(packages: Packages, manifest: PackageManifest) -> torch.Tensor:
    before = manifest.model_copy(update={"version": manifest.version - 1})
    _, delta = packages.delta(before)
    return torch.cat([table.keys for own in delta.tables.values() for table in own.tables.values()])


def train(root: Path) -> None:
    """Train on what arrives, until a signal."""
    while True:
        run(root, 1_000_000)
        time.sleep(0.02)


def serve(root: Path, history: torch.Tensor, ids: torch.Tensor) -> None:
    """Follow the folder until the newest version is served."""
    receiver, stop, newest = Receiver(SyncFolder.at(root / "sync"), "killed"), Event(), len(history) - 1

    def read() -> None:
        while not stop.is_set():
            bundle, first = receiver.bundle, receiver.status.version
            rows = read_rows(bundle, ids)
            last = receiver.status.version
            assert first is not None and last is not None
            # A delta is visible before the version is reported.
            try:
                check(rows, history, min(first, last), min(max(first, last) + 1, newest))
            except AssertionError as error:
                (root / f"fault-{os.getpid()}").write_text(str(error))
                return

    while receiver.status.version is None:
        receiver.poll()
        time.sleep(0.01)
    reader = Thread(target=read)
    reader.start()
    while receiver.status.version != newest:
        receiver.poll()
        time.sleep(0.005)
    stop.set()
    reader.join()
    check(read_rows(receiver.bundle, ids), history, newest, newest)
    (root / "refused.json").write_text(json.dumps(receiver.status.refused))


def start(root: Path, work: Callable[[], None]) -> int:
    """Fork a child that works. A fault is written to a file."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        (root / f"fault-{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def main() -> None:
    root, tensors, seed, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    history, ids = torch.load(tensors, weights_only=True)
    draw, killed = random.Random(seed), Counter[str]()
    works: dict[str, Callable[[], None]] = {"trainer": lambda: train(root), "receiver": lambda: serve(root, history, ids)}
    children = {role: start(root, work) for role, work in works.items()}
    aside = sorted((root / "aside").iterdir())
    for kill in range(kills):
        for path in aside[kill * len(aside) // kills : (kill + 1) * len(aside) // kills]:
            path.rename(root / "stream" / "made" / "examples" / path.name)
        time.sleep(draw.uniform(0.0, LONGEST))
        role = draw.choice(sorted(works))
        os.kill(children[role], signal.SIGKILL)
        os.waitpid(children[role], 0)
        killed[role] += 1
        children[role] = start(root, works[role])
    folder, began = SyncFolder.at(root / "sync"), time.monotonic()
    head = folder.head()
    behind = len(history) - 1 - (head.version if head else 0)
    while not (done := os.waitpid(children["receiver"], os.WNOHANG)[0]) and time.monotonic() - began < LIMIT:
        time.sleep(0.02)
    for role in ("trainer",) if done else ("trainer", "receiver"):
        os.kill(children[role], signal.SIGKILL)
        os.waitpid(children[role], 0)
    summary = {"kills": killed, "recovered": bool(done), "behind": behind, "seconds": time.monotonic() - began}
    (root / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
