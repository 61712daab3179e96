"""From ids to bags, block by block: memory is asked for the map's slots of a block, then for the rows found there, then these
are summed into bags, so that the processor waits for many places at once and each is fetched from memory once.

Occurrences come feature by feature, as in a KeyedJaggedTensor: bag f * B + b of feature f and example b holds occurrences
offsets[f * B + b] to the next. Kernels take some of the features; features of different tables may run in threads, for no row
is of two tables, and whatever the threads, a row's occurrences are seen in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, ROW_MASK, home_of
from ml.embeddings.collisionless.prefetch import prefetch
from ml.embeddings.collisionless.row_layout import COUNT, MOST, PLACE, SEEN, WEIGHTS

FAST = {"reassoc", "contract"}
_NONE = -1
_BLOCK = 32  # occurrences between asking for memory and using it: few enough to be in the first cache still


@dataclass
class PartitionBuffers:
    """Of one part, whose features these are, int64: the rows that occur, int64 [N], of which the first `found` count; positions
    of occurrences without a row, and their tables, int64 [N], of which the first `missing` count; and room for the summed
    gradients of the rows, float32 [N, D]."""

    features: NDArray[np.int64]
    distinct: NDArray[np.int64]
    without: NDArray[np.int64]
    tables: NDArray[np.int64]
    summed: NDArray[np.float32]
    found: int = 0
    missing: int = 0

    @classmethod
    def room_for(cls, n: int, dim: int) -> PartitionBuffers:
        distinct, without, tables = (np.empty(n, np.int64) for _ in range(3))
        return cls(np.empty(0, np.int64), distinct, without, tables, np.empty((n, dim), np.float32))


@dataclass
class LookupContext:
    """What a pass over N occurrences leaves behind for the update. By occurrence: its row, int64 [N]; the line of the gradient
    [B * F, D] that is its bag's, int32 [N]; its weight in the bag, float32 [N]; where its part lists its row, -1 where it has
    none, int32 [N]. And the lists of each part."""

    rows: NDArray[np.int64]
    lines: NDArray[np.int32]
    shares: NDArray[np.float32]
    places: NDArray[np.int32]
    parts: list[PartitionBuffers]

    @classmethod
    def room_for(cls, n: int) -> LookupContext:
        return cls(np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int32), [])

    def partition(self, parts: list[NDArray[np.int64]], dim: int) -> None:
        """PartitionBuffers for these parts, from those that are there as far as they go."""
        n = len(self.rows)
        for number, features in enumerate(parts):
            if number == len(self.parts):
                self.parts.append(PartitionBuffers.room_for(n, dim))
            self.parts[number].features = features
        for spare in self.parts[len(parts) :]:
            spare.features = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.rows)


@jit(error_model="numpy")
def _ask(slots, table, ids, rows, first, last):  # type: ignore[no-untyped-def]
    """Ask memory for the slots where the occurrences [first, last) should be, and note in `rows` where that is."""
    mask = len(slots) - 1
    for at in range(first, last):
        i = np.uint64(at)
        home = home_of(table, ids[i], mask)
        rows[i] = home
        prefetch(slots, np.uint64(home), np.uint64(0))


@jit(error_model="numpy")
def _find(slots, floats, table, ids, rows, first, last, end):  # type: ignore[no-untyped-def]
    """Rows of the occurrences [first, last), EMPTY for those without, which `_ask` has asked for; and ask for the rows, of
    which the last word needed is `end`."""
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
    """int64 [n, 3]: feature, first and last example of blocks of about _BLOCK occurrences, in order."""
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
    """read(slots, floats, words, ids, offsets, weights, means, tables, features, seconds, *context, out) -> (found, missing).

    Pools the bags of `features` into out, float32 [B, F * dim]; rows that are not there add nothing. In training it also
    counts, touches and fills the context (see `LookupContext`); else it writes nothing but `rows`, in which it works.

    ids: int64 [N]. weights: float32 [N], or empty. means: bool [F], whether a feature's bags are averaged. tables: int64 [F].
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
                _ask(slots, tables[feature], ids, rows, offsets[bags + start], offsets[bags + stop])
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
                        found = _note(words, row, i, found, places, distinct)
                    if alone:
                        for d in range(dim):
                            out[line, column + np.uint64(d)] = floats[row, np.uint64(WEIGHTS + d)]
                    else:
                        for d in range(dim):
                            out[line, column + np.uint64(d)] += share * floats[row, np.uint64(WEIGHTS + d)]
        return found, missing

    return read


@jit(inline="always")
def _note(words, row, i, found, places, distinct):  # type: ignore[no-untyped-def]
    """List an occurrence's row. It is on the list if the list says so where the row thinks it stands (Briggs and Torczon, 1993,
    sparse sets), so nothing needs to be cleared between batches."""
    place = np.uint64(np.uint32(words[row, np.uint64(PLACE)]))
    if place < np.uint64(found) and np.uint64(distinct[place]) == row:
        places[i] = place
        return found
    words[row, np.uint64(PLACE)], places[i] = found, found
    distinct[np.uint64(found)] = row
    return found + 1


@jit(nogil=True)
def add_admitted(floats, words, dim, offsets, rows, lines, shares, places, distinct, found, without, features, out):  # type: ignore[no-untyped-def]
    """Put right what `read` left out: occurrences `without` a row that have one now. Their bags are summed anew, in order, and
    the context is completed; how many rows are found now. features: how many there are."""
    examples = len(out)
    done = np.int64(-1)
    for n in range(len(without)):
        i = without[n]
        row = rows[i]
        if row == 0:
            continue
        found = _note(words, np.uint64(row), np.uint64(i), found, places, distinct)
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
