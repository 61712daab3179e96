"""Deletes events that no look-up needs: each transaction checks some keys, and the next one continues after them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import lmdb
import numpy as np

from ml.features.online_store.chunks import TAIL, header_words
from ml.features.online_store.environment import Environment
from ml.features.online_store.keys import series_and_last
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.snapshot import Chunks
from ml.features.online_store.texts import used_at

_TEXTS = b"\xff\xff"  # no series has this number; a sweep looks at texts after it


def sweep(txn: lmdb.Transaction, held: Environment, plan: StorePlan, after: bytes, keys: int, kept_from: list[int]) -> bytes:
    """Look at keys in order, and delete chunks and texts whose last use is too old.

    Args:
        txn: A transaction that writes.
        held: The environment.
        plan: The series.
        after: Where the sweep before stopped; empty for the beginning.
        keys: Number of keys to look at.
        kept_from: For each series, the instant before which events are not needed; then the same for texts.

    Returns:
        Where it stopped; empty at the end.
    """
    if not after.startswith(_TEXTS):
        looked_at, following = _items(txn, held.chunks, after, keys)
        for key in _expired([key for key, _ in looked_at], Chunks.of([chunk for _, chunk in looked_at]), plan, kept_from):
            txn.delete(key, db=held.chunks)
        if following is not None:
            return following
        keys, after = keys - len(looked_at), _TEXTS
    looked_at, following = _items(txn, held.words, after[len(_TEXTS) :], keys)
    for key, text in looked_at:
        if used_at(text) < kept_from[-1]:
            txn.delete(key, db=held.words)
    return b"" if following is None else _TEXTS + following


def _items(txn: lmdb.Transaction, db: Any, first: bytes, most: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return keys and values in order, from a key on, and the key after them; None at the end."""
    with txn.cursor(db) as cursor:
        items: list[tuple[Any, Any]] = list(islice(cursor.iternext(), most + 1)) if cursor.set_range(first) else []
    return items[:most], items[most][0] if len(items) > most else None


def _expired(keys: list[bytes], chunks: Chunks, plan: StorePlan, kept_from: list[int]) -> list[bytes]:
    """Return the keys of chunks whose last event is not needed."""
    if not keys:
        return []
    series, last = series_and_last(keys)
    headers = np.array([header_words(len(series.sums)) for series in plan.series])
    in_tail = chunks.words[chunks.starts + headers[series] + chunks.words[chunks.starts] - 1]
    last = np.where(last == TAIL, in_tail, last)
    return [keys[at] for at in np.flatnonzero(last < np.array(kept_from)[series])]
