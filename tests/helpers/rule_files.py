"""Rule files of a user."""

from __future__ import annotations

from pathlib import Path

import yaml

RULE = {"name": "mine", "set": {"batch_size": 512}, "reason": "Because it is so, and always was.", "source": "a study"}


def write(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def rule(folder: Path, **changes: object) -> Path:
    """Write a file of one rule."""
    return write(folder, yaml.safe_dump({"rules": [{**RULE, **changes}]}))
