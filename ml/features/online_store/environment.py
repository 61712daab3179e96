"""The files of a store: generations, of which one is current, each an LMDB environment.

    <folder>/current            name of the generation that is read
    <folder>/<generation>/      an LMDB environment
    <folder>/writer.lock        held by the process that writes

A store is rebuilt in a new generation, which becomes current when it is complete. Readers then open the new one.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb

from ml.locks import exclusive

CURRENT = "current"
EXAMPLES, IMPRESSIONS = "examples", "impressions"
MAX_BYTES = 1 << 38
"""Most bytes of a store. LMDB reserves as much address space; the file has only the size that it needs."""
_LOCK = threading.Lock()


class NoStore(FileNotFoundError):
    """There is no online store in the folder."""


class StoreInUse(RuntimeError):
    """Another process writes the store."""


@dataclass(frozen=True, eq=False)
class Environment:
    """An open LMDB environment.

    Attributes:
        env: The environment.
        chunks: Database of chunks, see `ml.features.online_store.chunks`.
        words: Database of texts by hash.
        meta: Database of the position, the fingerprint and counters.
    """

    env: lmdb.Environment
    chunks: Any
    words: Any
    meta: Any


_OPEN: WeakValueDictionary[str, Environment] = WeakValueDictionary()


def store_folder(home: str | Path, dataset: str, stream: str = EXAMPLES) -> Path:
    """Return the folder of a dataset's store.

    Args:
        home: The Evergreen home.
        dataset: Name of the dataset.
        stream: The folder of the stream that the store follows: `examples`, whose store is `<home>/online_store/<dataset>`, or
            `impressions`, whose store is `<home>/online_store/<dataset>.impressions`.
    """
    return Path(home) / "online_store" / (dataset if stream == EXAMPLES else f"{dataset}.{stream}")


def open_environment(folder: Path) -> Environment:
    """Open the environment of a generation; LMDB allows one in a process, which all its readers and its writer share."""
    with _LOCK:
        name = f"{os.getpid()} {folder.resolve()}"  # an environment must not be used after a fork
        if (held := _OPEN.get(name)) is None:
            folder.mkdir(parents=True, exist_ok=True)
            # Without metasync, a power failure can undo the last transaction, with its position. A kill undoes nothing.
            env = lmdb.open(str(folder), map_size=MAX_BYTES, max_dbs=3, max_readers=1024, metasync=False)
            held = Environment(env, *(env.open_db(db) for db in (b"chunks", b"words", b"meta")))
            _OPEN[name] = held
        return held


def current_generation(folder: Path) -> Path:
    """Return the folder of the generation that is read. Raises `NoStore`."""
    try:
        return folder / (folder / CURRENT).read_text()
    except FileNotFoundError as error:
        raise NoStore(f"{folder}: there is no online store; start its follower first: `make store`") from error


def new_generation(folder: Path) -> Path:
    """Return the folder of a new generation, and delete incomplete ones of killed processes."""
    held = (folder / CURRENT).read_text() if (folder / CURRENT).exists() else None
    for other in folder.iterdir():
        if other.is_dir() and other.name != held:
            shutil.rmtree(other)
    return folder / uuid.uuid4().hex[:12]


def make_current(generation: Path) -> None:
    """Let readers use a generation from their next look-up on, and delete the others."""
    folder = generation.parent
    staged = folder / f".{CURRENT}.{os.getpid()}"
    staged.write_text(generation.name)
    staged.replace(folder / CURRENT)
    for other in folder.iterdir():
        if other.is_dir() and other != generation:
            shutil.rmtree(other)


def only_writer(folder: Path) -> AbstractContextManager[None]:
    """Exclude other writers inside the block. The lock is released if the process is killed."""
    error = StoreInUse(f"{folder} is written by another process; stop its follower first")
    return exclusive(folder / "writer.lock", error)
