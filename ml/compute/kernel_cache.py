"""Compilation of Numba kernels, cached on disk until a source that they depend on changes.

Numba checks only the file that a kernel is written in. Functions and constants from other modules are compiled into the
kernel, and a cached kernel keeps them after those modules have changed. `jit` therefore caches the kernels of a module in a
folder whose name is a hash of the sources of the module and of everything that it imports from this repository.

The folders are in `NUMBA_CACHE_DIR` if it is set, else inside the package, else in the user's cache folder. If none of these
can be written, kernels are compiled in every process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba as nb

ROOT = Path(__file__).resolve().parents[2]
KEEP_SECONDS = 24 * 3600
"""How long a folder of other sources is kept after its last use. Another process may still run these sources."""

_IMPORT = re.compile(r"^(?:from ([\w.]+) import (\([^)]*\)|[^\n]*)|import ([\w.]+))", re.MULTILINE)
_LOCK = threading.Lock()


def jit(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile a function in nopython mode at its first call, or load it from the cache.

    Args:
        function: The kernel; without it, the result is a decorator.
        **options: Options of `numba.njit`, except `cache`.

    Returns:
        Numba's dispatcher of the kernel.

    Example:
        >>> @jit(nogil=True)
        ... def add(a, b):
        ...     return a + b
        >>> add(2, 3)
        5
    """
    if function is None:
        return lambda kernel: jit(kernel, **options)
    folder = cache_folder(Path(function.__code__.co_filename))
    if folder is None:
        return nb.njit(**options)(function)
    with _LOCK:  # Numba takes the folder from its configuration when a function is decorated
        before, nb.config.CACHE_DIR = nb.config.CACHE_DIR, str(folder)  # type: ignore[attr-defined]
        try:
            kernel = nb.njit(cache=True, **options)(function)
        finally:
            nb.config.CACHE_DIR = before  # type: ignore[attr-defined]
    elsewhere = not nb.config.DISABLE_JIT and Path(kernel.stats.cache_path).parent != folder  # type: ignore[attr-defined]
    return nb.njit(**options)(function) if elsewhere else kernel


@cache
def cache_folder(file: Path) -> Path | None:
    """Return the folder for kernels of a source file, or None if they cannot be cached.

    Folders of the same file that have not been used for `KEEP_SECONDS` are deleted.
    """
    base = _base()
    try:
        key = source_key(file)
    except OSError:  # a package in an archive
        return None
    if base is None:
        return None
    folder = base / _name(file) / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _delete_unused(folder)
    except OSError:
        return None
    return folder


def source_key(file: Path) -> str:
    """Return a hash of a source file and of all files below `ROOT` that it imports, directly or indirectly.

    Imports inside functions do not count: a kernel cannot use them.

    Raises:
        OSError: The file cannot be read.
    """
    found, left = {}, [file.resolve()]
    while left:
        one = left.pop()
        if one not in found:
            found[one], imports = _read(one)
            left += imports
    whole = hashlib.sha256()
    for one in sorted(found):
        whole.update(f"{_name(one)} {found[one]}\n".encode())
    return whole.hexdigest()[:16]


@cache
def _read(file: Path) -> tuple[str, tuple[Path, ...]]:
    """Return the hash of a file's bytes, and the files that it imports."""
    data = file.read_bytes()
    return hashlib.sha256(data).hexdigest(), tuple(_imports(data.decode()))


def _imports(source: str) -> Iterator[Path]:
    for package, names, module in _IMPORT.findall(source):
        inner = [f"{package}.{name.split(' as ')[0].strip()}" for name in names.strip("()").split(",")] if names else []
        for dotted in (package or module, *inner):
            path = ROOT.joinpath(*dotted.split("."))
            yield from (one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file())


def _name(file: Path) -> str:
    """Return the dotted name of a module below `ROOT`, or a name with the path's hash for other files."""
    if file.is_relative_to(ROOT):
        return ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return f"{file.stem}-{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


@cache
def _base() -> Path | None:
    """Return the first writable folder for caches, or None."""
    tree = f"evergreen-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 (raises nothing)
    given = nb.config.CACHE_DIR  # type: ignore[attr-defined]
    for folder in ([Path(given) / tree] if given else []) + [ROOT / "ml" / "__pycache__" / "kernels", user / tree]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _delete_unused(folder: Path) -> None:
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # another process deletes the same
            if other != folder and other.stat().st_mtime < time.time() - KEEP_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
