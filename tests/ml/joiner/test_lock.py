"""The lock of a live join excludes other processes, and ends with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from ml.joiner.lock import StreamInUse, only_join

HOLD = """
import sys
from upath import UPath
from ml.joiner.lock import only_join
with only_join(UPath(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_joins_a_stream(tmp_path: Path) -> None:
    root = UPath(tmp_path / "stream" / "feed")
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(StreamInUse, match=f"another process joins the stream {root}; stop it first"), only_join(root):
            pass
        with only_join(root.parent / "other"):
            pass  # another stream
        other.kill()
        other.wait()
    with only_join(root):
        assert not (root / "joiner").exists()
