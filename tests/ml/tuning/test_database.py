from __future__ import annotations

import multiprocessing
import stat
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.database import Database, SchemaMismatch
from tests.helpers.tuning import sqlite

FIRST = {
    **{"client": 1, "name": "DLRM", "kind": "offline", "state": "active", "created": 0, "updated": 0},
    **{"parameters": [], "metrics": [], "conditionals": [], "linear_constraints": []},
}


def test_a_database_of_another_schema_version_is_refused(address: str) -> None:
    with Database(address).transaction() as connection:
        connection.execute(schema.versions.update().values(version=schema.VERSION + 1))
    with pytest.raises(SchemaMismatch, match=f"schema version {schema.VERSION + 1}, but this program reads version"):
        Database(address)


def test_a_database_of_the_first_schema_version_is_continued(address: str) -> None:
    with Database(address).transaction() as connection:
        made = connection.execute(schema.experiments.insert().values(FIRST))
        ids = {"experiment": made.inserted_primary_key[0], "assignments": {}, "values": {"auc": {"value": 0.7}}, "created": 0}
        connection.execute(schema.observations.insert().values(ids))
        schema.suggestion_checkpoints.drop(connection)
        connection.exec_driver_sql("ALTER TABLE observations DROP COLUMN stopped")
        connection.execute(schema.versions.update().values(version=1))
    for _ in range(2):
        with Database(address).transaction() as connection:
            assert connection.scalar(sa.select(schema.versions.c.version)) == schema.VERSION
            row = connection.execute(sa.select(schema.observations)).one()
            assert (row.stopped, row.failed, row._mapping["values"]) == (False, False, {"auc": {"value": 0.7}})
            assert connection.execute(sa.select(schema.suggestion_checkpoints)).all() == []


def test_opening_again_keeps_the_rows(address: str) -> None:
    with Database(address).transaction() as connection:
        connection.execute(schema.clients.insert().values(name="second", created=0))
    with Database(address).transaction(write=False) as connection:
        assert connection.scalars(sa.select(schema.clients.c.name).order_by(schema.clients.c.id)).all() == [
            "evergreen",
            "second",
        ]


def test_an_exception_rolls_back(address: str) -> None:
    database = Database(address)
    with pytest.raises(RuntimeError), database.transaction() as connection:
        connection.execute(schema.clients.insert().values(name="second", created=0))
        raise RuntimeError
    with database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.clients)) == 1


@pytest.mark.parametrize("address", ["mysql://localhost/tuning", "sqlite://"])
def test_other_databases_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected the path of a SQLite file, or a URL of PostgreSQL"):
        Database(address)


def test_other_users_cannot_read_the_file(tmp_path: Path) -> None:
    Database(tmp_path / "tuning.db")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ModuleNotFoundError, match=r"PostgreSQL needs psycopg: pip install 'evergreen\[postgres\]'"):
        Database("postgresql://localhost/tuning")


def _open(address: str) -> None:
    with Database(address).transaction() as connection:
        connection.execute(schema.clients.insert().values(name="worker", created=0))


def test_processes_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    address = sqlite(tmp_path)
    workers = [multiprocessing.get_context("spawn").Process(target=_open, args=(address,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with Database(address).transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.clients)) == 5


def test_a_forked_process_opens_its_own_connections(address: str) -> None:
    database = Database(address)
    with database.transaction(write=False) as connection:
        connection.execute(sa.select(schema.clients))
    child = multiprocessing.get_context("fork").Process(target=_write, args=(database,))
    child.start()
    child.join()
    with database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.clients)) == 2


def _write(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(schema.clients.insert().values(name="child", created=0))
