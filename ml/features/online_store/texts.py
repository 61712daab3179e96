"""Texts of values that are looked up: a series stores their hashes, and this database the text of each hash."""

from __future__ import annotations

import lmdb
import numpy as np
import pyarrow as pa

from ml.features.online_store.environment import Environment
from ml.features.online_store.events import value_words

_TIME_BYTES = 8  # time of use, before the text


def store_texts(txn: lmdb.Transaction, held: Environment, values: pa.Array, now: int, renew_after: int) -> None:
    """Store texts by their hashes, with the time at which they were used.

    Args:
        txn: A transaction that writes.
        held: The environment.
        values: Texts; nulls are skipped.
        now: The time, in microseconds.
        renew_after: Age in microseconds at which the time of a text is written again.
    """
    distinct = values.unique().drop_null()
    time = now.to_bytes(_TIME_BYTES, "big", signed=True)
    for word, text in zip(value_words(distinct).tolist(), distinct.to_pylist(), strict=True):
        key = word.to_bytes(8, "big", signed=True)
        stored = txn.get(key, None, held.words)
        if stored is None or used_at(stored) < now - renew_after:
            txn.put(key, time + text.encode(), db=held.words)


def used_at(stored: bytes | memoryview) -> int:
    """Return the time at which a text was used, at most `renew_after` too early."""
    return int.from_bytes(stored[:_TIME_BYTES], "big", signed=True)


def texts_of(txn: lmdb.Transaction, held: Environment, words: np.ndarray) -> pa.Array:
    """Return the texts of hashes [N]; null for a text that was deleted."""
    distinct, places = np.unique(words, return_inverse=True)
    found = [txn.get(word.to_bytes(8, "big", signed=True), None, held.words) for word in distinct.tolist()]
    texts = [None if text is None else bytes(text[_TIME_BYTES:]).decode() for text in found]
    return pa.array(texts, pa.string()).take(pa.array(places))
