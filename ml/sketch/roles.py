"""Guesses what the columns of a log are: label, user, item and session, from their names and values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ml.logs.labels import NEGATIVE, POSITIVE
from ml.logs.labels import WORDS as WORDS_OF_LABELS
from ml.sketch.columns import Column, SampledLog
from ml.sketch.names import WORDS, split_name, thing_of, words_of

_LOGGED_ONLY = re.compile(r"(?i)propensity|pscore|probability")
_PAIRS = [{positive, negative} for positive, negative in zip(WORDS_OF_LABELS[POSITIVE], WORDS_OF_LABELS[NEGATIVE], strict=True)]
_LABELS = {*WORDS["label"], *WORDS["action"]}
FEW = 1000  # distinct values from which a column without a name may be a user or an item


@dataclass(frozen=True)
class Roles:
    """What columns are.

    Attributes:
        label: Keys of `label`; None if every row is a positive.
        user: Column of the user, or None.
        item: Column of the item, or None.
        session: Column of the session, or None.
        outcomes: Columns that look like further labels, which are no features.
        policy: Columns that only the logging policy knew, such as propensities.
        never_positive: A column that looks like a label, and has one value in the sample, which is not positive; or None.
    """

    label: dict[str, Any] | None
    user: str | None
    item: str | None
    session: str | None = None
    outcomes: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    never_positive: str | None = None


def find_roles(log: SampledLog, time: Collection[str], invented: bool) -> Roles:
    """Guess the roles of columns.

    Args:
        log: The sample.
        time: The columns of the event time.
        invented: Whether the columns have no names of their own. Then the first column with many values is the user, and the
            next one the item, if the log has times.
    """
    left = [column for column in log.columns if column.name not in time and column.values and not column.nested]
    label, session = _label(left, invented), None
    used = {label["column"]} if label else set()
    left = [column for column in left if column.name not in used]
    if invented:
        ids = [column for column in left if column.kind in ("int", "string") and not column.unique]
        many = [column.name for column in ids if column.distinct >= min(FEW, column.rows // 20)]
        named = _named(left, WORDS["item"])  # the items of lines have a name
        others = [name for name in many if name != named] if time and len(log.columns) < 12 else []
        user, item = next(iter(others), None), named or next(iter(others[1:]), None)
    else:
        user, item = _named(left, WORDS["user"]), _named(left, WORDS["item"])
        sessions = [c.name for c in left if {"session", "id"} <= words_of(c.name) or c.name.lower() in ("session", "sessionid")]
        session = sessions[0] if sessions else None
        user, session = (user, session) if user else (session, None)
    outcomes = tuple(
        c.name for c in left if c.name not in (user, item) and _is_binary(c) and words_of(c.name) & set(WORDS["label"])
    )
    policy = tuple(column.name for column in left if _LOGGED_ONLY.search(column.name))
    never_positive = None if label else next((c.name for c in left if _is_never_positive(c)), None)
    return Roles(label, user, item, session, outcomes, policy, never_positive)


def _is_never_positive(column: Column) -> bool:
    """Whether a column looks like a label, and all its values are one that means no positive event."""
    text, *others = {str(value).lower() for value in column.values}
    if others:
        return False
    is_zero = text in ("0", "0.0", "-1", "false", "no") and bool(words_of(column.name) & set(WORDS["label"]))
    return is_zero or (bool(words_of(column.name) & _LABELS) and _denies_wanted(text))


def _denies_wanted(text: str) -> bool:
    """Whether a value of a column of actions says that there was none, such as `no-click`."""
    words = set(re.split(r"[^a-z0-9]+", text))
    return bool(words & set(WORDS["wanted"])) and bool(words & {"no", "not", "non", "without"})


def _is_binary(column: Column) -> bool:
    return column.kind in ("int", "float", "bool") and 0 < column.distinct <= 2 and set(column.values) <= {0, 1}


def _named(columns: Sequence[Column], names: Sequence[str]) -> str | None:
    """The first column that names one of the things; ids are preferred to names."""
    held = [c for c in columns if thing_of(c.name) in names and c.distinct > 2 and c.kind in ("int", "string")]
    return min(held, key=lambda c: (names.index(thing_of(c.name)), "id" not in split_name(c.name))).name if held else None


def _label(columns: Sequence[Column], invented: bool) -> dict[str, Any] | None:
    """The first column whose name and values are those of a label; of columns without names, whose values are."""
    ways = ((WORDS["label"], _binary_label), (WORDS["rating"], _rating_label), (_LABELS, _action_label))
    for words, way in ways:
        for column in columns:
            if (invented or words_of(column.name) & set(words)) and (found := way(column)):
                return found
    return None


def _binary_label(column: Column) -> dict[str, Any] | None:
    if _is_binary(column) and column.distinct == 2:
        return {"column": column.name}
    if column.kind == "string" and {str(value).lower() for value in column.values} in _PAIRS:
        return {"column": column.name}
    if column.kind == "int" and set(column.values) == {-1, 1}:
        return {"column": column.name, "is": [1], "is_not": [-1]}
    return None


def _rating_label(column: Column) -> dict[str, Any] | None:
    """A column of a few numbers, such as stars: the upper two fifths are positive."""
    if not column.numeric or not 3 <= column.distinct <= 20:
        return None
    low, high = min(column.values), max(column.values)
    if low < 0 or high > 100:
        return None
    counts, above = column.counts, 0
    for value in sorted(counts, reverse=True):
        above += counts[value]
        if above >= 0.35 * len(column.values):
            return {"column": column.name, "at_least": value if value > low else high}
    return None


def _action_label(column: Column) -> dict[str, Any] | None:
    """A column of kinds of actions, one or more of which are wanted."""
    if column.kind != "string" or not 2 <= column.distinct <= 30:
        return None
    wanted = sorted(value for value in set(column.values) if value.lower() in WORDS["wanted"])
    return {"column": column.name, "is": wanted} if wanted and len(wanted) < column.distinct else None
