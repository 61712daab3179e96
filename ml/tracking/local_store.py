"""MLflow's local SQLite store: creates it, or migrates it to the schema of the installed MLflow, as a whole or not at all.

MLflow changes the schema of a store in place, statement by statement. If the process is killed halfway, or the disk is full, no
later MLflow can open the file. This module therefore writes to a second file beside the store and renames it. A store that an
interrupted MLflow left without rows is created again; a store with rows is never deleted.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ml.disk import fsync

if TYPE_CHECKING:
    from sqlalchemy import Engine

STORE = "mlflow.db"
_BUSY_SECONDS = 20.0
_NEVER_ROWS = ("alembic_version", "workspaces")  # tables of the schema itself; `experiments` has a default experiment
_log = logging.getLogger(__name__)


class StoreUnusable(RuntimeError):
    """MLflow's local store cannot be created, read or migrated; the message names the file and the way out."""


def check_home(home: Path, variable: str = "the folder of MLflow's store") -> Path:
    """Refuse folders whose path has a meaning of its own in the URL of a SQLite store (MLflow's and Dagster's).

    Args:
        home: The folder.
        variable: Name of the setting, for the message.

    Returns:
        `home`.

    Raises:
        ValueError: The path contains `?`, or `%` and two hexadecimal digits.

    >>> check_home(Path("/data/50% [new] #1"))
    PosixPath('/data/50% [new] #1')
    """
    if found := re.search(r"\?|%[0-9A-Fa-f]{2}", str(home)):
        raise ValueError(
            f"{variable}: {home} contains {found[0]!r}, which the URL of a SQLite database cannot have: rename the folder, or "
            "choose another"
        )
    return home


def store_uri(home: Path) -> str:
    """Return the SQLAlchemy URL of the store in a folder. Raises `ValueError` as `check_home` does."""
    return _uri(check_home(home).absolute() / STORE)


@contextmanager
def open_store(home: Path) -> Iterator[str]:
    """Yield the URL of a complete store, which is created or migrated first if necessary. Processes wait for each other.

    Args:
        home: Local folder of the store. It is created if it does not exist.

    Raises:
        StoreUnusable: The disk is full, or the store is damaged, of a newer MLflow, or cannot be migrated.
        ValueError: As `check_home`.

    Example:
        >>> import tempfile
        >>> with open_store(Path(tempfile.mkdtemp())) as uri:
        ...     uri.startswith("sqlite:////") and uri.endswith("/mlflow.db")
        True
    """
    uri = store_uri(home)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{STORE}.lock"):
        _complete(home.absolute() / STORE)
        yield uri  # MLflow adds the default experiment when it first opens the store


def _complete(path: Path) -> None:
    found, rows = _look(path)
    if found == _head():
        return
    if not rows:
        _replace(path, _create)
    elif found is None:
        raise _unusable(path, "it has no schema version, as after a migration that was interrupted")
    else:
        _migrate(path, found)


def _look(path: Path) -> tuple[str | None, bool]:
    """Return the revision of the schema (None if there is none), and whether the store has rows that somebody logged."""
    if not path.exists():
        return None, False
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as db:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            revisions = db.execute("SELECT version_num FROM alembic_version").fetchall() if "alembic_version" in tables else []
            found = revisions[0][0] if revisions else None
            return found, found != _head() and any(_has_rows(db, name) for name in tables)
    except sqlite3.OperationalError as error:
        raise _full(path, error) if _is_full(error) else _unusable(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise _unusable(path, str(error)) from error


def _has_rows(db: sqlite3.Connection, table: str) -> bool:
    quoted = '"' + table.replace('"', '""') + '"'
    if table.removeprefix("_alembic_tmp_") in _NEVER_ROWS or table.startswith("sqlite_"):
        return False
    where = " WHERE name != 'Default'" if table.removeprefix("_alembic_tmp_") == "experiments" else ""
    return db.execute(f"SELECT 1 FROM {quoted}{where} LIMIT 1").fetchone() is not None


def _migrate(path: Path, found: str) -> None:
    from alembic.util import CommandError

    before = path.with_name(f"{STORE}.{found}")

    def upgraded(target: Path) -> None:
        from mlflow.store.db.utils import _upgrade_db

        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        with _engine(target) as engine:
            _upgrade_db(engine)
        before.unlink(missing_ok=True)
        try:
            os.link(path, before)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, before)

    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")  # no other process writes to the old file meanwhile
        try:
            _replace(path, upgraded)
        except CommandError as error:  # a revision that this MLflow does not know
            raise _unusable(path, f"a newer MLflow wrote it ({error}); install that version") from error
    _log.warning("MLflow's store %s was migrated to the installed MLflow; %s is a copy from before", path, before)


def _create(target: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables

    with _engine(target) as engine:
        _initialize_tables(engine)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside the store, and rename it to the store."""
    from sqlalchemy.exc import SQLAlchemyError

    aside = path.with_name(f"{STORE}.new")
    _delete(aside)
    try:
        write(aside)
        fsync(aside)
        for suffix in ("-journal", "-wal", "-shm"):  # of a file that is gone; SQLite would apply them to the new one
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        aside.replace(path)
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", error)
        raise _full(path, cause) if _is_full(cause) else _unusable(path, str(cause)) from error
    finally:
        _delete(aside)


def _delete(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _engine(path: Path) -> Iterator[Engine]:
    """Yield an engine that closes its connections, since SQLite does not expect an open file to be renamed."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(_uri(path), poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


@cache
def _head() -> str:
    """Return the revision of the installed MLflow's schema."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return _get_latest_schema_revision()


def _uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _is_full(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _full(path: Path, error: BaseException) -> StoreUnusable:
    free = shutil.disk_usage(path.parent).free
    return StoreUnusable(
        f"MLflow's store {path} cannot be written: {error} ({free / 1e6:,.1f} MB free). Free space on that disk, or set "
        "EVERGREEN_HOME to another folder, and run again"
    )


def _unusable(path: Path, reason: str) -> StoreUnusable:
    return StoreUnusable(
        f"MLflow's store {path} is not usable: {reason}. Restore it from a copy, or move it away; the next run then creates an "
        "empty one, and trained models are not affected"
    )
