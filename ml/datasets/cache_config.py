"""Configuration of a node's cache of shards, in a module of its own because `ml.datasets.cache` takes seconds to import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class CacheConfig:
    """A cache of shards in a folder of this node.

    Args:
        folder: A local folder outside the lake. Shards are stored in `<folder>/evergreen-shards`.
        limit: Maximum size, such as "100gb"; None for no limit.

    Example:
        >>> CacheConfig.of("/scratch/shards", "100gb")
        CacheConfig(folder='/scratch/shards', limit='100gb')
        >>> CacheConfig.of("", "") is None
        True
    """

    folder: str | os.PathLike[str]
    limit: str | None = None

    @classmethod
    def of(cls, folder: str | None, limit: str | None) -> Self | None:
        """Returns a configuration, or None if `folder` is empty or None. An empty limit means no limit."""
        return cls(folder, limit or None) if folder else None
