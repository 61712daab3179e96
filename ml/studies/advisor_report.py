"""Figures of `ml.studies.advisor`: times to equal AUC, speed-ups, and the shares of trainer, model and search space in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ml.evaluation.plots import points
from ml.studies.timed_run import Point, TimedRun
from ml.studies.wide_space import Observed

ARTICLE = {"training": 5.4, "tuning": 5.2}  # speed-ups of the article, figure 5
EXCHANGED = ("original", "our_trainer", "advised_model", "advised")  # the runs that exchange the trainer, the model, and both


@dataclass(frozen=True)
class Cases:
    """Results of the study.

    Attributes:
        runs: Trainings by case: those of `EXCHANGED`, and with tuning `tuned_original` and `tuned_advised`.
        tunings: Trials by case: `wide` with the reference DLRM, `advised` with ours, and `our_trainer` with ours over the wide
            space; empty without tuning.
        threads: Seconds of the same steps of the reference by number of threads.
    """

    runs: Mapping[str, TimedRun]
    tunings: Mapping[str, Sequence[Observed]]
    threads: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Returns all results as plain data."""
        return {
            "runs": {case: asdict(run) for case, run in self.runs.items()},
            "tunings": {case: [asdict(trial) for trial in trials] for case, trials in self.tunings.items()},
            "threads": dict(self.threads),
        }


def summary(cases: Cases) -> dict[str, Any]:
    """Summarise the study.

    Returns:
        `runs` by case; `training` with the seconds to the AUC with which the original ends, the speed-up and the shares of
        trainer and model; and with tuning, `tuning` with the seconds until a trial reaches the best AUC of the wide space, the
        speed-up, and the factors of trainer and space; and the same for all trials, whatever their AUC.
    """
    target = cases.runs["original"].end.auc
    reached = {case: cases.runs[case].reached(target) for case in EXCHANGED}
    original, advised = reached["original"], reached["advised"]
    return {
        "runs": {case: run.summary for case, run in cases.runs.items()},
        "threads": {str(count): seconds for count, seconds in cases.threads.items()},
        "training": {
            "auc": target,
            "reached": {case: point and vars(point) for case, point in reached.items()},
            "speed_up": _ratio(original, advised, lambda point: point.cpu_seconds),
            "speed_up_wall": _ratio(original, advised, lambda point: point.wall_seconds),
            "fewer_rows": _ratio(original, advised, lambda point: point.rows),
            "article": ARTICLE["training"],
            "shares": shares(*(point.cpu_seconds if (point := reached[case]) else None for case in EXCHANGED)),
            "shares_of_whole_runs": shares(*(cases.runs[case].end.cpu_seconds for case in EXCHANGED)),
        },
        **({"tuning": _tuning(cases.tunings)} if cases.tunings else {}),
    }


def shares(neither: float | None, first: float | None, second: float | None, both: float | None) -> dict[str, float] | None:
    """Divide a speed-up between two changes.

    A change's factor is the geometric mean of its speed-ups without and with the other change (Shapley values of the
    logarithm), so the product of the factors is the whole speed-up.

    Args:
        neither: Seconds without both changes; None if undefined.
        first: Seconds with the trainer exchanged.
        second: Seconds with the model exchanged.
        both: Seconds with both.

    Returns:
        Factors `trainer` and `model`, and `trainer_share`, the trainer's share of the logarithm of the speed-up; None if a time
        is undefined or there is no speed-up.

    Example:
        >>> {name: round(value, 3) for name, value in (shares(8.0, 2.0, 4.0, 1.0) or {}).items()}
        {'trainer': 4.0, 'model': 2.0, 'trainer_share': 0.667}
    """
    if neither is None or first is None or second is None or both is None or neither == both:
        return None
    trainer = math.sqrt(neither / first * second / both)
    model = math.sqrt(neither / second * first / both)
    return {"trainer": trainer, "model": model, "trainer_share": math.log(trainer) / math.log(neither / both)}


def seconds_to(trials: Sequence[Observed], auc: float) -> float | None:
    """Return the seconds of all trials up to the first that reaches an AUC; None if none does."""
    total = 0.0
    for trial in trials:
        total += trial.seconds
        if trial.auc is not None and trial.auc >= auc:
            return total
    return None


def figure(cases: Cases) -> bytes:
    """Plot AUC against CPU-seconds as a PNG."""
    curves = {cases.runs[case].name: cases.runs[case].curve for case in EXCHANGED}
    placed = {name: [(point.cpu_seconds, point.auc, "") for point in curve] for name, curve in curves.items()}
    return points("AUC of the last day by training time", "CPU-seconds of the training loop", "AUC", placed)


def _tuning(tunings: Mapping[str, Sequence[Observed]]) -> dict[str, Any]:
    best = {case: max((t.auc for t in trials if t.auc is not None), default=None) for case, trials in tunings.items()}
    total = {case: sum(trial.seconds for trial in trials) for case, trials in tunings.items()}
    target = best["wide"]
    to = {case: None if target is None else seconds_to(trials, target) for case, trials in tunings.items()}
    return {
        "cases": {
            case: {
                "best_auc": best[case],
                "seconds": total[case],
                "seconds_to_auc": to[case],
                "trials": len(trials),
                "failed": sum(trial.auc is None for trial in trials),
            }
            for case, trials in tunings.items()
        },
        "auc": target,
        "speed_up": _quotient(to["wide"], to["advised"]),
        "article": ARTICLE["tuning"],
        "factors": _factors(to),
        "speed_up_of_all_trials": _quotient(total["wide"], total["advised"]),
        "factors_of_all_trials": _factors(total),
    }


def _factors(seconds: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the factors of the trainer, over the wide space, and of the space with its model, with our trainer."""
    wide, ours, advised = (seconds[case] for case in ("wide", "our_trainer", "advised"))
    return {"trainer": _quotient(wide, ours), "space": _quotient(ours, advised)}


def _quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _ratio(a: Point | None, b: Point | None, of: Callable[[Point], float]) -> float | None:
    return _quotient(a and of(a), b and of(b))
