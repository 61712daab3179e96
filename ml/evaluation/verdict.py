"""Explains the metrics in the first sentences of the report. All thresholds are defined here."""

from __future__ import annotations

from typing import Any

from ml.evaluation.rank_verdict import headline_model, ranking_verdict

WELL_CALIBRATED = (0.9, 1.1)  # predicted over observed clicks
BASELINE_NAMES = {"constant_prior": "the constant prior", "logistic_regression": "the logistic regression"}


def beats(metrics: dict[str, Any]) -> dict[str, bool | None]:
    """Return for each baseline whether the model has a higher AUC; None if one of the two is undefined."""
    model = metrics["model"]["auc"]
    return {
        name: None if model is None or baseline["auc"] is None else model > baseline["auc"]
        for name, baseline in metrics["baselines"].items()
    }


def attained(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Return the fraction of the distance from the constant prior (0) to the oracle (1) that the model covers.

    It is computed for AUC and for log loss. It is None without an oracle or if both ends are equal, and negative if the model
    is worse than the constant prior.
    """
    prior, model, best = metrics["baselines"]["constant_prior"], metrics["model"], metrics["oracle"]
    shares: dict[str, float | None] = {}
    for metric in ("auc", "log_loss"):
        ends = (prior[metric], model[metric], best[metric])
        known = None not in ends and ends[2] != ends[0]
        shares[metric] = (ends[1] - ends[0]) / (ends[2] - ends[0]) if known else None
    return shares


def verdict(metrics: dict[str, Any]) -> tuple[str, list[str]]:
    """Return a word (good, mixed, poor, unknown) and the sentences."""
    model, data = metrics["model"], metrics["data"]
    simulated = ["This log is simulated: no person clicked, and the true click probability is known."] * metrics["simulated"]
    if not data["rows"]:
        return "unknown", ["The day has no rows, so there is nothing to score.", *simulated]
    if model["facts"] is None:
        first = "No model was trained before this day, so nothing is scored. The data of the day is described below."
        return "unknown", [first, *simulated]
    if headline := headline_model(metrics):
        word, sentences = ranking_verdict(metrics, headline)
        return word, [*sentences, *simulated]
    if model["auc"] is None:
        only = "clicked" if data["clicks"] else "unclicked"
        return "unknown", [f"All rows of the day are {only}, so AUC is undefined.", *simulated]
    until = f" trained until {model['facts']['snapshot_day']}" if "snapshot_day" in model["facts"] else ""
    order = f"The model{until} ranks a clicked impression above an unclicked one {100 * model['auc']:.1f} times in 100."
    calibration = model["calibration"]  # None for a model that only ranks
    sentences = [order, _against(metrics), *([] if calibration is None else [_calibration(calibration)])]
    share = metrics["attained"]["auc"]
    if share is not None:
        best = metrics["oracle"]["auc"]
        sentences.append(f"It covers {100 * share:.0f} % of the distance from chance to the best possible AUC ({best:.3f}).")
    known = [won for won in metrics["beats"].values() if won is not None]
    well = calibration is None or WELL_CALIBRATED[0] <= calibration <= WELL_CALIBRATED[1]
    word = "unknown" if not known else "poor" if not any(known) else "good" if all(known) and well else "mixed"
    return word, [*sentences, *simulated]


def _against(metrics: dict[str, Any]) -> str:
    known = {name: won for name, won in metrics["beats"].items() if won is not None}
    if not known:
        return "There are no earlier days to train a baseline on."
    if len(known) > 1 and all(known.values()):
        other = metrics["baselines"]["logistic_regression"]["auc"]
        return f"It beats both baselines (logistic regression {100 * other:.1f}, constant prior 50.0)."
    outcomes = []
    for name, won in known.items():
        outcome = "beats" if won else "does not beat"
        outcomes.append(f"{outcome} {BASELINE_NAMES[name]} ({100 * metrics['baselines'][name]['auc']:.1f})")
    return f"It {' and '.join(outcomes)}."


def _calibration(ratio: float) -> str:
    if ratio < WELL_CALIBRATED[0]:
        meaning = "the model predicts too few"
    elif ratio > WELL_CALIBRATED[1]:
        meaning = "the model predicts too many"
    else:
        meaning = "the model is well calibrated"
    return f"Predicted clicks are {ratio:.2f} times the observed clicks: {meaning}."
