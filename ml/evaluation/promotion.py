"""Champion and challenger: which of a dataset's models to trust, according to its reports.

A report scores all models on the same rows, which none of them has seen. The decision for a day uses the reports up to that
day alone. Aliases that point at the models are set by `ml.tracking.registry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DAYS = 3  # consecutive reported days on which a challenger has to be better than the champion

Scores = dict[str, tuple[float, float]]  # AUC and negative log loss of each model: greater is better


@dataclass(frozen=True)
class Standing:
    """Champion and scores after one day whose report compares models.

    Attributes:
        day: the reported day.
        champion: the model to trust after it.
        replaced: the champion before, if the day brought another one.
        scores: AUC and negative log loss of each competing model on the day.
        trained_until: by model, the day up to which the scored snapshot was trained, if the report says so.
    """

    day: str
    champion: str
    replaced: str | None
    scores: Scores
    trained_until: dict[str, str]

    @property
    def challenger(self) -> str | None:
        """The best model of the day apart from the champion."""
        return max((name for name in self.scores if name != self.champion), key=self.scores.__getitem__, default=None)

    @property
    def behind(self) -> float:
        """AUC of the day's best model less that of the champion."""
        return max(auc for auc, _ in self.scores.values()) - self.scores[self.champion][0]


def standings(reports: Iterable[Mapping[str, Any]], days: int = DAYS) -> list[Standing]:
    """Decide the champion after each reported day.

    The first champion is the first model that the dataset names. A model that was better than the champion on each of the last
    `days` days, by AUC and in a tie by log loss, replaces it, whatever the margin; among several, the best of the last day
    does. A champion that a report does not score is replaced at once by the first model that it scores. Models that only rank
    do not compete. Only days whose report compares models count; others (a first day, a day of one class) are skipped.

    Args:
        reports: contents of `metrics.json`, or entries of its `history`, in the order of days.
        days: consecutive reported days on which a challenger must be better.

    Returns:
        One standing for each day that compares models.
    """
    found: list[Standing] = []
    for report in reports:
        if scores := _scores(report):
            held = found[-1].champion if found else None
            champion = _champion(held, [*(standing.scores for standing in found), scores][-days:], days)
            facts = {name: report["models"][name].get("facts") or {} for name in scores}
            until = {name: of["snapshot_day"] for name, of in facts.items() if "snapshot_day" in of}
            found.append(Standing(report["day"], champion, held if held != champion else None, scores, until))
    return found


def _scores(report: Mapping[str, Any]) -> Scores:
    models = (report.get("models") or {}).items()
    return {name: (of["auc"], -of["log_loss"]) for name, of in models if None not in (of.get("auc"), of.get("log_loss"))}


def _champion(held: str | None, recent: Sequence[Scores], days: int) -> str:
    today = recent[-1]
    if held not in today:
        return next(iter(today))
    beaten_by = [
        name
        for name in today
        if len(recent) == days and all({name, held} <= day.keys() and day[name] > day[held] for day in recent)
    ]
    return max(beaten_by, key=today.__getitem__, default=held)
