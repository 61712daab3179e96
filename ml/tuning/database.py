"""Connections to the tables of the tuning service, one transaction at a time."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from ml.tuning import schema
from ml.tuning.errors import ApiError
from ml.tuning.migrations import migrate

BUSY_SECONDS = 60  # how long a writer waits for other writers of the same SQLite file, or of the same experiment
CONNECT_SECONDS = 10  # how long a connection to PostgreSQL may take to open
MAX_CONNECTIONS = 40  # of one process to PostgreSQL, which accepts 100 by default; as many as the server has threads
_SCHEME = re.compile(r"(postgres|postgresql|sqlite|mysql)(\+\w+)?:")
_INSTALL_LOCK = 0x45566572  # key of PostgreSQL's advisory lock under which tables are created


_log = logging.getLogger("evergreen")


class SchemaMismatch(Exception):
    """A database that another version of Evergreen wrote."""


class Database:
    """A SQLite file or a PostgreSQL database with the tables of `ml.tuning.schema`.

    Several processes can use the same database at once. Connections are not shared between processes, so a process can fork.

    Args:
        address: Path of a SQLite file, which is created with its folder, or a URL such as `postgresql://user@host/name`.

    Raises:
        SchemaMismatch: The tables have another schema version.
        ApiError: With status 503 if the database cannot be reached.

    Example:
        >>> import tempfile
        >>> database = Database(Path(tempfile.mkdtemp()) / "tuning.db")
        >>> with database.transaction() as connection:
        ...     connection.scalar(sa.select(schema.versions.c.version)) == schema.VERSION
        True
    """

    def __init__(self, address: str | Path) -> None:
        self.url = _url(address)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _sqlite(self.url) if self.is_sqlite else _postgres(self.url)
        self._process = os.getpid()
        self._install()

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that is committed at the end, or rolled back after an exception.

        Args:
            write: Whether the transaction writes. A writer of a SQLite file waits for all other writers before it starts, so
                what it reads stays true until its commit. On PostgreSQL, lock the experiment first.

        Raises:
            ApiError: With status 429 if other writers kept the database busy, so that clients try again; with 503 if the
                database cannot be reached or used.
        """
        if os.getpid() != self._process:
            self._engine.dispose(close=False)  # the parent process owns the sockets
            self._process = os.getpid()
        try:
            with self._engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, PoolTimeout) or _is_contention(error):
                raise ApiError(429, "The database is busy; try again") from error
            if _is_unavailable(error):
                _log.error("%s: the database is unavailable: %s", self.url.render_as_string(), error.orig)
                raise ApiError(503, "The tuning service cannot reach its database; try again later") from error
            raise

    def close(self) -> None:
        """Close idle connections."""
        self._engine.dispose()

    def _install(self) -> None:
        """Create the tables of a new database, or migrate the tables of an earlier version."""
        with self.transaction() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_INSTALL_LOCK)))
            if not sa.inspect(connection).has_table(schema.versions.name):
                schema.metadata.create_all(connection)
                connection.execute(schema.versions.insert().values(version=schema.VERSION))
                connection.execute(schema.clients.insert().values(name="evergreen", created=time.time()))
            version = migrate(connection, connection.scalar(sa.select(schema.versions.c.version)) or 0)
        if version != schema.VERSION:
            raise SchemaMismatch(
                f"{self.url.render_as_string()} has schema version {version}, but this program reads version {schema.VERSION}. "
                "Use the version of Evergreen that wrote it, or another database."
            )


def _url(address: str | Path) -> sa.URL:
    """Return SQLAlchemy's URL, with a driver that is installed."""
    if "://" not in str(address) and not _SCHEME.match(str(address)):
        path = Path(address).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds tokens; SQLite gives the files beside it the same mode
        return sa.URL.create("sqlite", database=str(path))
    if "://" not in str(address):  # not meant as a file in a folder `postgresql:`
        raise ValueError(f"{address}: expected two slashes behind the colon, as in postgresql://user@host/name")
    url = sa.make_url(str(address))
    if url.get_backend_name() in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url
    raise ValueError(f"{url.render_as_string()}: expected the path of a SQLite file, or a URL of PostgreSQL")


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:
        connection.isolation_level = None  # transactions are started below, not by the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write", True) else "BEGIN")

    return engine


def _postgres(url: sa.URL) -> sa.Engine:
    waits = {"options": f"-c lock_timeout={round(1000 * BUSY_SECONDS)}", "connect_timeout": CONNECT_SECONDS}
    waits = {name: value for name, value in waits.items() if name not in url.query}
    try:
        return sa.create_engine(
            url, pool_pre_ping=True, max_overflow=MAX_CONNECTIONS - 5, pool_timeout=BUSY_SECONDS, connect_args=waits
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"PostgreSQL needs {error.name}: pip install 'evergreen[postgres]'") from error


def _is_contention(error: DBAPIError) -> bool:
    """Whether the same transaction can succeed when it is repeated."""
    if error.connection_invalidated:
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state in ("40001", "40P01", "55P03") or "database is locked" in str(error.orig)


def _is_unavailable(error: DBAPIError) -> bool:
    """Whether the database cannot be reached, shuts down, accepts no more connections, or has no usable storage."""
    if error.connection_invalidated:
        return True
    if name := getattr(error.orig, "sqlite_errorname", None):
        return name.startswith(("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY"))
    state = getattr(error.orig, "sqlstate", None)
    # An error of connecting has no state. The classes: 08 connection, 28 authorization, 53 resources, 57P operator, 58 system.
    return isinstance(error, OperationalError) and (state is None or state.startswith(("08", "28", "53", "57P", "58")))
