"""Reduction of many independent parts to one result on Dask: in this process, or on a cluster. Both run the same graph."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

FAN_IN = 8

T = TypeVar("T")
Get = Callable[[Mapping[str, Any], str], Any]
"""Runs a graph and returns the result of one of its tasks: `dask.threaded.get` or the method `get` of a client."""


def tree_reduce(leaves: Sequence[Callable[[], T]], combine: Callable[[list[T]], T], get: Get) -> T:
    """Computes all leaves and combines them in a tree, consecutive results first.

    The tree depends on the number of leaves alone, so every scheduler gives the same result. At most `FAN_IN` results are
    held by one task, and a result is released once it is combined.

    Args:
        leaves: Functions without arguments; for a cluster, they and their results can be pickled.
        combine: Combines results in the order of the leaves.
        get: Runs the graph.

    Raises:
        ValueError: There are no leaves.
        Exception: The error of a task that failed.

    Example:
        >>> from functools import partial
        >>> from dask.threaded import get
        >>> tree_reduce([partial(range, 2), partial(range, 3)], lambda parts: [x for part in parts for x in part], get)
        [0, 1, 0, 1, 2]
    """
    if not leaves:
        raise ValueError("there is nothing to reduce; expected at least one leaf")
    run = uuid.uuid4().hex  # a cluster would share equal keys between runs
    graph: dict[str, Any] = {f"leaf-{run}-{i}": (leaf,) for i, leaf in enumerate(leaves)}
    level, depth = list(graph), 0
    while len(level) > 1 or not depth:
        depth += 1
        groups = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
        level = [f"combine-{run}-{depth}-{i}" for i in range(len(groups))]
        graph |= {key: (combine, group) for key, group in zip(level, groups, strict=True)}
    return get(graph, level[0])
