"""Seeded negative sampling: items that could have been shown to a user, and were not taken.

For each logged event at time t, candidates are the items with an event in [t - window, t): never one from the future, and
never one of the user's own (those of the day, and of the window before its first event). Draws depend on the seed, the day
and the event's number in the day alone, so that tasks may share the day as they like.

`sample_rate` of a negative is the probability with which its item came to be drawn for that event, and that of a positive the
probability with which its own would have been, had it not been taken; with k = per_positive:

| draw         | draws                                                       | sample_rate          |
|--------------|-------------------------------------------------------------|----------------------|
| uniform      | k distinct ones of the C candidate items (all, where C < k) | min(1, k / C)        |
| popularity   | k of the window's events of candidate items, independently; | 1 - (1 - p)^k, where |
|              | an item drawn twice is one negative                         | p: its share of them |
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

# Draws of a popular item that is the user's own are drawn again, so often; then the rest are counted off one by one.
_REDRAWS = 64


@dataclass(frozen=True)
class Events:
    """Everything logged from a window before the day to its end, in time order. E events.

    time: int64 [E], microseconds; user, item: int64 [E], hashed, 0 where missing; values: the items as logged, [E].
    """

    time: np.ndarray
    user: np.ndarray
    item: np.ndarray
    values: pa.Array

    @classmethod
    def of(cls, table: pa.Table, user: str, item: str) -> Events:
        """From the log's rows in time order, with event_time, user and item columns."""
        values = plain(table[item].combine_chunks())
        users = hash_values("user", table[user].combine_chunks())
        return cls(table[EVENT_TIME].to_numpy(), users, hash_values("item", values), values)


@dataclass(frozen=True)
class Sample:
    """M negatives, in the order of their positives.

    positive: int64 [M], position among the task's events; event: int64 [M], position in `Events` of an event of the drawn item;
    rate: float32 [M]; own_rate: float32 [N], of the task's events; without: how many of these had no candidate.
    """

    positive: np.ndarray
    event: np.ndarray
    rate: np.ndarray
    own_rate: np.ndarray
    without: int


@jit(inline="always")
def _next(state):  # type: ignore[no-untyped-def]
    # SplitMix64: each event has its own stream, started at its number.
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
    # Position of the mark before which `rank` marks lie.
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
    # Marks (of each item, its last event in the window) lie from position `first`; own_places are those of the user's items.
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
        for own in own_ranks:  # ascending: each of the user's own at or below moves the rank up by one
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
    """The table at the top. taken: events of the item in the window."""
    if not popularity:
        return min(1.0, k / total)
    share = taken / total
    return 1.0 if share >= 1.0 else -math.expm1(k * math.log1p(-share))


@jit
def _sample(  # type: ignore[no-untyped-def]
    time, codes, items, start, stop, number, users, own_offsets, own_items, window, k, popularity, seed
):
    # time, codes: events from the first in reach. start, stop: the task's events among them; number: of the first, in the day.
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
        # An anonymous event's only own item is its own.
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
        if drawn:  # an item that nobody took in the window counts as taken once: now
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
    """Negatives for events[start:stop], the rows of one task; number: of the first of them, counted from the day's first.

    Every event of the window before the first, and of the whole day, must be among `events`. Deterministic in
    (negatives.seed, day) and each event's number.
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
    """rows [N] with each row's negatives behind it [N + M]: the row again, its item replaced, `SAMPLED_LABEL` 0, its rate."""
    n, m = len(rows), len(sampled.positive)
    order = np.argsort(np.concatenate((np.arange(n), sampled.positive)), kind="stable")
    base = np.concatenate((np.arange(n), sampled.positive))[order]
    own = plain(rows[item].combine_chunks())
    items = pa.concat_arrays([own, events.values.take(pa.array(sampled.event)).cast(own.type)]).take(pa.array(order))
    expanded = rows.take(pa.array(base)).set_column(rows.schema.get_field_index(item), item, items)
    label = np.concatenate((np.ones(n, np.float32), np.zeros(m, np.float32)))[order]
    rate = np.concatenate((sampled.own_rate, sampled.rate))[order]
    return expanded.append_column(SAMPLED_LABEL, pa.array(label)).append_column(SAMPLE_RATE, pa.array(rate))
