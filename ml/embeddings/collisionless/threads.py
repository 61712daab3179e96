"""Threads for kernels that release the global interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[T], None], parts: Sequence[T]) -> None:
    """Call `work` on each part: on the first part in this thread, and on each other part in a thread of its own.

    An exception of any call is raised after all calls have ended.
    """
    if not parts:
        return
    futures = [_pool(os.getpid(), len(parts) - 1).submit(work, part) for part in parts[1:]] if len(parts) > 1 else []
    try:
        work(parts[0])
    finally:
        wait(futures)  # also after an error, because they write to buffers that the caller reuses
    for one in futures:
        one.result()


@lru_cache(maxsize=4)
def _pool(process: int, size: int) -> ThreadPoolExecutor:
    """Return the thread pool of a process. Forked processes need their own pool, because threads do not survive a fork."""
    return ThreadPoolExecutor(size, thread_name_prefix="embeddings")
