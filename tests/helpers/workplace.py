"""The folder in which the documentation's code runs: it looks like the repository, with a small lake in it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@dataclass(frozen=True)
class Workplace:
    """A working folder with a catalog and environment variables.

    Attributes:
        folder: The working folder. `.evergreen` in it is the Evergreen home; it has the entry points of the repository.
        catalog: Folder of the repository's datasets, with fewer rows of the built-in log, and of the datasets of the pages.
        env: Environment variables of commands.
    """

    folder: Path
    catalog: Path
    env: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command in the folder and return its output. The assertion error of a failure contains the output."""
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr
