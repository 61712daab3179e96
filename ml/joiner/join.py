"""The join of impressions and actions, as one function of Arrow tables. The daily catch-up and the live stream both call it.

- Impressions with the same key, each less than the longest wait after the one before, are one impression. The earliest is the
  example; of several at the same instant, the one with the smallest values (`order_by`). The others are repeated.
- An action counts for a label if the label lists its type, and if `ti <= ta < ti + wait` holds for the times of the example and
  of the action. The delay is the time to the first such action, so repeated actions do not matter.
- The weight of an example, for a label whose types have weights, is the largest weight of such an action; without one, 1.
- Each action has an outcome: it counted, it repeats another one, or a reason says why it did not count.

The result depends on the rows alone, not on their order.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.actions import ActionLabel, Actions, delay_column, weight_column
from ml.days import MICROSECONDS_PER_SECOND
from ml.joiner.keys import KeyCodes, event_times, order_by, without_nulls
from ml.schema import EVENT_TIME

MATCHED, REPEATED, NO_KEY = "matched", "repeated", "key missing"
BEFORE, AFTER_WAIT, NO_IMPRESSION = "before the impression", "after the wait", "no impression"
NO_LABEL, LATE = "type of no label", "late"
REASONS = (BEFORE, AFTER_WAIT, NO_IMPRESSION, NO_LABEL, LATE, NO_KEY)
"""Why an action did not count. `late` is the reason of a stream: the action arrived after the example was written."""
REASON = "reason"
LOOK_BACK_WAITS = 2
"""How many waits before an action its impression is searched. If it is older, the outcome is `no impression`."""


@dataclass(frozen=True)
class Joined:
    """The result of joining the impressions of a span of time.

    Attributes:
        examples: Impressions, each once, in time order, with the columns of the labels, [N].
        known: Key columns, event time, labels and weights of all impressions, `earlier` ones included, [M]: `earlier` of the
            next span.
        repeated: Number of impressions that repeat another one.
        without_key: Number of impressions in which a column of the key is missing. They are not among the examples.
        actions: Number of actions within the span, by outcome: `matched`, `repeated`, or a reason.
        unmatched: Actions within the span that did not count, with the reason in a further column, [Q].
    """

    examples: pa.Table
    known: pa.Table
    repeated: int
    without_key: int
    actions: Counter[str]
    unmatched: pa.Table


def join(rules: Actions, impressions: pa.Table, actions: pa.Table, until: int, earlier: pa.Table | None = None) -> Joined:
    """Joins the impressions of a span of time with actions.

    Args:
        rules: The catalog's `actions`.
        impressions: All impressions of the span in any order: `event_time` (microseconds since 1970 UTC) and columns, [N].
        actions: All actions from the start of the span to its end and the longest wait, in any order, [A].
        until: End of the span, exclusive. Actions from then on have no outcome: they belong to the next span.
        earlier: Impressions before the span, at least those of the last `look_back(rules)`: columns of the key and
            `event_time`; with the columns of labels and weights, an action that they do not show is judged `late`.

    Example:
        >>> from ml.catalog.actions import ActionLabel
        >>> from ml.catalog.reading import Source, Time
        >>> rules = Actions(
        ...     source=Source(files="a.csv", format="csv", columns={"time": "int", "request": "int"}), time=Time(column="time"),
        ...     key=("request",), labels={"clicked": ActionLabel(within_minutes=1)})
        >>> shown = pa.table({"event_time": [0, 5_000_000], "request": [1, 2]})
        >>> done = pa.table({"event_time": [7_500_000], "request": [2]})
        >>> join(rules, shown, done, until=60_000_000).examples.select(["clicked", "clicked_delay"]).to_pylist()
        [{'clicked': 0, 'clicked_delay': None}, {'clicked': 1, 'clicked_delay': 2.5}]
    """
    shown, without_key = without_nulls(impressions, rules.key)
    done, _ = without_nulls(actions, rules.key)
    columns = [*rules.key, EVENT_TIME]
    known = shown.select(columns)
    if earlier is not None and len(earlier):
        known = pa.concat_tables([known, earlier.select(columns)], promote_options="permissive").combine_chunks()
    codes = KeyCodes.of([known, done], rules.key)
    seen, acted = codes.positions

    order = _in_order(seen, shown)  # positions of `known` by key, then time, then values
    code, time = codes.split(seen[order])
    is_first = np.ones(len(order), bool)
    is_first[1:] = (code[1:] != code[:-1]) | (time[1:] - time[:-1] >= rules.wait)
    first = order[is_first]  # in order of key and time

    type_weights = {name: _type_weights(rules, name, done) for name in rules.labels}
    delays = {
        name: _first_delay(codes, seen, np.sort(acted[~np.isnan(type_weights[name])]), label.wait)
        for name, label in rules.labels.items()
    }
    weights = {
        name: _max_weights(label, type_weights[name], codes, seen, acted)
        for name, label in rules.labels.items()
        if label.weights
    }
    examples = order_by(shown, event_times(shown), first[first < len(shown)])
    rows = shown.take(pa.array(examples))
    for name, delay in delays.items():
        rows = rows.append_column(name, pa.array((delay[examples] >= 0).astype(np.int64)))
        found = delay[examples]
        seconds = pa.array(found / MICROSECONDS_PER_SECOND, mask=found < 0)
        rows = rows.append_column(delay_column(name), seconds)
        if name in weights:
            rows = rows.append_column(weight_column(name), pa.array(weights[name][examples]))

    shown_weights = _shown_weights(rules, delays, weights, len(shown), earlier)
    first_weights = {name: of[first] for name, of in shown_weights.items()}
    counts, reasons = _judge(rules, codes, seen[first], first_weights, type_weights, done, acted, until)
    if lost := int(np.count_nonzero(_inside(actions, until))) - int(np.count_nonzero(_inside(done, until))):
        counts[NO_KEY] += lost
    return Joined(
        examples=rows,
        known=_known(rules, known, shown_weights),
        repeated=int(np.count_nonzero(order[~is_first] < len(shown))),
        without_key=without_key,
        actions=counts,
        unmatched=pa.concat_tables([_with_reasons(done, reasons), _without_key(actions, rules.key, until)]),
    )


def match_counts(actions: Mapping[str, int]) -> tuple[int, int]:
    """Returns how many actions counted, and how many there were; repeated ones are left out.

    Args:
        actions: Number of actions by outcome, such as `Joined.actions`.
    """
    return actions.get(MATCHED, 0), sum(count for what, count in actions.items() if what != REPEATED)


def match_rate(actions: Mapping[str, int]) -> float | None:
    """Returns the share of actions that counted; repeated ones are left out. None without actions.

    >>> match_rate({"matched": 3, "no impression": 1, "repeated": 7})
    0.75
    """
    matched, total = match_counts(actions)
    return matched / total if total else None


def look_back(rules: Actions) -> int:
    """Returns how many microseconds of impressions before a span `join` needs."""
    return LOOK_BACK_WAITS * rules.wait


def _in_order(seen: NDArray[np.int64], shown: pa.Table) -> NDArray[np.int64]:
    """Positions of impressions by key and time, and at the same instant by values, int64 [M]."""
    order = np.argsort(seen, kind="stable")
    # Impressions of the span come first in `seen`. Earlier ones are never at the same instant as these.
    order[order < len(shown)] = order_by(shown, seen[: len(shown)])
    return order


def _first_delay(codes: KeyCodes, seen: NDArray[np.int64], acted: NDArray[np.int64], wait: int) -> NDArray[np.int64]:
    """Microseconds from each impression to the first of the sorted actions in the wait; -1 without one, int64 [M]."""
    delay = np.full(len(seen), -1, np.int64)
    if not len(acted):
        return delay
    at = np.searchsorted(acted, seen)
    found = np.flatnonzero(at < len(acted))
    code, time = codes.split(seen[found])
    action_code, action_time = codes.split(acted[at[found]])
    counts = (action_code == code) & (action_time - time < wait)
    delay[found[counts]] = (action_time - time)[counts]
    return delay


def _max_weights(
    label: ActionLabel, type_weights: NDArray[np.float64], codes: KeyCodes, seen: NDArray[np.int64], acted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Largest weight of an action that counts for each impression, 1.0 without one, float64 [M]."""
    weight = np.ones(len(seen))
    for value in sorted({label.weights.get(name, 1.0) for name in label.types}):
        weight[_first_delay(codes, seen, np.sort(acted[type_weights == value]), label.wait) >= 0] = value
    return weight


def _type_weights(rules: Actions, label: str, actions: pa.Table) -> NDArray[np.float64]:
    """Weight of each action for a label, 1.0 without weights, NaN for a type that the label does not list, float64 [A]."""
    if rules.type is None:
        return np.ones(len(actions))
    of_label, types = rules.labels[label], pc.cast(actions[rules.type], pa.string())
    place = pc.index_in(types, pa.array(of_label.types, pa.string())).fill_null(len(of_label.types)).to_numpy()
    return np.array([*(of_label.weights.get(name, 1.0) for name in of_label.types), np.nan])[place]


def _shown_weights(
    rules: Actions,
    delays: dict[str, NDArray[np.int64]],
    weights: dict[str, NDArray[np.float64]],
    count: int,
    earlier: pa.Table | None,
) -> dict[str, NDArray[np.float64]]:
    """The largest weight of an action that the written example shows, float64 [M] by label.

    It is `-inf` if the example does not show the label, and `inf` if it shows a label without weights. Earlier impressions
    without columns of labels show all labels.
    """
    found = {}
    for name in rules.labels:
        largest = np.where(delays[name] >= 0, weights.get(name, np.inf), -np.inf)
        if earlier is not None and len(earlier):
            shows = earlier[name].to_numpy().astype(bool) if name in earlier.column_names else np.ones(len(earlier), bool)
            of_name = weight_column(name)
            # Blocks of earlier versions have no weights.
            weight = earlier[of_name].fill_null(np.inf).to_numpy() if of_name in earlier.column_names else np.inf
            largest[count:] = np.where(shows, weight, -np.inf)
        found[name] = largest
    return found


def _judge(
    rules: Actions,
    codes: KeyCodes,
    first: NDArray[np.int64],
    first_weights: dict[str, NDArray[np.float64]],
    type_weights: dict[str, NDArray[np.float64]],
    actions: pa.Table,
    acted: NDArray[np.int64],
    until: int,
) -> tuple[Counter[str], NDArray[np.object_]]:
    """Returns the counts of outcomes, and the outcome of each action, object [A]; it is empty for actions after the span.

    An action is late if it counts for a label that the example of its impression does not show, or shows with a smaller weight.
    """
    verdict = np.full(len(actions), "", object)
    inside = _inside(actions, until)
    at = np.searchsorted(first, acted, side="right") - 1
    code, time = codes.split(acted)
    there_code, there_time = codes.split(first[np.maximum(at, 0)]) if len(first) else (code, time)
    after = (at >= 0) & (there_code == code) if len(first) else np.zeros(len(actions), bool)
    following = np.minimum(at + 1, max(len(first) - 1, 0))
    before = (at + 1 < len(first)) & (codes.split(first[following])[0] == code) if len(first) else after
    listed, in_time, is_late = (np.zeros(len(actions), bool) for _ in range(3))
    for name, label in rules.labels.items():
        typed = ~np.isnan(type_weights[name])
        now = typed & after & (time - there_time < label.wait)
        listed |= typed
        in_time |= now
        if len(first):
            is_late |= now & (type_weights[name] > first_weights[name][np.maximum(at, 0)])
    near = after & (time - there_time < look_back(rules))
    verdict[:] = NO_IMPRESSION
    verdict[before] = BEFORE
    verdict[near] = AFTER_WAIT
    verdict[in_time] = MATCHED
    verdict[is_late] = LATE
    verdict[~listed] = NO_LABEL
    verdict[_repeated(rules, actions, acted)] = REPEATED
    verdict[~inside] = ""
    return Counter(verdict[inside].tolist()), verdict


def _repeated(rules: Actions, actions: pa.Table, acted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each action repeats another one of the same key, instant and type, bool [A]."""
    repeated = np.zeros(len(actions), bool)
    if len(actions) < 2:
        return repeated
    types = pc.dictionary_encode(pc.cast(actions[rules.type], pa.string())) if rules.type else None
    kinds = np.zeros(len(actions), np.int64)
    if types is not None:
        kinds = pa.chunked_array(types).combine_chunks().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.lexsort((kinds, acted))
    same = (acted[order][1:] == acted[order][:-1]) & (kinds[order][1:] == kinds[order][:-1])
    repeated[order[1:][same]] = True
    return repeated


def _inside(actions: pa.Table, until: int) -> NDArray[np.bool_]:
    return event_times(actions) < until


def _known(rules: Actions, known: pa.Table, shown_weights: dict[str, NDArray[np.float64]]) -> pa.Table:
    for name, weight in shown_weights.items():
        known = known.append_column(name, pa.array((weight > -np.inf).astype(np.int8)))
        if rules.labels[name].weights:
            known = known.append_column(weight_column(name), pa.array(weight))
    return known


def _with_reasons(actions: pa.Table, verdicts: NDArray[np.object_]) -> pa.Table:
    kept = np.isin(verdicts, REASONS)
    return actions.filter(pa.array(kept)).append_column(REASON, pa.array(verdicts[kept], pa.string()))


def _without_key(actions: pa.Table, key: Sequence[str], until: int) -> pa.Table:
    missing = np.zeros(len(actions), bool)
    for column in key:
        missing |= pc.is_null(actions[column]).to_numpy()
    rows = actions.filter(pa.array(missing & _inside(actions, until)))
    return rows.append_column(REASON, pa.array([NO_KEY] * len(rows), pa.string()))
