"""Functions that damage stored models on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ml.artifacts.snapshot import OPTIMIZER, STATE, WEIGHTS, file_name

WEIGHTS_FILE, OPTIMIZER_FILE = file_name(WEIGHTS, 0, 1), file_name(OPTIMIZER, 0, 1)


def record_digests(folder: Path) -> None:
    """Update the digests in `state.json`, so that only the content of the files can be wrong."""
    state = json.loads((folder / STATE).read_text())
    state["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in state["files"]}
    (folder / STATE).write_text(json.dumps(state))


def change_state(folder: Path, **metadata: object) -> None:
    """Replace some of the metadata in `state.json`."""
    state = json.loads((folder / STATE).read_text())
    state["metadata"] |= metadata
    (folder / STATE).write_text(json.dumps(state))
