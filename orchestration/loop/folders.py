"""Folders and environment of a closed loop.

| below `$EVERGREEN_HOME/loop/` | content                                                                     |
|-------------------------------|-----------------------------------------------------------------------------|
| `base-<hash>/`                | the catalog, and a home with the days before the loop and their model       |
| `run/online/`                 | home of the joiner, of online training and of the service that it updates   |
| `run/daily/`                  | home of daily retraining and of the service that takes its exports          |
| `run/frozen/`                 | home of the service that keeps the model of the days before the loop        |
| `run/clock`                   | simulated time, which begins when all services have loaded their models     |
| `run/records/`                | what the population has seen (`ml.loop.records`)                            |
| `run/logs/`                   | output of each process                                                      |
| `run/processes.json`          | process id and number of starts of each process                             |
| `run/services.json`           | address of the service of each arm; its token is in `<arm>/serving-token`   |
| `run/report.html`             | the report, with `quality.png` and `metrics.json`                           |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from ml.loop.entry import loop_entry
from ml.loop.settings import DATASET, FROZEN, Settings

_HISTORY_KEYS = ("users", "items", "shown", "history_days", "history_requests", "first_day", "seed")
_NOT_COPIED = ("dagster", "mlruns", "mlflow*")
_SET_HERE = (
    "EVERGREEN_HOME",
    "EVERGREEN_LAKE",
    "EVERGREEN_LANDING",
    "EVERGREEN_SYNC",
    "EVERGREEN_CATALOG",
    "EVERGREEN_DAGSTER",
)


@dataclass(frozen=True)
class Folders:
    """The folders of a loop.

    Attributes:
        root: `$EVERGREEN_HOME/loop`.
        settings: The settings.
    """

    root: Path
    settings: Settings

    @property
    def base(self) -> Path:
        """Folder of the days before the loop, which loops of equal settings share."""
        made = {name: getattr(self.settings, name) for name in _HISTORY_KEYS} | {"entry": loop_entry(self.settings)}
        return self.root / f"base-{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]}"

    @property
    def run(self) -> Path:
        """Folder of the loop itself."""
        return self.root / "run"

    def environment(self, arm: str | None) -> dict[str, str]:
        """Return the environment of a process of an arm, or of one that makes the days before the loop."""
        home = self.base / "home" if arm is None else self.run / arm
        kept = {name: value for name, value in os.environ.items() if name not in (*_SET_HERE, "MLFLOW_TRACKING_URI")}
        lake = {"EVERGREEN_LAKE": str(self.base / "home")} if arm == FROZEN else {}
        return (
            kept
            | lake
            | {
                "EVERGREEN_HOME": str(home),
                "EVERGREEN_CATALOG": str(self.base / "catalog"),
                "EVERGREEN_DAGSTER": str(home / "dagster"),
                "OMP_NUM_THREADS": "1",
                "PYTHONUNBUFFERED": "1",
            }
        )

    def prepare_base(self) -> None:
        """Make the days before the loop and their model, unless they are there.

        Raises:
            subprocess.CalledProcessError: The days could not be made; the process has printed why.
        """
        ready = self.base / "ready"
        if ready.exists():
            return
        shutil.rmtree(self.base, ignore_errors=True)
        (self.base / "catalog").mkdir(parents=True)
        (self.base / "catalog" / f"{DATASET}.yaml").write_text(yaml.safe_dump(loop_entry(self.settings), sort_keys=False))
        self.settings.write(self.base / "settings.json")
        command = [sys.executable, "-m", "orchestration.loop.daily", str(self.base), "--history"]
        subprocess.run(command, env=self.environment(None) | {"EVERGREEN_SPARK_MASTER": "none"}, check=True)
        ready.touch()

    def prepare_run(self) -> None:
        """Begin a run: delete the last one, and give each arm the model of the days before the loop."""
        shutil.rmtree(self.run, ignore_errors=True)
        for arm in self.settings.arms:
            if arm == FROZEN:
                (self.run / arm).mkdir(parents=True)
            else:
                shutil.copytree(self.base / "home", self.run / arm, ignore=shutil.ignore_patterns(*_NOT_COPIED))
            (self.run / arm / "stream" / DATASET).mkdir(parents=True)
        (self.run / "logs").mkdir()
        self.settings.write(self.run / "settings.json")
