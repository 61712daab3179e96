"""The files in which the workers of a service count for `/metrics`, in memory, with pages that are reserved.

The files are mapped: a page that the system cannot provide when it is written would kill the process. So they are in a file
system of memory, apart from the home and its disk, and have their pages before a worker starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import values

ROOT = Path("/dev/shm")
KINDS = ("counter", "histogram")
BYTES = 1 << 19
"""Reserved bytes of a file, which is enough for 3,000 counters. A larger file grows without a reserve."""
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def count_together(folder: Path, worker: int) -> None:
    """Let the counters and histograms of this process, which are created later, count in files of a folder.

    Args:
        folder: The folder, from `counter_files`.
        worker: Number of this process among the workers. It continues the counts of an earlier one with its number.
    """
    os.environ[VARIABLE] = str(folder)  # of this process alone: a folder of the user's is neither read nor written
    values.ValueClass = values.MultiProcessValue(lambda: worker)


@contextmanager
def counter_files(stream: Path, workers: int, root: Path = ROOT) -> Iterator[Path]:
    """Create the files, with the names that prometheus_client gives them, and remove them at the end.

    Args:
        stream: The dataset's stream folder. One service at a time may have it: what an earlier one has left is removed.
        workers: Number of workers.
        root: Folder in memory.

    Yields:
        The folder of the files.

    Raises:
        OSError: There is too little memory, or another user has a folder of the same name.
    """
    place = stream.stat()
    folder = root / f"evergreen-counters-{place.st_dev:x}-{place.st_ino:x}"
    shutil.rmtree(folder, ignore_errors=True)  # of a service that was killed
    try:
        try:
            folder.mkdir(mode=0o700)
            for worker in range(workers):
                for kind in KINDS:
                    _reserve(folder / f"{kind}_{worker}.db")
        except OSError as error:
            size = workers * len(KINDS) * BYTES / (1 << 20)
            text = f"the counters of {workers} processes need {size:.0f} MiB of memory in {folder}: {error.strerror}"
            raise OSError(error.errno, text) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reserve(file: Path) -> None:
    with file.open("xb") as opened:
        os.posix_fallocate(opened.fileno(), 0, BYTES)
