"""The report's first sentences: what the figures mean, in plain words. Figures in, text out; no thresholds hidden elsewhere."""

from __future__ import annotations

from typing import Any

WELL_CALIBRATED = (0.9, 1.1)  # predicted over observed clicks
BASELINE_NAMES = {"constant_prior": "the constant prior", "logistic_regression": "the logistic regression"}


def beats(figures: dict[str, Any]) -> dict[str, bool | None]:
    """Of each baseline: whether the model's AUC is above its; None where one of the two is not known."""
    model = figures["model"]["auc"]
    return {
        name: None if model is None or baseline["auc"] is None else model > baseline["auc"]
        for name, baseline in figures["baselines"].items()
    }


def attained(figures: dict[str, Any]) -> dict[str, float | None]:
    """How far the model came on the way from the constant prior (0) to the best possible (1), by AUC and by log loss.

    None without an oracle, or where there is no way to go. May be negative: worse than the constant prior.
    """
    prior, model, best = figures["baselines"]["constant_prior"], figures["model"], figures["oracle"]
    shares: dict[str, float | None] = {}
    for metric in ("auc", "log_loss"):
        ends = (prior[metric], model[metric], best[metric])
        known = None not in ends and ends[2] != ends[0]
        shares[metric] = (ends[1] - ends[0]) / (ends[2] - ends[0]) if known else None
    return shares


def verdict(figures: dict[str, Any]) -> tuple[str, list[str]]:
    """A word for the badge (good, mixed, poor, unknown) and the sentences."""
    model, data = figures["model"], figures["data"]
    simulated = ["This log is simulated: no person clicked, and the true click probability is known."] * figures["simulated"]
    if not data["rows"]:
        return "unknown", ["The day holds no rows, so there is nothing to score.", *simulated]
    if model["facts"] is None:
        told = "There is no model older than this day, so nothing is scored here; below is what the day holds."
        return "unknown", [told, *simulated]
    if model["auc"] is None:
        only = "clicked" if data["clicks"] else "unclicked"
        return "unknown", [f"All rows of the day are {only}, so there is no order to get right and no AUC.", *simulated]
    until = f" trained until {model['facts']['snapshot_day']}" if "snapshot_day" in model["facts"] else ""
    order = f"The model{until} ranks a clicked impression above an unclicked one {100 * model['auc']:.1f} times in 100."
    calibration = model["calibration"]  # None of a model that only ranks
    sentences = [order, _against(figures), *([] if calibration is None else [_calibration(calibration)])]
    share = figures["attained"]["auc"]
    if share is not None:
        best = figures["oracle"]["auc"]
        way = f"of the way from chance to the best possible AUC ({best:.3f}) it went {100 * share:.0f} %"
        sentences.append(f"{way[0].upper()}{way[1:]}.")
    known = [won for won in figures["beats"].values() if won is not None]
    well = calibration is None or WELL_CALIBRATED[0] <= calibration <= WELL_CALIBRATED[1]
    word = "unknown" if not known else "poor" if not any(known) else "good" if all(known) and well else "mixed"
    return word, [*sentences, *simulated]


def _against(figures: dict[str, Any]) -> str:
    known = {name: won for name, won in figures["beats"].items() if won is not None}
    if not known:
        return "There are no earlier days that a baseline could learn from."
    if len(known) > 1 and all(known.values()):
        other = figures["baselines"]["logistic_regression"]["auc"]
        return f"It beats both baselines (logistic regression {100 * other:.1f}, constant prior 50.0)."
    told = []
    for name, won in known.items():
        outcome = "beats" if won else "does not beat"
        told.append(f"{outcome} {BASELINE_NAMES[name]} ({100 * figures['baselines'][name]['auc']:.1f})")
    return f"It {' and '.join(told)}."


def _calibration(ratio: float) -> str:
    if ratio < WELL_CALIBRATED[0]:
        meaning = "it promises too little"
    elif ratio > WELL_CALIBRATED[1]:
        meaning = "it promises too much"
    else:
        meaning = "its probabilities can be taken at their word"
    return f"Predicted clicks are {ratio:.2f} times those observed: {meaning}."
