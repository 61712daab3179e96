"""Tables of the tuning service, in SQLite or PostgreSQL.

A suggestion is stored before it is given out, and an observation before it is acknowledged; everything else that the service
knows is derived from these tables. Core experiments and AI experiments share all tables: `experiments.runs_only` tells them
apart, and a run refers to the suggestion it tries and to the observation it became.

Times are Unix seconds. JSON columns hold what the API shows. Deleted rows stay, so that ids are never used twice.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

VERSION = 2
"""Version of the tables. Earlier versions are migrated (`ml.tuning.migrations`), and later ones are refused."""

metadata = MetaData()

_ID = BigInteger().with_variant(Integer, "sqlite")
_JSON = JSON(none_as_null=True)


def _id() -> Column:
    return Column("id", _ID, primary_key=True, autoincrement=True)


def _refers(name: str, table: str, *, required: bool = True) -> Column:
    return Column(name, _ID, ForeignKey(f"{table}.id"), nullable=not required)


def _flag(name: str) -> Column:
    return Column(name, Boolean, nullable=False, default=False)


def _time(name: str, *, required: bool = True) -> Column:
    return Column(name, Float(53), nullable=not required)


versions = Table("evergreen_tuning", metadata, Column("version", Integer, nullable=False))

clients = Table("clients", metadata, _id(), Column("name", Text, nullable=False), _time("created"), sqlite_autoincrement=True)

tokens = Table(
    "tokens",
    metadata,
    Column("token", Text, primary_key=True),
    _refers("client", "clients"),
    Column("experiment", _ID, nullable=True),  # set for a token that gives access to one experiment
    _flag("development"),
    _time("created"),
    _time("expires", required=False),
)

projects = Table(
    "projects",
    metadata,
    Column("client", _ID, ForeignKey("clients.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("metadata", _JSON),
    _flag("deleted"),
    _time("created"),
    _time("updated"),
)

experiments = Table(
    "experiments",
    metadata,
    _id(),
    _refers("client", "clients"),
    Column("project", Text, nullable=True),
    _flag("runs_only"),  # created through the AI module
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),  # active or deleted
    _flag("development"),
    Column("parameters", _JSON, nullable=False),
    Column("metrics", _JSON, nullable=False),
    Column("conditionals", _JSON, nullable=False),
    Column("linear_constraints", _JSON, nullable=False),
    Column("tasks", _JSON),
    Column("budget", Float(53)),
    Column("bandwidth", Integer),
    Column("num_solutions", Integer),
    Column("metadata", _JSON),
    _time("created"),
    _time("updated"),
    Index("experiments_by_project", "client", "project"),
    sqlite_autoincrement=True,
)

suggestions = Table(
    "suggestions",
    metadata,
    _id(),
    _refers("experiment", "experiments"),
    Column("assignments", _JSON, nullable=False),
    Column("task", _JSON),
    Column("metadata", _JSON),
    Column("source", Text, nullable=False),  # engine, queue or caller
    Column("worker", Text),
    _time("deadline"),  # end of the lease
    Column("state", Text, nullable=False),  # open or closed
    _flag("deleted"),
    _time("created"),
    Index("suggestions_by_experiment", "experiment", "state"),
    sqlite_autoincrement=True,
)

suggestion_checkpoints = Table(
    "suggestion_checkpoints",
    metadata,
    Column("suggestion", _ID, ForeignKey("suggestions.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("values", _JSON, nullable=False),
    Column("metadata", _JSON),
    Column("stopping_reasons", _JSON),  # whether each rule of early stopping asked the trial to stop
    _time("created"),
)

queued_suggestions = Table(
    "queued_suggestions",
    metadata,
    _id(),
    _refers("experiment", "experiments"),
    Column("assignments", _JSON, nullable=False),
    Column("task", _JSON),
    Column("state", Text, nullable=False),  # open, served, deleted or outdated
    _time("created"),
    Index("queued_suggestions_by_experiment", "experiment", "state"),
    sqlite_autoincrement=True,
)

observations = Table(
    "observations",
    metadata,
    _id(),
    _refers("experiment", "experiments"),
    _refers("suggestion", "suggestions", required=False),
    Column("assignments", _JSON, nullable=False),
    Column("values", _JSON, nullable=False),
    _flag("failed"),  # also if it was stopped
    Column("stopped", Boolean, nullable=False, default=False, server_default=false()),  # early, on the advice of a checkpoint
    Column("task", _JSON),
    Column("metadata", _JSON),
    _flag("deleted"),
    _time("created"),
    Index("observations_by_experiment", "experiment", "deleted"),
    Index(
        "one_observation_per_suggestion",
        "suggestion",
        unique=True,
        sqlite_where=text("suggestion IS NOT NULL AND NOT deleted"),
        postgresql_where=text("suggestion IS NOT NULL AND NOT deleted"),
    ),
    sqlite_autoincrement=True,
)

training_runs = Table(
    "training_runs",
    metadata,
    _id(),
    _refers("client", "clients"),
    Column("project", Text, nullable=False),
    _refers("experiment", "experiments", required=False),
    _refers("suggestion", "suggestions", required=False),
    _refers("observation", "observations", required=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),  # active, completed or failed
    _flag("deleted"),
    _flag("favorite"),
    *(
        Column(name, _JSON)
        for name in (
            *("assignments", "assignments_meta", "assignments_sources", "values", "metadata", "sys_metadata", "dev_metadata"),
            *("model", "datasets", "source_code", "logs"),
        )
    ),
    _time("created"),
    _time("updated"),
    _time("completed", required=False),
    Index("training_runs_by_project", "client", "project"),
    Index("training_runs_by_experiment", "experiment"),
    sqlite_autoincrement=True,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _id(),
    _refers("training_run", "training_runs"),
    Column("values", _JSON, nullable=False),
    Column("metadata", _JSON),
    Column("stopping_reasons", _JSON),  # whether each rule of early stopping asked the run to stop
    _time("created"),
    Index("checkpoints_by_run", "training_run"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    _id(),
    _refers("client", "clients"),
    _refers("training_run", "training_runs", required=False),
    Column("name", Text),
    Column("filename", Text),
    Column("content_type", Text, nullable=False),
    Column("content_length", BigInteger, nullable=False),
    Column("content_md5", Text, nullable=False),
    Column("secret", Text, nullable=False),  # part of the URL of the content
    _time("created"),
    Index("files_by_run", "training_run"),
    sqlite_autoincrement=True,
)

file_contents = Table(
    "file_contents",
    metadata,
    Column("file", _ID, ForeignKey("files.id"), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

tags = Table(
    "tags",
    metadata,
    _id(),
    _refers("client", "clients"),
    Column("name", Text, nullable=False),
    Column("color", Text),
    _time("created"),
    Index("tags_by_name", "client", "name", unique=True),
    sqlite_autoincrement=True,
)

run_tags = Table(
    "run_tags",
    metadata,
    Column("training_run", _ID, ForeignKey("training_runs.id"), primary_key=True),
    Column("tag", _ID, ForeignKey("tags.id"), primary_key=True),
)
