"""MLflow's store is created and migrated as a whole or not at all, and rows in it are never lost."""

from __future__ import annotations

import doctest
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import ml.tracking.local_store as local_store
from ml.tracking.local_store import STORE, StoreUnusable, check_home, open_store, store_uri
from ml.tracking.run import Tracker
from tests.helpers.trials import seeds

ROOT = Path(__file__).parents[3]
OLD = "4465047574b1"  # a revision of MLflow's schema that was replaced long ago


def opened(kind: str, *trials: tuple[Path, float | None, int | None, int | None]) -> tuple[list[int], str]:
    """Exit status of each process, and what they wrote to stderr."""
    given = json.dumps([[str(home), seconds, number, size] for home, seconds, number, size in trials])
    command = [sys.executable, "-m", "tests.helpers.first_opens", kind, given]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [status for status, _ in json.loads(done.stdout)], done.stderr


def alter(home: Path, *statements: str) -> None:
    with closing(sqlite3.connect(home / STORE)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def experiments(home: Path) -> set[str]:
    return {experiment.name for experiment in Tracker(home).client().search_experiments()}


def test_examples() -> None:
    assert doctest.testmod(local_store).failed == 0


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("kind", ["mlflow", "dagster"])
def test_the_next_process_opens_a_store_after_a_kill_at_any_moment(kind: str, tmp_path: Path) -> None:
    longest = {"mlflow": 1.3, "dagster": 0.3}[kind]
    kills = []
    for seed in seeds(6):
        rng = random.Random(seed)
        number = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
        home = tmp_path / str(seed)
        kills += [(home, rng.uniform(0, longest), int(number), None)] * rng.choice([1, 2]) + [(home, None, None, None)]
    ended, errors = opened(kind, *kills)
    assert all(status == 0 for (_, seconds, _, _), status in zip(kills, ended, strict=True) if seconds is None), errors
    assert any(status != 0 for status in ended), "no process was killed while it worked"
    if kind == "mlflow":
        assert {path.name for path in (tmp_path / str(seeds(6)[0])).iterdir()} == {STORE, f"{STORE}.lock"}


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("kind", ["mlflow", "dagster"])
def test_the_next_process_opens_a_store_after_the_disk_was_full(kind: str, tmp_path: Path) -> None:
    trials = []
    for seed in seeds(4):
        home, size = tmp_path / str(seed), random.Random(seed).randrange(0, 900_000 if kind == "mlflow" else 90_000)
        trials += [(home, None, None, size), (home, None, None, None)]
    ended, errors = opened(kind, *trials)
    assert ended[1::2] == [0] * (len(trials) // 2), errors
    assert any(ended[::2]), "the limit was never reached"
    if kind == "mlflow":
        assert "mlflow.db cannot be written" in errors and "Free space on that disk" in errors


def test_a_full_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def fails(target: Path) -> None:
        target.write_bytes(b"part")
        raise full

    monkeypatch.setattr(local_store, "_create", fails)
    with pytest.raises(StoreUnusable, match=rf"{tmp_path}.*mlflow\.db cannot be written: database or disk is full.*run again"):
        Tracker(tmp_path / "home").client()
    assert {path.name for path in (tmp_path / "home").iterdir()} == {f"{STORE}.lock"}


@pytest.mark.parametrize("left", ["empty file", "first tables", "temporary table", "old journal"])
def test_a_store_that_an_interrupted_process_left_without_rows_is_created_again(left: str, tmp_path: Path) -> None:
    if left == "empty file":
        (tmp_path / STORE).touch()
    elif left == "old journal":
        (tmp_path / f"{STORE}-wal").write_bytes(b"of a file that is gone")
    else:
        alter(
            tmp_path,
            "CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, artifact_location TEXT)",
            "INSERT INTO experiments VALUES (0, 'Default', '/x')",
            "CREATE TABLE alembic_version (version_num TEXT)",
            f"INSERT INTO alembic_version VALUES ('{OLD}')",
            *(
                ["CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER, name TEXT)"]
                if left == "temporary table"
                else []
            ),
        )
    assert experiments(tmp_path) == {"Default"}
    assert {path.name for path in tmp_path.iterdir()} == {STORE, f"{STORE}.lock"}


def test_a_complete_store_is_not_touched(mlflow_home: Path) -> None:
    Tracker(mlflow_home).client().create_experiment("kept")
    before = (mlflow_home / STORE).stat()
    with open_store(mlflow_home):
        pass
    after = (mlflow_home / STORE).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert experiments(mlflow_home) == {"Default", "kept"}


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    """A store with an experiment, in the schema before MLflow's last migration."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, _initialize_tables

    path = tmp_path / STORE
    with local_store._engine(path) as engine:
        _initialize_tables(engine)
        with engine.begin() as connection:
            config = _get_alembic_config(str(engine.url))
            config.attributes["connection"] = connection
            command.downgrade(config, "-1")
    alter(tmp_path, "INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')")
    assert local_store._look(path)[0] != local_store._head()
    return tmp_path


def test_a_migration_after_an_upgrade_keeps_rows_and_a_copy_from_before(old_store: Path) -> None:
    found, rows = local_store._look(old_store / STORE)
    assert rows
    assert "kept" in experiments(old_store)
    assert local_store._look(old_store / STORE)[0] == local_store._head()
    assert local_store._look(old_store / f"{STORE}.{found}")[0] == found


def test_an_interrupted_migration_leaves_the_store_as_it_was(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store.db.utils as utils

    real, before = utils._upgrade_db, (old_store / STORE).read_bytes()

    def interrupted(engine: object) -> None:
        real(engine)
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_upgrade_db", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Tracker(old_store).client()
    assert (old_store / STORE).read_bytes() == before
    monkeypatch.setattr(utils, "_upgrade_db", real)
    assert "kept" in experiments(old_store)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (["UPDATE alembic_version SET version_num = 'f00d'"], "a newer MLflow wrote it.*f00d"),
        (["DROP TABLE alembic_version"], "it has no schema version"),
        ([f"UPDATE alembic_version SET version_num = '{OLD}'"], "duplicate column|already exists|no such"),
    ],
)
def test_a_store_with_rows_that_cannot_be_migrated_is_refused_and_kept(
    damage: list[str], reason: str, mlflow_home: Path
) -> None:
    MlflowClient(store_uri(mlflow_home)).create_experiment("kept")
    alter(mlflow_home, *damage)
    before = (mlflow_home / STORE).read_bytes()
    with pytest.raises(StoreUnusable, match=rf"mlflow\.db is not usable: .*({reason})[\s\S]*move it away"):
        Tracker(mlflow_home).client()
    assert (mlflow_home / STORE).read_bytes() == before


def test_a_file_that_is_not_a_store_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / STORE).write_bytes(b"some other file, long enough to be read as one" * 100)
    with pytest.raises(StoreUnusable, match=r"file is not a database.*move it away"):
        Tracker(tmp_path).client()
    assert (tmp_path / STORE).read_bytes().startswith(b"some other file")


@pytest.mark.parametrize("name", ["a?b", "a%20b", "%3f"])
def test_a_home_that_a_sqlite_url_cannot_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"EVERGREEN_HOME: .* contains '.*', which the URL of a SQLite database"):
        check_home(tmp_path / name, "EVERGREEN_HOME")
    with pytest.raises(ValueError, match="rename the folder"):
        Tracker(tmp_path / name).client()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "a#b", "50%", "s[t]", "s{t}", "naïve 数", "a&b=c", "a;b", "a:b@c", "q'uo\"te", "a*b"])
def test_other_names_of_homes_work(name: str, mlflow_home: Path, tmp_path: Path) -> None:
    home = tmp_path / name
    home.mkdir()
    shutil.copy(mlflow_home / STORE, home / STORE)
    tracker = Tracker(home)
    client = tracker.client()
    experiment = client.create_experiment("e", artifact_location=(home / "mlflow-artifacts" / "e").as_uri())
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "x", "recipe.yaml")
    assert {path.name for path in tmp_path.iterdir()} == {"home", name}
    assert [path.read_text() for path in home.rglob("recipe.yaml")] == ["x"]
