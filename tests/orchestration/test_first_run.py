"""After a first run that was killed, or whose disk was full, at any moment, the next run works."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.own_home import own_home
from tests.helpers.trials import seeds
from tests.orchestration.test_kill import DAYS, ROOT, small_catalog


def first_day(home: Path, catalog: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """Start a run of the first day; `before` is called in the new process."""
    env = own_home(home, catalog)
    command = [sys.executable, "-m", "orchestration.replay", "synthetic", "--from", DAYS[0], "--to", DAYS[0]]
    with (home.parent / f"{home.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log, preexec_fn=before)


def output(home: Path) -> str:
    return (home.parent / f"{home.name}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "catalog"
    small_catalog(folder)
    return folder


@pytest.fixture(scope="module")
def seconds(catalog: Path) -> float:
    """Duration of a first run that nothing disturbs."""
    began = time.monotonic()
    home = catalog.parent / "undisturbed"
    assert first_day(home, catalog).wait() == 0, output(home)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", seeds(1))
def test_the_run_after_a_killed_first_run_works(seed: int, catalog: Path, seconds: float, tmp_path: Path) -> None:
    rng, home = random.Random(seed), tmp_path / "home"
    process = first_day(home, catalog)
    time.sleep(rng.uniform(0, seconds))
    process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
    process.wait()
    assert first_day(home, catalog).wait() == 0, output(home)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", seeds(1))
def test_the_run_after_a_full_disk_works(seed: int, catalog: Path, tmp_path: Path) -> None:
    """No file can grow beyond a random size (`RLIMIT_FSIZE`), which stands for the disk that is full at that moment."""
    size, home = round(10 ** random.Random(seed).uniform(3, 6)), tmp_path / "home"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    assert first_day(home, catalog, limit).wait() != 0, "the limit was not reached"
    assert first_day(home, catalog).wait() == 0, output(home)
