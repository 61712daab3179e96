"""A lock excludes all others that use its file, and ends with its block or its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ml.locks import exclusive

HOLD = """
import sys
from ml.locks import exclusive
with exclusive(sys.argv[1], RuntimeError()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_others_of_the_same_process_are_excluded_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with exclusive(path, RuntimeError()):
        with pytest.raises(ValueError, match="in use"), exclusive(path, ValueError("in use")):
            pass
        with exclusive(tmp_path / "other", ValueError("in use")):
            pass
    with pytest.raises(KeyError), exclusive(path, ValueError("in use")):
        raise KeyError
    with exclusive(path, ValueError("in use")):
        pass


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use"), exclusive(path, ValueError("in use")):
            pass
        other.kill()
        other.wait()
    with exclusive(path, ValueError("in use")):
        pass
