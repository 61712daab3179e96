"""Threads for kernels that let go of the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[T], None], parts: Sequence[T]) -> None:
    """Do every part, each in a thread of its own; the first here."""
    if not parts:
        return
    futures = [_pool(os.getpid(), len(parts) - 1).submit(work, part) for part in parts[1:]] if len(parts) > 1 else []
    try:
        work(parts[0])
    finally:
        wait(futures)  # whatever happens: they write into what the caller will use again
    for one in futures:
        one.result()


@lru_cache(maxsize=4)
def _pool(process: int, size: int) -> ThreadPoolExecutor:
    """Of this process: threads do not survive a fork."""
    return ThreadPoolExecutor(size, thread_name_prefix="embeddings")
