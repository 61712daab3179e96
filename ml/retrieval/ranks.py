"""Where the clicked item stands among the live items, and the best items of a request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.retrieval.contexts import NOT_LIVE, Contexts

MISSED = -1
"""Rank of an item that is not live, or that is excluded."""


def ranks_of(scores: NDArray[np.float32], clicked: NDArray[np.int64]) -> NDArray[np.int32]:
    """Rank the clicked item of each request among all live items. Items with equal scores keep the order of the catalogue.

    Args:
        scores: float32 [B, L], higher is better, finite.
        clicked: int64 [B], places of the clicked items, or `NOT_LIVE`.

    Returns:
        int32 [B]: number of items before the clicked one, or `MISSED`.
    """
    return _ranks(scores, clicked)


def ranks_without_seen(
    scores: NDArray[np.float32],
    clicked: NDArray[np.int64],
    ranks: NDArray[np.int32],
    contexts: Contexts,
    items: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Rank the clicked items as `ranks_of` does, after the items of each request's context have been removed.

    Args:
        scores: float32 [B, L].
        clicked: int64 [B].
        ranks: int32 [B], from `ranks_of`.
        contexts: of the B requests.
        items: int64 [L], ids of the live items, ascending.

    Returns:
        int32 [B]; `MISSED` also if the clicked item was removed.
    """
    return _without(scores, clicked, ranks, contexts.offsets, contexts.places(items))


def shares_below(scores: NDArray[np.float32], clicked: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute how often the clicked item is scored above another one that is drawn in proportion to `weights`.

    The mean over requests is the AUC against such negatives, without the noise of a draw. An equal score counts as half.

    Args:
        scores: float32 [B, L], higher is better, finite.
        clicked: int64 [B], places of the clicked items, or `NOT_LIVE`.
        weights: int64 [L], such as the clicks of the hour before.

    Returns:
        float32 [B]; NaN if the clicked item is not live, or the other items have no weight.

    Example:
        >>> scores = np.array([[0.5, 0.1, 0.5, 0.9]], np.float32)
        >>> shares_below(scores, np.array([0]), np.array([7, 2, 1, 1])).tolist()
        [0.625]
    """
    return _below(scores, clicked, weights)


def top(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` best items of each request, best first.

    Args:
        scores: float32 [B, L]. Items with equal scores keep the order of the catalogue.
        count: number of items; at most L are returned.

    Returns:
        int64 [B, min(count, L)].
    """
    count = min(count, scores.shape[1])
    if count == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    # The threshold, then all items above it and the first of those that equal it.
    least = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count] if count else scores[:, :0]
    return _top(scores, least[:, 0], count) if count else np.zeros((len(scores), 0), np.int64)


@jit(nogil=True)
def _ranks(scores, clicked):  # type: ignore[no-untyped-def]
    out = np.full(len(clicked), MISSED, np.int32)
    for i in range(len(clicked)):
        at = clicked[i]
        if at == NOT_LIVE:
            continue
        row, own, before = scores[i], scores[i, at], 0
        for j in range(at):
            before += row[j] >= own
        for j in range(at + 1, len(row)):
            before += row[j] > own
        out[i] = before
    return out


@jit(nogil=True)
def _below(scores, clicked, weights):  # type: ignore[no-untyped-def]
    out = np.full(len(clicked), np.nan, np.float32)
    for i in range(len(clicked)):
        at = clicked[i]
        if at == NOT_LIVE:
            continue
        row, own, twice, whole = scores[i], scores[i, at], 0, 0
        for j in range(len(row)):
            if j != at:
                twice += weights[j] * (int(row[j] <= own) + int(row[j] < own))
                whole += weights[j]
        if whole:
            out[i] = twice / (2 * whole)
    return out


@jit(nogil=True)
def _without(scores, clicked, ranks, offsets, seen):  # type: ignore[no-untyped-def]
    out = ranks.copy()
    for i in range(len(clicked)):
        at = clicked[i]
        if at == NOT_LIVE:
            continue
        for n in range(offsets[i], offsets[i + 1]):
            other, again = seen[n], False
            for m in range(offsets[i], n):
                again = again or seen[m] == other
            if other == NOT_LIVE or again:
                continue
            if other == at:
                out[i] = MISSED
                break
            if scores[i, other] > scores[i, at] or (scores[i, other] == scores[i, at] and other < at):
                out[i] -= 1
    return out


@jit(nogil=True)
def _top(scores, least, count):  # type: ignore[no-untyped-def]
    out = np.empty((len(scores), count), np.int64)
    for i in range(len(scores)):
        above = np.flatnonzero(scores[i] > least[i])
        equal = np.flatnonzero(scores[i] == least[i])
        found = np.concatenate((above[np.argsort(-scores[i][above], kind="mergesort")], equal))
        out[i] = found[:count]
    return out
