"""Keys of the store: a series, an entity and the end of a chunk, as bytes that sort in this order."""

from __future__ import annotations

import numpy as np

from ml.features.online_store.chunks import TAIL

_KEY = np.dtype([("series", ">u2"), ("entity", ">u8"), ("last", ">u8"), ("base", ">u8")])
KEY_BYTES = _KEY.itemsize
PREFIX_BYTES = 10  # the series and the entity
_SIGN = np.uint64(1 << 63)


def chunk_keys(series: int, entities: np.ndarray, last: np.ndarray | int = TAIL, base: np.ndarray | int = 0) -> list[bytes]:
    """Return the keys of chunks.

    Args:
        series: Number of the series.
        entities: int64 [N].
        last: int64 [N] times of the last events of the chunks, or `TAIL`. Among the chunks of an entity, the first whose key is
            at or after a time has the position of this time.
        base: int64 [N] numbers of events before the chunks. They distinguish chunks that end at the same time; 0 for a tail.

    Returns:
        N keys of `KEY_BYTES` bytes.
    """
    keys = np.empty(len(entities), _KEY)
    keys["series"], keys["entity"], keys["base"] = series, entities.view(np.uint64), base
    keys["last"] = np.asarray(last, np.int64).view(np.uint64) ^ _SIGN  # negative times sort first
    text = keys.tobytes()
    return [text[at : at + KEY_BYTES] for at in range(0, len(text), KEY_BYTES)]


def series_and_last(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the series of keys, and the times of the last events of their chunks (`TAIL` for a tail), int64 [N]."""
    fields = np.frombuffer(b"".join(keys), _KEY)
    return fields["series"].astype(np.int64), (fields["last"].astype(np.uint64) ^ _SIGN).view(np.int64)
