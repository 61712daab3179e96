"""Explains the metrics in the first sentences of the report. All thresholds are defined here."""

from __future__ import annotations

from typing import Any

from ml.evaluation.ranking.verdict import headline_model, rankers_sentences, ranking_verdict
from ml.evaluation.uncertainty import JUDGED_FROM, difference, too_few

WELL_CALIBRATED = (0.9, 1.1)  # predicted over observed clicks
GOOD_AUC = 0.6  # smallest AUC of a good model, unless the best possible AUC of a simulated log is below
BASELINE_NAMES = {"constant_prior": "the constant prior", "logistic_regression": "the logistic regression"}


def beats(metrics: dict[str, Any]) -> dict[str, bool | None]:
    """Return for each baseline whether the model has a significantly higher AUC on the same rows.

    It is None if one of the two is undefined, or if there are too few clicks to judge.
    """
    first = next(iter(metrics["models"]), "")
    found = {name: difference(metrics, first, name, "auc") for name in metrics["baselines"]}
    few = too_few(metrics)
    return {name: None if few or of is None else of.is_above() for name, of in found.items()}


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
    """Return a word (good, mixed, poor, unknown), which judges the main label, and the sentences."""
    model, data = metrics["model"], metrics["data"]
    simulated = ["This log is simulated: no person clicked, and the true click probability is known."] * metrics["simulated"]
    last = [*rankers_sentences(metrics["ranking"]), *_further(metrics), *simulated]
    if not data["rows"]:
        return "unknown", ["The day has no rows, so there is nothing to score.", *last]
    if model["facts"] is None:
        first = "No model was trained before this day, so nothing is scored. The data of the day is described below."
        return "unknown", [first, *last]
    if headline := headline_model(metrics):
        word, sentences = ranking_verdict(metrics, headline)
        return word, [*sentences, *last]
    words = metrics["words"]
    if model["auc"] is None:
        only = words["positive"] if data["clicks"] else words["negative"]
        return "unknown", [f"All rows of the day are {only}, so AUC is undefined.", *last]
    if few := too_few(metrics):
        return "unknown", [few, _order(metrics), *last]
    sentences = [_order(metrics), _against(metrics)]
    off = False
    weighted = _of_label(metrics, 0).get("weighted")
    if model["calibration"] is not None:  # None for a model that only ranks
        # With sample weights, the model learns probabilities of the weighted rows.
        judged = weighted if weighted and weighted["calibration"] is not None else model
        noun = f"weighted {words['noun']}" if judged is weighted else words["noun"]
        off, sentence = _calibration(judged["calibration"], judged["intervals"]["calibration"], noun)
        sentences.append(sentence)
    share, best = metrics["attained"]["auc"], metrics["oracle"]["auc"]
    if share is not None:
        sentences.append(f"It covers {100 * share:.0f} % of the distance from chance to the best possible AUC ({best:.3f}).")
    weak = model["auc"] < GOOD_AUC and (best is None or best >= GOOD_AUC)
    if weak:
        sentences.append(f"An AUC below {GOOD_AUC} separates {words['positive']} from {words['negative']} rows only weakly.")
    known = [won for won in metrics["beats"].values() if won is not None]
    good = all(known) and not off and not weak
    word = "unknown" if not known else "poor" if not any(known) else "good" if good else "mixed"
    return word, [*sentences, *last]


def _of_label(metrics: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the metrics of the first model for a label; empty if the report has no labels or the model does not predict it."""
    labels = metrics.get("labels")
    return labels[number]["models"].get(next(iter(metrics["models"]), ""), {}) if labels else {}


def _further(metrics: dict[str, Any]) -> list[str]:
    """Return a sentence about each further label that the first model predicts and that has enough rows of both classes."""
    sentences = []
    for number, label in enumerate(metrics.get("labels", [])[1:], 1):
        found = _of_label(metrics, number)
        rarer = min(label["clicks"], label["rows"] - label["clicks"])
        if not found or rarer < JUDGED_FROM:
            continue
        weighted = found["weighted"]
        judged = weighted if weighted and weighted["calibration"] is not None else found
        _, calibration = _calibration(judged["calibration"], judged["intervals"]["calibration"], "positive")
        sentences.append(f"For the label {label['name']}, the AUC is {100 * found['auc']:.1f}. {calibration}")
    return sentences


def _order(metrics: dict[str, Any]) -> str:
    model, words = metrics["model"], metrics["words"]
    until = f" trained until {model['facts']['snapshot_day']}" if "snapshot_day" in model["facts"] else ""
    interval = model["intervals"]["auc"]
    within = f" (95 % interval: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return (
        f"The model{until} ranks {_article(words['positive'])} impression above {_article(words['negative'])} one "
        f"{100 * model['auc']:.1f} times in 100{within}."
    )


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _against(metrics: dict[str, Any]) -> str:
    known = {name: won for name, won in metrics["beats"].items() if won is not None}
    if not known:
        return "There are no earlier days to train a baseline on."
    if len(known) > 1 and all(known.values()):
        other = metrics["baselines"]["logistic_regression"]["auc"]
        return f"It beats both baselines (logistic regression {100 * other:.1f}, constant prior 50.0)."
    first = next(iter(metrics["models"]))
    outcomes = []
    for name, won in known.items():
        found = difference(metrics, first, name, "auc")
        worse = found is not None and found.is_below()
        outcome = "beats" if won else "is worse than" if worse else "does not beat"
        unsure = "" if won or worse else ", no significant difference"
        outcomes.append(f"{outcome} {BASELINE_NAMES[name]} ({100 * metrics['baselines'][name]['auc']:.1f}{unsure})")
    return f"It {' and '.join(outcomes)}."


def _calibration(ratio: float, interval: list[float] | None, noun: str) -> tuple[bool, str]:
    """Whether the model is miscalibrated beyond its sampling error, and the sentence about it."""
    low, high = interval or (ratio, ratio)
    well = WELL_CALIBRATED[0] <= ratio <= WELL_CALIBRATED[1]
    off = not well and not low <= 1 <= high
    if off:
        meaning = f"the model predicts too {'few' if ratio < 1 else 'many'}"
    else:
        meaning = "the model is well calibrated" if well else "the difference is within its sampling error"
    return off, f"Predicted {noun}s are {ratio:.2f} times the observed {noun}s: {meaning}."
