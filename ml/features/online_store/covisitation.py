"""Pairs of entities that occur in the same sessions: how events become pairs, and the values of entities given a session.

The context of an event is the set of entities of the last events of its session before it. Each event counts one pair with each
other entity of its context. If an event arrives late, the contexts of later events of its session can change; the pairs that
they had are then counted with weight -1, at the same time, and those that they have now with weight 1.
"""

from __future__ import annotations

import lmdb
import numpy as np

from ml.features.online_store.append import append_events
from ml.features.online_store.environment import Environment
from ml.features.online_store.events import Events
from ml.features.online_store.plan import CovisitationPlan
from ml.features.online_store.snapshot import Entities
from ml.features.point_in_time.covisitation import pair_key
from ml.features.point_in_time.values import span_of
from ml.features.point_in_time.windows import bounds
from ml.schema import MISSING_ID


def apply_sessions(
    txn: lmdb.Transaction,
    held: Environment,
    plan: CovisitationPlan,
    sessions: np.ndarray,
    entities: np.ndarray,
    times: np.ndarray,
) -> None:
    """Apply events to the series of a co-visitation value.

    Args:
        txn: A transaction that writes.
        held: The environment.
        plan: The series.
        sessions: int64 [N], keys of sessions.
        entities: int64 [N], keys of entities.
        times: int64 [N].
    """
    known = (sessions != MISSING_ID) & (entities != MISSING_ID)
    sessions, entities, times = sessions[known], entities[known], times[known]
    if not len(times):
        return
    events = Events.of(sessions, times, entities[None])
    later = _later_events(txn, held, plan, events)
    before = contexts(txn, held, plan, later[0], later[2])
    append_events(txn, held, plan.sessions, events)
    pairs = [
        _pairs(later[1], later[2], before, -1.0),
        _pairs(later[1], later[2], contexts(txn, held, plan, later[0], later[2]), 1.0),
        _pairs(entities, times, contexts(txn, held, plan, sessions, times), 1.0),
    ]
    a, b, at, weight = (np.concatenate(part) for part in zip(*pairs, strict=True))
    words = weight.view(np.int64)[None]
    append_events(txn, held, plan.pairs, Events.of(pair_key(a, b), at, words))
    both, twice = np.concatenate((a, b)), np.concatenate((at, at))
    append_events(txn, held, plan.totals, Events.of(both, twice, np.tile(words, 2)))


def contexts(
    txn: lmdb.Transaction, held: Environment, plan: CovisitationPlan, sessions: np.ndarray, at: np.ndarray, known_after: int = 0
) -> np.ndarray:
    """Return the entities of the last events of sessions, int64 [N, context], each once; 0 where there are fewer."""
    value = plan.value
    lows, highs = bounds(at, span_of(value.hours), known_after)
    held_entities, lengths = Entities(txn, held, plan.sessions, sessions).last(lows, highs, 0, value.context)
    found = np.where(np.arange(value.context) < lengths[:, None], held_entities, MISSING_ID)
    found.sort(axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = MISSING_ID
    return found


def covisitation(
    txn: lmdb.Transaction,
    held: Environment,
    plan: CovisitationPlan,
    entities: np.ndarray,
    sessions: np.ndarray,
    at: np.ndarray,
    known_after: int,
) -> np.ndarray:
    """Compute the value of each entity given a session.

    Args:
        txn: A transaction.
        held: The environment.
        plan: The series.
        entities: int64 [N], keys of entities.
        sessions: int64 [N], keys of sessions.
        at: int64 [N], instants in microseconds.
        known_after: Microseconds after its event time at which an event is known.

    Returns:
        float64 [N]; NaN without a context.
    """
    places, sessions_at = _distinct(sessions, at)
    context = contexts(txn, held, plan, *sessions_at, known_after)  # [D, context]
    sizes = (context != MISSING_ID).sum(axis=1)
    row, place = np.nonzero(context)
    totals = np.zeros(context.shape)
    totals[row, place] = _weights(txn, held, plan, context[row, place], sessions_at[1][row], known_after, pairs=False)
    context, totals, sizes = context[places], totals[places], sizes[places]  # [N, context]
    wanted = (context != MISSING_ID) & (context != entities[:, None]) & (totals > 0) & (entities != MISSING_ID)[:, None]
    row, place = np.nonzero(wanted)
    keys = pair_key(context[row, place], entities[row])
    shares = np.zeros(context.shape)
    shares[row, place] = _weights(txn, held, plan, keys, at[row], known_after, pairs=True) / (
        totals[row, place] + plan.value.strength
    )
    values = np.full(len(entities), np.nan)
    np.divide(shares.sum(axis=1), sizes, out=values, where=(sizes > 0) & (entities != MISSING_ID))
    return values


def _weights(
    txn: lmdb.Transaction,
    held: Environment,
    plan: CovisitationPlan,
    keys: np.ndarray,
    at: np.ndarray,
    known_after: int,
    *,
    pairs: bool,
) -> np.ndarray:
    """Return the sums of weights of pairs in the window, float64 [N]."""
    lows, highs = bounds(at, span_of(plan.value.hours), known_after)
    state = Entities(txn, held, plan.pairs if pairs else plan.totals, keys)
    return state.totals(highs)[1][:, 0] - state.totals(np.minimum(lows, highs))[1][:, 0]


def _distinct(sessions: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the distinct pairs of session and instant, after the index of the pair of each row."""
    if len(sessions) and (sessions == sessions[0]).all() and (at == at[0]).all():  # candidates of one request
        return np.zeros(len(sessions), np.int64), (sessions[:1], at[:1])
    both = np.stack((sessions, at))
    distinct, places = np.unique(both, axis=1, return_inverse=True)
    return places.reshape(-1), (distinct[0], distinct[1])


def _pairs(b: np.ndarray, times: np.ndarray, context: np.ndarray, weight: float) -> tuple[np.ndarray, ...]:
    """Return the pairs of events with their contexts: two entities, the time and the weight of each."""
    row, place = np.nonzero((context != MISSING_ID) & (context != b[:, None]))
    return context[row, place], b[row], times[row], np.full(len(row), weight)


def _later_events(
    txn: lmdb.Transaction, held: Environment, plan: CovisitationPlan, events: Events
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sessions, entities and times of stored events that are later than a new event of their session."""
    newest = Entities(txn, held, plan.sessions, events.ids).newest
    first = events.times[events.starts[:-1]]
    none = np.zeros(0, np.int64)
    found = [(none, none, none)]
    for g in np.flatnonzero(newest > first):
        session = events.ids[g : g + 1]
        times, entities = Entities(txn, held, plan.sessions, session).events_after(int(session[0]), int(first[g]))
        found.append((np.full(len(times), session[0]), entities, times))
    sessions, entities, times = (np.concatenate(part) for part in zip(*found, strict=True))
    return sessions, entities, times
