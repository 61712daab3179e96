"""A replay that is killed in each asset and run again writes the same bytes as an uninterrupted one."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ml.catalog.load import CATALOG, load_catalog
from ml.lake import MANIFEST, Lake
from ml.stages import stages_of
from tests.helpers.own_home import own_home
from tests.helpers.trials import TRIALS

ROOT = Path(__file__).parents[2]
DAYS = ["2026-01-01", "2026-01-02"]
ATTEMPTS = 5
STAGES = stages_of(load_catalog()["synthetic"])


def small_catalog(folder: Path) -> None:
    """The built-in log with days of a few thousand rows."""
    spec = yaml.safe_load((CATALOG / "synthetic.yaml").read_text())
    spec["simulation"] |= {"impressions_per_day": 20_000, "users": 500, "items": 200}
    folder.mkdir()
    (folder / "synthetic.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def replay(home: Path, catalog: Path) -> subprocess.Popen[bytes]:
    env = own_home(home, catalog)
    command = [sys.executable, "-m", "orchestration.replay", "synthetic", "--from", DAYS[0], "--to", DAYS[-1]]
    home.mkdir(exist_ok=True)
    with (home / "replay.log").open("wb") as log:
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)


def kill_while_writing(stage: str, day: str, home: Path, catalog: Path) -> None:
    """Start a replay and kill it while it writes a partition of the stage. Retry if the partition was already complete."""
    lake, staging = Lake.at(home), home / stage / "synthetic" / ".staging" / day
    for _ in range(ATTEMPTS):
        lake.discard(stage, "synthetic", day)
        process = replay(home, catalog)
        while process.poll() is None and not staging.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"ended before it was killed in {stage}"
        if not lake.has(stage, "synthetic", day):
            return
    raise AssertionError(f"{stage} was written before the kill in each of {ATTEMPTS} attempts")


def digests(home: Path) -> dict[str, str]:
    """Digests of all files. Manifests of models contain the duration of training, so their `digest` is compared instead."""
    lake, found = Lake.at(home), {}
    for stage in STAGES:
        for day in lake.days(stage, "synthetic"):
            folder = Path(str(lake.partition(stage, "synthetic", day)))
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = str(path.relative_to(home))
                if stage.startswith("tuned_models/") and path.name == MANIFEST:
                    found[name] = lake.manifest(stage, "synthetic", day)["digest"]
                else:
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(3600)  # each stage of each model needs a replay
def test_killed_in_each_asset_and_run_again(tmp_path: Path):
    catalog = tmp_path / "catalog"
    small_catalog(catalog)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    process = replay(undisturbed, catalog)
    assert process.wait() == 0, (undisturbed / "replay.log").read_text()[-2000:]
    for stage in STAGES * TRIALS:
        kill_while_writing(stage, DAYS[-1], disturbed, catalog)
        lake = Lake.at(disturbed)
        assert not lake.has(stage, "synthetic", DAYS[-1])
        assert all((lake.partition(stage, "synthetic", day) / MANIFEST).exists() for day in lake.days(stage, "synthetic"))
    process = replay(disturbed, catalog)
    assert process.wait() == 0, (disturbed / "replay.log").read_text()[-2000:]
    assert digests(disturbed) == digests(undisturbed)
