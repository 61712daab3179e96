"""Look-up kernels, which map ids to pooled rows in blocks.

For each block, a kernel first prefetches slots of the hash map, then finds and prefetches rows, and then sums rows into bags.
Several memory accesses are therefore in flight at the same time.

Occurrences are ordered by feature, as in a KeyedJaggedTensor (`batch`). A kernel processes some of the features. Features of
different tables can be processed by different threads, because no row belongs to two tables. For any number of threads, the
occurrences of a row are processed in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, ROW_MASK, home_of
from ml.embeddings.collisionless.prefetch import prefetch
from ml.embeddings.collisionless.row_layout import COUNT, MOST, PLACE, SEEN, WEIGHTS

FAST = {"reassoc", "contract"}
_NONE = -1
_BLOCK = 32  # occurrences per block: prefetched memory must still be in the first-level cache when it is used


@jit(error_model="numpy")
def _prefetch_slots(slots, table, ids, rows, first, last):  # type: ignore[no-untyped-def]
    """Prefetch the home slots of the occurrences [first, last), and write the indices of the slots to `rows`."""
    mask = len(slots) - 1
    for at in range(first, last):
        i = np.uint64(at)
        home = home_of(table, ids[i], mask)
        rows[i] = home
        prefetch(slots, np.uint64(home), np.uint64(0))


@jit(error_model="numpy")
def _find(slots, floats, table, ids, rows, first, last, end):  # type: ignore[no-untyped-def]
    """Replace the home slots of the occurrences [first, last) in `rows` with their rows, and prefetch the rows.

    Occurrences without a row get EMPTY. `end` is the last word that is read from a row.
    """
    mask, one = np.uint64(len(slots) - 1), np.uint64(1)
    for at in range(first, last):
        i = np.uint64(at)
        key, place, row = ids[i], np.uint64(rows[i]), np.int64(EMPTY)
        while True:
            value = slots[place, one]
            if value == EMPTY:
                break
            if slots[place, np.uint64(0)] == key and value >> ROW_BITS == table:
                row = value & ROW_MASK
                prefetch(floats, np.uint64(row), np.uint64(0))
                prefetch(floats, np.uint64(row), end)
                break
            place = (place + one) & mask
        rows[i] = row


@jit(error_model="numpy")
def _blocks(features, offsets, examples):  # type: ignore[no-untyped-def]
    """Return blocks of about _BLOCK occurrences, in order, int64 [n, 3]: feature, first example, and end of the examples."""
    found = np.empty((0, 3), np.int64)
    for turn in range(2):
        n = 0
        for f in range(len(features)):
            bags = features[f] * examples
            step = max(1, _BLOCK * examples // max(offsets[bags + examples] - offsets[bags], 1))
            for start in range(0, examples, step):
                if turn:
                    found[n, 0], found[n, 1], found[n, 2] = features[f], start, min(start + step, examples)
                n += 1
        if not turn:
            found = np.empty((n, 3), np.int64)
    return found


@lru_cache(maxsize=32)
def reader(dim: int, training: bool) -> Callable[..., tuple[int, int]]:
    """Return the look-up kernel, compiled for a dimension.

    The kernel is read(slots, floats, words, ids, offsets, weights, means, tables, features, seconds, rows, lines, shares,
    places, distinct, without, of_table, out) -> (found, missing). It pools the bags of `features` into `out`, float32
    [B, F * dim]; ids without a row contribute zeros. In training, the kernel also counts occurrences, updates the time when
    each row was last seen to `seconds`, and fills the buffers of `LookupContext`. Otherwise it writes only `rows`, which is its
    working memory.

    Args:
        dim: Number of weights in a row, D.
        training: Whether to count occurrences and prepare an update.
    """
    end = np.uint64(WEIGHTS + dim - 1)

    @jit(nogil=True, error_model="numpy", fastmath=FAST)
    def read(  # type: ignore[no-untyped-def]
        slots, floats, words, ids, offsets, weights, means, tables, features, seconds,
        rows, lines, shares, places, distinct, without, of_table, out,
    ):  # fmt: skip
        examples = len(out)
        weighted = len(weights) > 0
        found, missing = 0, 0
        blocks = _blocks(features, offsets, examples)
        for b in range(-2, len(blocks)):
            if b + 2 < len(blocks):
                feature, start, stop = blocks[b + 2, 0], blocks[b + 2, 1], blocks[b + 2, 2]
                bags = feature * examples
                _prefetch_slots(slots, tables[feature], ids, rows, offsets[bags + start], offsets[bags + stop])
            if b >= -1 and b + 1 < len(blocks):
                feature, start, stop = blocks[b + 1, 0], blocks[b + 1, 1], blocks[b + 1, 2]
                bags = feature * examples
                _find(slots, floats, tables[feature], ids, rows, offsets[bags + start], offsets[bags + stop], end)
                for example in range(start, stop):
                    prefetch(out, np.uint64(example), np.uint64(feature * dim))
            if b < 0:
                continue
            feature = blocks[b, 0]
            table, mean = tables[feature], means[feature]
            column, bags = np.uint64(feature * dim), feature * examples
            for example in range(blocks[b, 1], blocks[b, 2]):
                bag, line = np.uint64(bags + example), np.uint64(example)
                begins, ends = offsets[bag], offsets[bag + np.uint64(1)]
                alone = ends - begins == 1 and not weighted
                if not alone or rows[begins] == EMPTY:
                    for d in range(dim):
                        out[line, column + np.uint64(d)] = 0
                for at in range(begins, ends):
                    i = np.uint64(at)
                    share = weights[i] if weighted else np.float32(1)
                    if mean and ends - begins > 1:
                        share /= np.float32(ends - begins)
                    if training:
                        lines[i] = example * len(means) + feature
                        shares[i] = share
                    if rows[i] == EMPTY:
                        if training:
                            places[i] = _NONE
                            without[np.uint64(missing)], of_table[np.uint64(missing)] = at, table
                            missing += 1
                        continue
                    row = np.uint64(rows[i])
                    if training:
                        words[row, np.uint64(COUNT)] += words[row, np.uint64(COUNT)] != MOST
                        if seconds > np.int64(np.uint32(words[row, np.uint64(SEEN)])):
                            words[row, np.uint64(SEEN)] = np.int32(np.uint32(seconds))
                        found = _list_row(words, row, i, found, places, distinct)
                    if alone:
                        for d in range(dim):
                            out[line, column + np.uint64(d)] = floats[row, np.uint64(WEIGHTS + d)]
                    else:
                        for d in range(dim):
                            out[line, column + np.uint64(d)] += share * floats[row, np.uint64(WEIGHTS + d)]
        return found, missing

    return read


@jit(inline="always")
def _list_row(words, row, i, found, places, distinct):  # type: ignore[no-untyped-def]
    """Add the row of an occurrence to `distinct`, unless it has been added before.

    A row has been added if `distinct` contains it at the row's place. This is a sparse set (Briggs and Torczon, 1993), so the
    places need not be cleared between batches.
    """
    place = np.uint64(np.uint32(words[row, np.uint64(PLACE)]))
    if place < np.uint64(found) and np.uint64(distinct[place]) == row:
        places[i] = place
        return found
    words[row, np.uint64(PLACE)], places[i] = found, found
    distinct[np.uint64(found)] = row
    return found + 1


@jit(nogil=True)
def add_admitted(floats, words, dim, offsets, rows, lines, shares, places, distinct, found, without, features, out):  # type: ignore[no-untyped-def]
    """Process the occurrences in `without` whose ids have been admitted: sum their bags again, and complete the context.

    Returns the number of distinct rows. `features` is the number of features, F.
    """
    examples = len(out)
    done = np.int64(-1)
    for n in range(len(without)):
        i = without[n]
        row = rows[i]
        if row == 0:
            continue
        found = _list_row(words, np.uint64(row), np.uint64(i), found, places, distinct)
        if lines[i] == done:
            continue
        done = np.int64(lines[i])
        example, feature = done // features, done % features
        bag = feature * examples + example
        for d in range(dim):
            out[example, feature * dim + d] = 0
        for at in range(offsets[bag], offsets[bag + 1]):
            if rows[at] > 0:
                for d in range(dim):
                    out[example, feature * dim + d] += shares[at] * floats[rows[at], WEIGHTS + d]
    return found
