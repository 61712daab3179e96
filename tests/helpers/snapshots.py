"""Damaging stored models on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ml.artifacts.snapshot import OPTIMIZER, STATE, WEIGHTS, file_name

WEIGHTS_FILE, OPTIMIZER_FILE = file_name(WEIGHTS, 0, 1), file_name(OPTIMIZER, 0, 1)


def record_digests(folder: Path) -> None:
    """Let `state.json` describe the files as they are now, so that only what they hold can be at fault."""
    state = json.loads((folder / STATE).read_text())
    state["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in state["files"]}
    (folder / STATE).write_text(json.dumps(state))


def change_state(folder: Path, **metadata: object) -> None:
    """Replace some of the metadata in `state.json`."""
    state = json.loads((folder / STATE).read_text())
    state["metadata"] |= metadata
    (folder / STATE).write_text(json.dumps(state))
