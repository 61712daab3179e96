"""Writes files so that neither another process nor a crash finds half of them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def fsync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a small file so that readers find either the old or the new one, even if several processes write it at once.

    Args:
        path: The file. Its folder is created if it does not exist.
        text: The new contents.
        mode: Permissions of the file, less the umask of the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
