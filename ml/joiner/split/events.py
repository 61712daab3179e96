"""Turns joined rows into impressions, actions and the truth: which rows the joiner must give back, and with which label."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.joiner.split.options import SplitOptions

REQUEST, POSITION, SHOWN_AT, TYPE, AT = "request_id", "position", "shown_at", "type", "at"
ACTION = "click"
ARRIVAL, BAD = "arrival", "bad"
"""Columns of a stream that are not written: when a line arrives, in microseconds, and whether it is corrupt."""

NONE, IN_TIME, AFTER_WAIT, BEFORE, LOST, OUTSIDE, JOINED = (
    "none",
    "in time",
    "after the wait",
    "before the impression",
    "lost",
    "outside the days",
    "joined",
)
_ACTION_STATES = (NONE, IN_TIME, AFTER_WAIT, BEFORE, LOST, OUTSIDE)
_IMPRESSION_STATES = (JOINED, LOST, OUTSIDE)


@dataclass(frozen=True)
class Clock:
    """The clocks of the machines that log events.

    Attributes:
        first: First instant of the joined dataset's days, in microseconds since 1970-01-01 UTC.
        after: The instant after its last day.
        wrong_from: Start of the time in which clocks are wrong.
        wrong_until: Its end, exclusive.
        error: What is added to a time in between.
    """

    first: int
    after: int
    wrong_from: int = 0
    wrong_until: int = 0
    error: int = 0

    def read(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the times that are logged for events at some times, int64 [N]."""
        return np.where((times >= self.wrong_from) & (times < self.wrong_until), times + self.error, times)

    def is_outside(self, logged: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns whether logged times are in none of the dataset's days, bool [N]."""
        return (logged < self.first) | (logged >= self.after)


@dataclass(frozen=True)
class SplitRows:
    """The events of N joined rows.

    Attributes:
        impressions: Lines of impressions, with `ARRIVAL` and `BAD`, in no particular order.
        actions: Lines of actions, likewise.
        truth: One row for each joined row: the columns of the key, `shown_at`, what became of the `impression`, the `label`,
            the `delay` (microseconds to the action that was logged, missing without one), and what became of the `action`. The
            last three are repeated for each further type of actions, as `<type>_label` and so on.
    """

    impressions: pa.Table
    actions: pa.Table
    truth: pa.Table


def split_rows(
    rows: pa.Table,
    times: NDArray[np.int64],
    positive: dict[str, NDArray[np.bool_]],
    key: list[str],
    clock: Clock,
    options: SplitOptions,
    rng: np.random.Generator,
) -> SplitRows:
    """Splits joined rows into impressions and actions.

    Args:
        rows: Columns of the impressions, the key among them, [N].
        times: When each row was shown, int64 [N], microseconds since 1970-01-01 UTC.
        positive: For each type of action, which rows such an action follows, bool [N]. The type of the main label is the first.
        key: Columns that identify an impression.
        clock: What machines log as the time of an event.
        options: Delays and faults.
        rng: Draws them.
    """
    n = len(rows)
    delays = [np.minimum(options.delays.draw(rng, n), options.longest_delay) for _ in positive]
    shown_at = clock.read(times)
    is_acted = np.logical_or.reduce(list(positive.values()))
    is_shown = ~(is_acted & (rng.random(n) < options.orphans))
    shown, shown_readable = _arriving(rows.append_column(SHOWN_AT, pa.array(shown_at)), times, is_shown, options, rng)
    impression = np.select([~shown_readable, clock.is_outside(shown_at)], [1, 2], 0)
    truth = rows.select(key).append_column(SHOWN_AT, pa.array(shown_at))
    truth = truth.append_column("impression", _named(impression, _IMPRESSION_STATES))
    actions = []
    for (kind, is_positive), delay in zip(positive.items(), delays, strict=True):
        at = clock.read(times + delay)
        typed = rows.select(key).append_column(TYPE, _constant(kind, n)).append_column(AT, pa.array(at))
        done, readable = _arriving(typed, times + delay, is_positive, options, rng)
        actions.append(done)
        late, early = at - shown_at >= options.wait, at < shown_at
        action = np.select([~is_positive, ~readable, clock.is_outside(at), early, late], [0, 4, 5, 3, 2], 1)
        columns: dict[str, Any] = {
            "label": pa.array((action == 1).astype(np.int64)),
            "delay": pa.array(at - shown_at, mask=~is_positive),
            "action": _named(action, _ACTION_STATES),
        }
        for name, values in columns.items():
            truth = truth.append_column(truth_column(name, kind), values)
    return SplitRows(shown, pa.concat_tables(actions), truth)


def truth_column(name: str, kind: str) -> str:
    """Returns the column of the truth with `label`, `delay` or `action` for a type of actions.

    >>> truth_column("delay", ACTION), truth_column("delay", "bought")
    ('delay', 'bought_delay')
    """
    return name if kind == ACTION else f"{kind}_{name}"


def _arriving(
    rows: pa.Table, times: NDArray[np.int64], chosen: NDArray[np.bool_], options: SplitOptions, rng: np.random.Generator
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Returns the lines of the chosen rows, some of them twice, and which rows have a readable line, bool [N]."""
    twice = chosen & (rng.random(len(rows)) < options.duplicates)
    index = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(twice)])  # rows of lines: (lines,)
    delay = rng.exponential(1.0, len(index)) * options.transport
    again = slice(int(np.count_nonzero(chosen)), None)
    delay[again] = rng.uniform(0, options.disorder, len(index[again]))
    arrival = times[index] + np.minimum(delay, options.disorder).astype(np.int64)
    bad = rng.random(len(index)) < options.malformed
    readable = np.zeros(len(rows), bool)
    readable[index[~bad]] = True
    lines = rows.take(pa.array(index))
    return lines.append_column(ARRIVAL, pa.array(arrival)).append_column(BAD, pa.array(bad)), readable


def _named(codes: NDArray[np.int64], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names)).cast(pa.string())


def _constant(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), count)
