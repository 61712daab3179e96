"""Appends events to the series of a store, inside a transaction."""

from __future__ import annotations

import lmdb
import numpy as np

from ml.features.online_store.chunks import CHUNK, append, header_words, merge
from ml.features.online_store.environment import Environment
from ml.features.online_store.events import Events
from ml.features.online_store.keys import PREFIX_BYTES, chunk_keys
from ml.features.online_store.plan import Series
from ml.features.online_store.snapshot import Chunks


def append_events(txn: lmdb.Transaction, held: Environment, series: Series, events: Events) -> int:
    """Append events to the tails of their entities.

    Events may be older than stored ones. Sealed chunks that end after such an event are merged with the tail and cut again.

    Returns:
        The number of events that were earlier than a sealed event of their entity.
    """
    if not len(events.ids):
        return 0
    num = len(series.sums)
    found = [txn.get(key, b"", held.chunks) for key in chunk_keys(series.number, events.ids)]
    tails = Chunks.of(found)
    unsealed = 0
    for g in _late(tails, events, header_words(num)):
        first = int(events.times[events.starts[g]])
        merged, sealed_until = _unseal(txn, held, series, int(events.ids[g]), first)
        unsealed += int((events.times[events.starts[g] : events.starts[g + 1]] < sealed_until).sum())
        found[g] = merged.tobytes()
    if unsealed:
        tails = Chunks.of(found)
    words, of, last, bases, ends = append(tails.words, tails.starts, events.times, events.columns, events.starts, num, CHUNK)
    keys = chunk_keys(series.number, events.ids[of], last, np.where(last == np.iinfo(np.int64).max, 0, bases))
    data, bounds = words.tobytes(), (ends * 8).tolist()
    with txn.cursor(held.chunks) as cursor:
        cursor.putmulti([(key, data[bounds[r] : bounds[r + 1]]) for r, key in enumerate(keys)])
    return unsealed


def _late(tails: Chunks, events: Events, header: int) -> list[int]:
    """Return the entities that have a new event which may belong before their tail."""
    known = np.flatnonzero(tails.starts >= 0)
    at = tails.starts[known]
    first = events.times[events.starts[known]]
    return known[(tails.words[at + 1] > 0) & (first < tails.words[at + header])].tolist()


def _unseal(txn: lmdb.Transaction, held: Environment, series: Series, entity: int, time: int) -> tuple[np.ndarray, int]:
    """Delete the sealed chunks of an entity that end after an instant, and its tail.

    Returns:
        Their events as one chunk, and the time of the last event that was sealed; `time` if none was.
    """
    key = chunk_keys(series.number, np.array([entity], np.int64), time + 1)[0]
    chunks, last = [], time
    with txn.cursor(held.chunks) as cursor:
        cursor.set_range(key)
        while bytes(cursor.key())[:PREFIX_BYTES] == key[:PREFIX_BYTES]:
            chunk = np.frombuffer(bytes(cursor.value()), np.int64)
            chunks.append(chunk)
            if len(chunks) > 1:
                last = int(chunks[-2][header_words(len(series.sums)) + chunks[-2][0] - 1])
            if not cursor.delete():  # moves to the next chunk
                break
    return merge(chunks, len(series.sums)), last
