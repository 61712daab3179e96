"""Changes of the tables between schema versions, so that a database of an earlier version is continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from ml.tuning import schema


def _stopped_trials(connection: sa.Connection) -> None:
    """Version 2: checkpoints of suggestions, and observations of trials that were stopped early."""
    schema.suggestion_checkpoints.create(connection)
    _add_column(connection, schema.observations.c.stopped)


STEPS: Mapping[int, Callable[[sa.Connection], None]] = {1: _stopped_trials}
"""What brings the tables of a version to the next one."""


def migrate(connection: sa.Connection, version: int) -> int:
    """Bring the tables of an earlier version to this program's.

    Args:
        connection: A connection whose transaction excludes other writers.
        version: Version of the tables.

    Returns:
        The version of the tables, which is another one than `schema.VERSION` if there is no way there.
    """
    while version < schema.VERSION and version in STEPS:
        STEPS[version](connection)
        version += 1
        connection.execute(schema.versions.update().values(version=version))
    return version


def _add_column(connection: sa.Connection, column: sa.Column) -> None:
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
