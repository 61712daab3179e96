"""Judges the join of a day against recent days.

A fall of the match rate means that the logs no longer match. A fall of the number of actions per example means that a part
of the actions is missing. In both cases, impressions that were acted on would be trained on as negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.joiner.join import match_counts
from ml.lake import Lake
from ml.stages import JOINED_EXAMPLES

MAX_FALL = 0.2
"""Largest fall of the match rate that passes, as a share of the match rate of recent days."""
# A choice, not measured: larger than usual differences between the days of a week.
MAX_LOSS = 0.4
"""Largest fall of the number of actions per example that passes, as a share of that of recent days."""
MAX_P = 0.001
"""A fall that noise explains with at least this probability passes."""


@dataclass(frozen=True)
class JoinVerdict:
    """The match rate of a day, and of recent days.

    Attributes:
        rate: Share of the day's actions that counted for an example; None without actions.
        recent: The same of the days before it together; None without such days.
        p_value: Probability of so low a rate, or a lower one, if the day were like the recent days; 1.0 without them.
        repeated: Share of the day's impressions that repeat another one.
        actions_per_example: The day's actions per example, without repeated ones; None without examples.
        reasons: Why the day fails; empty if it passes.
    """

    rate: float | None
    recent: float | None
    p_value: float
    repeated: float
    actions_per_example: float | None
    reasons: tuple[str, ...]


def judge_day(spec: DatasetSpec, day: str, lake: Lake) -> JoinVerdict:
    """Compares the match rate and the number of actions of a day with those of the days before it (`expectations.recent_days`).

    Args:
        spec: A dataset with `actions`.
        day: The partition key.
        lake: Where `joined_examples` is stored.

    Raises:
        MissingPartition: The day is not in the lake.
    """
    today = lake.manifest(JOINED_EXAMPLES, spec.name, day)
    fingerprint = spec.fingerprint_of(JOINED_EXAMPLES)
    before = [
        lake.manifest(JOINED_EXAMPLES, spec.name, other)
        for other in trailing_days(day, spec.expectations.recent_days)
        if lake.is_current(JOINED_EXAMPLES, spec.name, other, fingerprint)
    ]
    matched, total = match_counts(today["actions"])
    recent_matched, recent_total = (sum(match_counts(of["actions"])[n] for of in before) for n in (0, 1))
    rate, recent = (m / n if n else None for m, n in ((matched, total), (recent_matched, recent_total)))
    p_value, reasons = 1.0, []
    if rate is not None and recent is not None:
        p_value = _p_value(matched, total, recent_matched, recent_total)
        if rate < (1 - MAX_FALL) * recent and p_value < MAX_P:
            reasons.append(f"the match rate is {rate:.4f}, and it was {recent:.4f} on the {len(before)} days before")
    elif recent and today["rows"] and not total:
        p_value, reasons = 0.0, ["there are no actions, but there were some on the days before"]
    rows, recent_rows = today["rows"], sum(of["rows"] for of in before)
    actions, recent_actions = (n / of if of else None for n, of in ((total, rows), (recent_total, recent_rows)))
    # The reason for a day without any actions is above.
    has_fallen = actions is not None and recent_actions is not None and 0 < actions < (1 - MAX_LOSS) * recent_actions
    if has_fallen and _p_value(total, total + rows, recent_total, recent_total + recent_rows) < MAX_P:
        reasons.append(
            f"there are {actions:.4f} actions per example ({total:,} and {rows:,}), and there were {recent_actions:.4f} on the "
            f"{len(before)} days before ({recent_total:,} and {recent_rows:,}): some actions are missing, or there are "
            "too many impressions"
        )
    impressions = rows + today["repeated"]
    repeated = today["repeated"] / impressions if impressions else 0.0
    return JoinVerdict(rate, recent, p_value, repeated, actions, tuple(reasons))


def _p_value(matched: int, total: int, recent_matched: int, recent_total: int) -> float:
    """One-sided p-value of a test of two proportions, whose alternative is that the proportion of the day is lower."""
    pooled = (matched + recent_matched) / (total + recent_total)
    error = sqrt(pooled * (1 - pooled) * (1 / total + 1 / recent_total))
    return 0.5 * erfc((recent_matched / recent_total - matched / total) / error / sqrt(2)) if error else 1.0
