"""Seeded negative sampling: draws items that a user could have been shown and did not choose.

For a logged event at time t, the candidates are the items with an event in `[t - window, t)`, so no item comes from the
future. The user's own items of the day, and of the window before the day's first event, are excluded. Draws depend only on the
seed, the day and the position of the event in the day, so any division of the day into tasks gives the same negatives.

The `sample_rate` of a negative is the probability that its item is drawn for the event. The `sample_rate` of a positive is the
probability that its item would be drawn if it were a candidate. With k = per_positive:

| `draw`       | sampling                                                          | sample_rate                      |
|--------------|-------------------------------------------------------------------|----------------------------------|
| uniform      | k distinct items of the C candidates; all candidates if C < k     | min(1, k / C)                    |
| popularity   | k independent draws from the window's events of candidate items;  | 1 - (1 - p)^k, where p is the    |
|              | an item that is drawn twice is one negative                       | item's share of these events     |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.catalog.spec import Negatives
from ml.compute.kernel_cache import jit
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.columns import plain
from ml.features.hashing import feature_seed, hash_values
from ml.features.hashtable import count_distinct, find, insert, slots_for
from ml.features.transforms import SAMPLED_LABEL
from ml.hashing import GOLDEN, mix64
from ml.schema import EVENT_TIME, SAMPLE_RATE

# Number of attempts to draw an item that is not the user's own. After these, one of the candidate events is selected by rank.
_REDRAWS = 64


@dataclass(frozen=True)
class Events:
    """E logged events in time order, from a window before the day to its end.

    Attributes:
        time: int64 [E], event times in microseconds.
        user: int64 [E], hashed users; 0 if missing.
        item: int64 [E], hashed items; 0 if missing.
        values: Arrow array [E], the items as logged.
    """

    time: np.ndarray
    user: np.ndarray
    item: np.ndarray
    values: pa.Array

    @classmethod
    def of(cls, table: pa.Table, user: str, item: str) -> Events:
        """Builds the events of a log.

        Args:
            table: Rows in time order, with event_time and the two columns below.
            user: Name of the user column.
            item: Name of the item column.
        """
        values = plain(table[item].combine_chunks())
        users = hash_values("user", table[user].combine_chunks())
        return cls(table[EVENT_TIME].to_numpy(), users, hash_values("item", values), values)


@dataclass(frozen=True)
class Sample:
    """M negatives of the N events of a task, in the order of the events.

    Attributes:
        positive: int64 [M], index of the negative's event among the task's events.
        event: int64 [M], index in `Events` of an event of the drawn item.
        rate: float32 [M], sample rate of each negative.
        own_rate: float32 [N], sample rate of each event of the task.
        without: Number of the task's events without a candidate.
    """

    positive: np.ndarray
    event: np.ndarray
    rate: np.ndarray
    own_rate: np.ndarray
    without: int


@jit(inline="always")
def _next(state):  # type: ignore[no-untyped-def]
    # SplitMix64. Each event has its own stream, which starts at the number of the event.
    state[0] += np.uint64(GOLDEN)
    return mix64(state[0])


@jit(inline="always")
def _below(state, n):  # type: ignore[no-untyped-def]
    return np.int64(_next(state) % np.uint64(n))


@jit
def _add(tree, at, amount):  # type: ignore[no-untyped-def]
    at += 1
    while at < len(tree):
        tree[at] += amount
        at += at & -at


@jit
def _sum(tree, end):  # type: ignore[no-untyped-def]
    total = 0
    while end > 0:
        total += tree[end]
        end -= end & -end
    return total


@jit
def _select(tree, rank):  # type: ignore[no-untyped-def]
    # The position of the mark that has `rank` marks before it.
    at, step = 0, 1
    while step * 2 < len(tree):
        step *= 2
    while step:
        if at + step < len(tree) and tree[at + step] <= rank:
            at += step
            rank -= tree[at]
        step //= 2
    return at


@jit
def _is_own(own, code):  # type: ignore[no-untyped-def]
    at = np.searchsorted(own, code)
    return at < len(own) and own[at] == code


@jit
def _draw_items(state, k, first, last, tree, own_places, picks):  # type: ignore[no-untyped-def]
    # `tree` counts marks; an item's mark is at its last event in the window. `own_places` are the marks of the user's items.
    before = _sum(tree, first)
    own_ranks = np.array([_sum(tree, place) - before for place in own_places], dtype=np.int64)
    candidates = _sum(tree, last) - before - len(own_places)
    drawn = min(k, candidates)
    chosen = np.empty(drawn, np.int64)
    for n in range(drawn):  # Floyd's sample of distinct ranks
        highest = candidates - drawn + n
        rank = _below(state, highest + 1)
        for earlier in range(n):
            if chosen[earlier] == rank:
                rank = highest
                break
        chosen[n] = rank
    for n in range(drawn):
        rank = chosen[n]
        for own in own_ranks:  # ascending; each own item at or below the rank moves it up by one
            if own <= rank:
                rank += 1
        picks[n] = _select(tree, before + rank)
    return drawn, candidates


@jit
def _draw_events(state, k, first, last, codes, own, total, picks):  # type: ignore[no-untyped-def]
    drawn = 0
    for _ in range(k):
        pick = -1
        for _ in range(_REDRAWS):
            at = first + _below(state, last - first)
            if codes[at] >= 0 and not _is_own(own, codes[at]):
                pick = at
                break
        if pick < 0:
            rank = _below(state, total)
            for at in range(first, last):
                if codes[at] >= 0 and not _is_own(own, codes[at]):
                    if rank == 0:
                        pick = at
                        break
                    rank -= 1
        seen = False
        for n in range(drawn):
            seen = seen or codes[picks[n]] == codes[pick]
        if not seen:
            picks[drawn] = pick
            drawn += 1
    return drawn


@jit
def _rate(k, total, taken, popularity):  # type: ignore[no-untyped-def]
    """Returns the sample rate by the table at the top; `taken` is the number of the item's events in the window."""
    if not popularity:
        return min(1.0, k / total)
    share = taken / total
    return 1.0 if share >= 1.0 else -math.expm1(k * math.log1p(-share))


@jit
def _sample(  # type: ignore[no-untyped-def]
    time, codes, items, start, stop, number, users, own_offsets, own_items, window, k, popularity, seed
):
    # time, codes: the events from the first event that a window reaches.
    # start, stop: the task's events among them. number: position in the day of the task's first event.
    n = stop - start
    positive, event = np.empty(n * k, np.int64), np.empty(n * k, np.int64)
    rate, own_rate = np.empty(n * k, np.float32), np.ones(n, np.float32)
    tree = np.zeros(stop + 1, np.int64)
    last_seen = np.full(items, -1, np.int64)
    in_window = np.zeros(items, np.int64)
    state = np.zeros(1, np.uint64)
    picks = np.empty(k, np.int64)
    m = without = first = last = known = 0
    for i in range(n):
        now = time[start + i]
        while last < stop and time[last] < now:
            code = codes[last]
            if code >= 0:
                if last_seen[code] >= 0:
                    _add(tree, last_seen[code], -1)
                _add(tree, last, 1)
                last_seen[code] = last
                in_window[code] += 1
                known += 1
            last += 1
        while first < last and time[first] < now - window:
            if codes[first] >= 0:
                in_window[codes[first]] -= 1
                known -= 1
            first += 1
        # Without a user, the only own item is the event's item.
        own = (
            own_items[own_offsets[users[i]] : own_offsets[users[i] + 1]] if users[i] >= 0 else codes[start + i : start + i + 1]
        )
        own_places = np.empty(len(own), np.int64)
        places = own_events = 0
        for code in own:
            if code >= 0 and in_window[code] > 0:
                own_places[places] = last_seen[code]
                own_events += in_window[code]
                places += 1
        state[0] = seed ^ (np.uint64(number + i) * np.uint64(0xD1342543DE82EF95))
        _next(state)
        if popularity:
            total = known - own_events
            drawn = _draw_events(state, k, first, last, codes, own, total, picks) if total > 0 else 0
        else:
            drawn, total = _draw_items(state, k, first, last, tree, np.sort(own_places[:places]), picks)
        for j in range(drawn):
            positive[m], event[m] = i, picks[j]
            rate[m] = _rate(k, total, in_window[codes[picks[j]]], popularity)
            m += 1
        if drawn:  # an item without an event in the window counts as one event, the current one
            taken = in_window[codes[start + i]] if codes[start + i] >= 0 else 0
            own_rate[i] = _rate(k, total, max(taken, 1), popularity)
        without += drawn == 0
    return positive[:m].copy(), event[:m].copy(), rate[:m].copy(), own_rate, without


def _codes(keys: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    slots = np.zeros(slots_for(len(distinct)), np.int64)
    places = np.zeros(len(slots), np.int64)
    insert(slots, places, distinct)
    return find(slots, places, keys, -1)


def sample(events: Events, start: int, stop: int, number: int, negatives: Negatives, day: str) -> Sample:
    """Draws negatives for `events[start:stop]`, the rows of one task.

    The draws are deterministic in `negatives.seed`, the day and the position of each event in the day.

    Args:
        events: All events of the day, and of the window before its first event.
        start: Index of the task's first event.
        stop: Index after the task's last event.
        number: Position of the task's first event in the day.
        negatives: The catalog entry's settings of negatives.
        day: The partition key.

    Returns:
        The negatives and the sample rates of the positives.
    """
    window = round(negatives.window_hours * MICROSECONDS_PER_HOUR)
    none = np.zeros(0, np.int64)
    if start == stop:
        return Sample(none, none, np.zeros(0, np.float32), np.zeros(0, np.float32), 0)
    users = count_distinct(events.user[start:stop], slots_for(stop - start))[0]
    user = _codes(events.user, users)
    items = count_distinct(events.item, slots_for(len(events.item)))[0]
    codes = _codes(events.item, items)
    owned = (user >= 0) & (codes >= 0) & (events.time >= events.time[start - number] - window)
    pairs = np.unique(user[owned] * len(items) + codes[owned])
    own_offsets = np.searchsorted(pairs, np.arange(len(users) + 1) * len(items))
    reach = int(np.searchsorted(events.time, events.time[start] - window))
    positive, event, rate, own_rate, without = _sample(
        events.time[reach:stop],
        codes[reach:stop],
        len(items),
        start - reach,
        stop - reach,
        number,
        user[start:stop],
        own_offsets,
        pairs % max(1, len(items)),
        window,
        negatives.per_positive,
        negatives.draw == "popularity",
        feature_seed(f"negatives {negatives.seed} {day}"),
    )
    return Sample(positive, event + reach, rate, own_rate, without)


def with_negatives(rows: pa.Table, item: str, events: Events, sampled: Sample) -> pa.Table:
    """Inserts the negatives of each row after the row.

    Args:
        rows: N rows of the log.
        item: Name of the item column.
        events: The log that `sampled` refers to.
        sampled: M negatives of the rows.

    Returns:
        N + M rows with the columns `SAMPLED_LABEL` (1 for a row of the log, 0 for a negative) and sample_rate. A negative is a
        copy of its row with another item.
    """
    n, m = len(rows), len(sampled.positive)
    order = np.argsort(np.concatenate((np.arange(n), sampled.positive)), kind="stable")
    base = np.concatenate((np.arange(n), sampled.positive))[order]
    own = plain(rows[item].combine_chunks())
    items = pa.concat_arrays([own, events.values.take(pa.array(sampled.event)).cast(own.type)]).take(pa.array(order))
    expanded = rows.take(pa.array(base)).set_column(rows.schema.get_field_index(item), item, items)
    label = np.concatenate((np.ones(n, np.float32), np.zeros(m, np.float32)))[order]
    rate = np.concatenate((sampled.own_rate, sampled.rate))[order]
    return expanded.append_column(SAMPLED_LABEL, pa.array(label)).append_column(SAMPLE_RATE, pa.array(rate))
