"""A receiver in a process of its own, which is killed and started again. Imports are done once: each start is a fork.

Called with the sync folder, the file of the row history, the folder of reports, a seed and the number of kills. A child follows
the folder and reads rows in another thread. Each row must be the trainer's row of a version that may be served at that time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from threading import Event, Thread

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.artifacts.bundle import Bundle
from ml.artifacts.weights import quantised_of
from ml.embeddings.inference.quantised import QuantisedBags
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver

IDS = torch.arange(-3, 220)


def read_rows(bundle: Bundle, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Read the rows of ids, int64 [N], in all quantised tables, float32 [N, sum of D]."""
    model = bundle.predictor.model  # type: ignore[attr-defined]
    return torch.cat([_read(bags, ids) for _, bags in sorted(quantised_of(model).items())], 1)


def _read(bags: QuantisedBags, ids: torch.Tensor) -> torch.Tensor:
    keys = [feature for config in bags.embedding_bag_configs() for feature in config.feature_names]
    features = KeyedJaggedTensor(keys, ids.repeat(len(keys)), lengths=torch.ones(len(keys) * len(ids), dtype=torch.int64))
    return bags(features).values()


def check(rows: torch.Tensor, history: torch.Tensor, first: int, last: int) -> None:
    """Raise unless each row, in units of 4 weights, is the one of a version in [first, last]."""
    parts = rows.unflatten(1, (-1, 4))  # [N, T, 4]
    known = history[first : last + 1].unflatten(2, (-1, 4))  # [V, N, T, 4]
    if not bool((known == parts).all(3).any(0).all()):
        raise AssertionError(f"a row of no version in {first}..{last}")


def serve(root: str, history: torch.Tensor, reports: Path, newest: int) -> None:
    """Follow the folder until the newest version is served. Faults are written to a file."""
    receiver, stop = Receiver(SyncFolder.at(root), "killed"), Event()

    def read() -> None:
        while not stop.is_set():
            bundle, first = receiver.bundle, receiver.status.version
            assert first is not None
            rows = read_rows(bundle)
            last = receiver.status.version
            assert last is not None
            # A delta is visible before the version is reported.
            try:
                check(rows, history, min(first, last), min(max(first, last) + 1, len(history) - 1))
            except AssertionError as error:
                (reports / f"fault-{os.getpid()}").write_text(str(error))
                return

    receiver.load()
    reader = Thread(target=read)
    reader.start()
    while receiver.status.version != newest:
        receiver.poll()
        time.sleep(0.002)
    stop.set()
    reader.join()
    check(read_rows(receiver.bundle), history, newest, newest)
    (reports / "done").write_text(str(receiver.status.version))


def main() -> None:
    root, tensors, reports, seed, kills = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    history = torch.load(tensors, weights_only=True)
    draw = random.Random(seed)
    newest = len(history) - 1
    for kill in range(kills + 1):
        child = os.fork()
        if not child:
            try:
                serve(root, history, reports, newest)
            except BaseException as error:
                (reports / f"fault-{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
                os._exit(1)
            os._exit(0)
        if kill < kills:
            time.sleep(draw.uniform(0.0, 0.4))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
