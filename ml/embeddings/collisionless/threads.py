"""Threads for kernels that release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[T], None], parts: Sequence[T]) -> None:
    """Runs `work` on all parts, the first in this thread and each other in its own. Raises what one of them raised."""
    if not parts:
        return
    futures = [_pool(os.getpid(), len(parts) - 1).submit(work, part) for part in parts[1:]] if len(parts) > 1 else []
    try:
        work(parts[0])
    finally:
        wait(futures)  # also after an error: they write into buffers that the caller uses again
    for one in futures:
        one.result()


@lru_cache(maxsize=4)
def _pool(process: int, size: int) -> ThreadPoolExecutor:
    """A pool per process, because threads do not survive a fork."""
    return ThreadPoolExecutor(size, thread_name_prefix="embeddings")
