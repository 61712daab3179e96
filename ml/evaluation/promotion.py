"""Champion and challenger: selects the best of a dataset's models by its reports.

A report scores all models on the same rows, which no model has seen. The decision for a day uses only the reports up to that
day. `ml.tracking.registry` sets the aliases that point at the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.evaluation.uncertainty import is_better

DAYS = 3  # consecutive reported days on which a challenger has to be better than the champion

Scores = dict[str, tuple[float, float]]  # AUC and negative log loss of each model: higher is better


@dataclass(frozen=True)
class Standing:
    """Champion and scores after one day whose report compares models.

    Attributes:
        day: The reported day.
        champion: The champion after the day.
        replaced: The previous champion, if it was replaced on the day.
        scores: AUC and negative log loss of each competing model on the day.
        trained_until: By model, the day up to which the scored snapshot was trained, if the report contains it.
    """

    day: str
    champion: str
    replaced: str | None
    scores: Scores
    trained_until: dict[str, str]

    @property
    def challenger(self) -> str | None:
        """The best model of the day except the champion; None if there is no other."""
        return max((name for name in self.scores if name != self.champion), key=self.scores.__getitem__, default=None)

    @property
    def behind(self) -> float:
        """AUC of the day's best model minus AUC of the champion."""
        return max(auc for auc, _ in self.scores.values()) - self.scores[self.champion][0]


def standings(reports: Iterable[Mapping[str, Any]], days: int = DAYS) -> list[Standing]:
    """Decide the champion after each reported day.

    The first champion is the dataset's first model. A model replaces the champion if it was better on each of the last `days`
    days, by AUC, or by log loss if AUC is equal, and significantly better on these days together. If several models qualify,
    the best one on the last day becomes champion. If a report does not score the champion, the first model that it scores
    becomes champion at once. Models that only rank do not compete. Days whose report does not compare models (a first day, a
    day of one class) are skipped.

    Args:
        reports: Contents of `metrics.json` or `history_entry.json`, in the order of days.
        days: Number of consecutive reported days on which a challenger must be better.

    Returns:
        One standing for each day whose report compares models.

    Example:
        >>> scores = {"dlrm": {"auc": 0.70, "log_loss": 0.5}, "deepfm": {"auc": 0.71, "log_loss": 0.5}}
        >>> gain = {"auc": {"value": 0.01, "error": 0.008, "df": 900}, "log_loss": None}
        >>> report = {"models": scores, "comparisons": [{"one": "deepfm", "other": "dlrm", **gain}]}
        >>> days = ("2026-01-02", "2026-01-03", "2026-01-04")
        >>> [standing.champion for standing in standings({"day": day, **report} for day in days)]
        ['dlrm', 'dlrm', 'deepfm']
    """
    found: list[Standing] = []
    comparing: list[Mapping[str, Any]] = []
    for report in reports:
        if scores := _scores(report):
            held = found[-1].champion if found else None
            comparing = [*comparing, report][-days:]
            champion = _champion(held, comparing, days)
            facts = {name: report["models"][name].get("facts") or {} for name in scores}
            until = {name: of["snapshot_day"] for name, of in facts.items() if "snapshot_day" in of}
            found.append(Standing(report["day"], champion, held if held != champion else None, scores, until))
    return found


def _scores(report: Mapping[str, Any]) -> Scores:
    models = (report.get("models") or {}).items()
    return {name: (of["auc"], -of["log_loss"]) for name, of in models if None not in (of.get("auc"), of.get("log_loss"))}


def _champion(held: str | None, reports: Sequence[Mapping[str, Any]], days: int) -> str:
    """Return the champion after the last of at most `days` reports that compare models."""
    recent = [_scores(report) for report in reports]
    today = recent[-1]
    if held not in today:
        return next(iter(today))
    beaten_by = [
        name
        for name in today
        if len(recent) == days
        and all({name, held} <= day.keys() and day[name] > day[held] for day in recent)
        and is_better(reports, name, held)
    ]
    return max(beaten_by, key=today.__getitem__, default=held)
