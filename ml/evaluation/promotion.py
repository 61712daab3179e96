"""Champion and challenger: which of a dataset's models to trust, by the reports of its days.

A report scores all models on the same rows, which none of them has seen. What is decided here follows from reports alone, and
for a day from none later than it; where the models lie and what points at them is `ml.tracking.registry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DAYS = 3  # in a row, on which a challenger has to be better than the champion

Scores = dict[str, tuple[float, float]]  # of each model AUC, and log loss with its sign turned: the greater, the better


@dataclass(frozen=True)
class Standing:
    """After a day whose report compares models. replaced: the champion before, where the day brought another.

    scores: of the models that compete, on the day. trained_until: of those whose report says so, the day whose snapshot was
    scored.
    """

    day: str
    champion: str
    replaced: str | None
    scores: Scores
    trained_until: dict[str, str]

    @property
    def challenger(self) -> str | None:
        """The best of the others on the day."""
        return max((name for name in self.scores if name != self.champion), key=self.scores.__getitem__, default=None)

    @property
    def behind(self) -> float:
        """How much AUC the champion is short of the day's best model."""
        return max(auc for auc, _ in self.scores.values()) - self.scores[self.champion][0]


def standings(reports: Iterable[Mapping[str, Any]], days: int = DAYS) -> list[Standing]:
    """After each of the days in turn. reports: what their `metrics.json` hold, in the order of days.

    The first champion is the first model that the dataset names. A model that beat the champion on each of the last `days`
    days, by AUC and where that ties by log loss, takes its place, by however little; of several such, the best on the last.
    One that is as good in both is not better. A champion that one report does not score leaves its place at once, to the first
    that is, and has to win it back. Models that only rank do not compete. Days are those with a report that compares: others
    (without a report, a first day, a day of one class) neither count nor interrupt.
    """
    found: list[Standing] = []
    for figures in reports:
        if scores := _scores(figures):
            held = found[-1].champion if found else None
            champion = _champion(held, [*(standing.scores for standing in found), scores][-days:], days)
            facts = {name: figures["models"][name].get("facts") or {} for name in scores}
            until = {name: of["snapshot_day"] for name, of in facts.items() if "snapshot_day" in of}
            found.append(Standing(figures["day"], champion, held if held != champion else None, scores, until))
    return found


def _scores(figures: Mapping[str, Any]) -> Scores:
    models = (figures.get("models") or {}).items()  # a report of an older layout has none
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
