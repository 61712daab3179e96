"""Evaluates a day by models that have not seen it, and writes the partition of `evaluation_reports`.

`metrics.json` contains every number that the report shows:

    dataset, description, day, simulated, timezone    what was scored
    words               positive, negative, noun: how the report calls labels
    sampling            per_positive, window_hours, draw: how negatives were sampled, if the log has only positives
    data                rows, clicks, label_rate, earlier_days (which the baselines and "known" refer to)
    model               rows, clicks, label_rate, mean_prediction, auc, log_loss, normalised_entropy, calibration, facts, and
                        intervals: 95 % confidence intervals of auc, log_loss and calibration
    models              the same keys for each model by name; the first is the one above
    baselines           constant_prior and logistic_regression: the same keys
    oracle              the same keys for the true probabilities of a simulated log
    comparisons         of the first model with each baseline, and of all models with each other: one, other, auc, log_loss,
                        each with the difference `value`, its standard `error` and `df`, and the one-sided p-value `p_above`
    beats               for each baseline, whether the AUC of the model is significantly higher; null if that cannot be judged
    attained            auc, log_loss: fraction of the distance from the constant prior to the oracle
    verdict             word (good, mixed, poor, unknown) and sentences
    slices              name, title, values: value, the metrics' keys, logistic_regression_auc
    calibration_bins    of the model: rows, predicted, observed, error (standard error of observed); empty if it only ranks
    online              of each model that was trained within the day, see `ml.evaluation.online`; empty without any
    ranking             of the clicked item among all live items, see `ml.evaluation.ranking.report`; null without a ranking
    recent              means over the last days with their standard errors, see `ml.evaluation.recent`
    history             one entry for each reported day up to this one: day, AUC of model, logistic_regression and oracle, and
                        auc, log_loss and snapshot_day of each model; recall@20 and mrr@20 of models and sources
    standing            champion, challenger: names of models, decided by the history
    labels              only with several labels or sample weights: the metrics of each label, see `ml.evaluation.labels`

All other keys are always present. Undefined metrics are null: the AUC of a day with one class, metrics of a baseline without
earlier days, and all metrics except AUC of a model that only ranks. On a first day, `models` is empty, and the metrics and
`facts` of `model` are null. The content does not depend on when or where it was computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.evaluation import plots
from ml.evaluation.baselines import Baseline, fit_baselines
from ml.evaluation.history import ENTRY, history_of
from ml.evaluation.labels import label_metrics
from ml.evaluation.online import headline_of, online_places, online_training
from ml.evaluation.promotion import standings
from ml.evaluation.ranking.report import rank_day
from ml.evaluation.recent import ranking_entry, recent_means
from ml.evaluation.report import render
from ml.evaluation.rows import count_rows, earlier_days
from ml.evaluation.scores import ORACLE_SCORES, ScoredModel, Scores, score_day
from ml.evaluation.slices import known_keys, score_slices, slices_of
from ml.evaluation.uncertainty import Uncertainty, compare_models
from ml.evaluation.verdict import attained, beats, verdict
from ml.lake import Lake
from ml.metrics import count_clicks, metrics_of
from ml.models.lambdarank import LambdaRank
from ml.stages import CLEANED_FEATURES, EVALUATION_REPORTS

WINDOW_DAYS = 7
_MODEL = "model "  # prefix that distinguishes the names of models from the names of baselines


@dataclass(frozen=True)
class EvaluatedDay:
    """The result of `evaluate_day`.

    Attributes:
        metrics: Content of `metrics.json`.
        plots: PNG bytes by name.
        verdict: The first sentences of the report.
        rows: Number of scored rows.
        report: Path of `report.html`.
        seconds: Wall-clock time.
    """

    metrics: dict[str, Any]
    plots: dict[str, bytes]
    verdict: str
    rows: int
    report: UPath
    seconds: float


def evaluate_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    models: Mapping[str, ScoredModel],
    window_days: int = WINDOW_DAYS,
    model_inputs: Iterable[tuple[str, str]] = (),
    ranker: LambdaRank | None = None,
) -> EvaluatedDay:
    """Score a day and write its partition: `report.html`, `metrics.json`, `history_entry.json` and `figures/*.png`.

    Args:
        spec: The dataset.
        day: The day to score, `YYYY-MM-DD`.
        lake: Where features are read and the report is written.
        models: Models by name. Plots, slices and verdict are of the first. Without models, the report describes only the data.
        window_days: Number of days before `day` that the baselines learn from, and whose items and users count as known.
        model_inputs: Stage and day of each partition that the models were loaded from, for the lineage.
        ranker: A LambdaRank that has not seen the day, to compare with the models as a ranker of candidates.

    Returns:
        The metrics, the plots and the path of the report.

    Raises:
        MissingPartition: The day has no features.
        ValueError: Predictions are not probabilities.
    """
    begin = time.perf_counter()
    earlier = earlier_days(lake, spec.name, day, window_days)
    inputs = [*model_inputs, *((CLEANED_FEATURES, d) for d in [*earlier, day]), *online_places(lake, spec, day)]
    lineage = lake.lineage(spec.name, inputs)
    with ThreadPoolExecutor(1) as pool:
        # Baselines are only compared with models on rows, so none is fitted without a model or on a day without rows.
        fitting = pool.submit(fit_baselines, lake, spec, earlier if models and count_rows(lake, spec, day) else [])
        of_models = score_day(spec, day, lake, {f"{_MODEL}{name}": model.predict for name, model in models.items()})
        baselines = fitting.result()
    fitted = {name: baseline.predict for name, baseline in baselines.items() if baseline.predict is not None}
    scores = replace(of_models, by=of_models.by | score_day(spec, day, lake, fitted).by)
    metrics = _metrics(lake, spec, day, scores, earlier, models, baselines)
    metrics["online"] = online_training(lake, spec, day)
    metrics["ranking"] = rank_day(spec, day, lake, earlier, {name: model.items for name, model in models.items()}, ranker)
    before, entry = history_of(lake, spec.name, until=day), _entry(metrics)
    metrics |= _compared(metrics, before, entry)
    images = _plots(scores, metrics)
    trained_online = {name: of for name, of in metrics["online"].items() if of["slices"]}
    images |= {f"online_{name}": plots.online_day(of["slices"], headline_of(of)) for name, of in trained_online.items()}
    with lake.write(EVALUATION_REPORTS, spec.name, day) as staging:
        (staging / "metrics.json").write_text(json.dumps(metrics, indent=1, allow_nan=False))
        (staging / ENTRY).write_text(json.dumps(entry))
        (staging / "report.html").write_text(render(metrics, images), encoding="utf-8")
        (staging / "figures").mkdir()
        for name, png in images.items():
            (staging / "figures" / f"{name}.png").write_bytes(png)
        facts = {"rows": len(scores.labels), "fingerprint": spec.fingerprint, "plots": sorted(images)}
        lake.write_manifest(staging, facts | lineage)
    return EvaluatedDay(
        metrics=metrics,
        plots=images,
        verdict=" ".join(metrics["verdict"]["sentences"]),
        rows=len(scores.labels),
        report=lake.partition(EVALUATION_REPORTS, spec.name, day) / "report.html",
        seconds=time.perf_counter() - begin,
    )


def _sampling(spec: DatasetSpec) -> dict[str, Any] | None:
    """Return the settings of negative sampling, or None if the log has negatives."""
    negatives = spec.label.negatives
    return negatives.model_dump(mode="json", include={"per_positive", "window_hours", "draw"}) if negatives else None


def _metrics(
    lake: Lake,
    spec: DatasetSpec,
    day: str,
    scores: Scores,
    earlier: list[str],
    models: Mapping[str, ScoredModel],
    baselines: Mapping[str, Baseline],
) -> dict[str, Any]:
    """Return the keys of `metrics.json` that depend only on the day."""
    counts = count_clicks(scores.labels)

    def summary(name: str, ranks_only: bool = False) -> dict[str, Any]:
        found = metrics_of(scores.sums.get(name), scores.aucs.get(name), ranks_only)
        return counts | found | {"intervals": uncertainty.intervals(name)}

    first = next(iter(models), None)
    ranks_only = models[first].ranks_only if first else False
    predictions = {name: f"{_MODEL}{name}" for name in models}
    rankers = {predictions[name] for name, model in models.items() if model.ranks_only}
    uncertainty = Uncertainty(scores, rankers)
    of_model = f"{_MODEL}{first}"
    of_models = {name: summary(predictions[name], m.ranks_only) | {"facts": m.facts} for name, m in models.items()}
    slices = slices_of(spec, scores.keys, known_keys(lake, spec, earlier) if earlier else {})
    bins = [] if first is None or ranks_only else scores.sums[of_model].calibration_bins()
    return {
        "dataset": spec.name,
        "description": spec.description,
        "day": day,
        "simulated": spec.simulation is not None,
        "words": spec.words.model_dump(),
        "sampling": _sampling(spec),
        "timezone": spec.time.timezone,
        "data": counts | {"earlier_days": earlier},
        "model": of_models[first] if first else summary(of_model) | {"facts": None},
        "models": of_models,
        "baselines": {name: summary(name) | {"facts": baseline.facts} for name, baseline in baselines.items()},
        "oracle": summary(ORACLE_SCORES) | {"facts": None},
        "slices": score_slices(
            slices, scores.labels, scores.by.get(of_model), scores.by.get("logistic_regression"), ranks_only
        ),
        "calibration_bins": [asdict(found) for found in bins],
        "comparisons": compare_models(uncertainty, predictions, baselines),
        **label_metrics(spec, scores, of_models, predictions, rankers),
    }


def _compared(metrics: dict[str, Any], before: list[dict[str, Any]], entry: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of `metrics.json` that compare models with baselines, and the day with earlier days."""
    found = standings([*before, entry])
    history = [{key: value for key, value in of.items() if key != "comparisons"} for of in [*before, entry]]
    compared = {
        "recent": recent_means(history),
        "beats": beats(metrics),
        "attained": attained(metrics),
        "history": history,
        "standing": {
            "champion": found[-1].champion if found else None,
            "challenger": found[-1].challenger if found else None,
        },
    }
    word, sentences = verdict(metrics | compared)
    return compared | {"verdict": {"word": word, "sentences": sentences}}


def _entry(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a report that later reports need."""
    return {
        "day": metrics["day"],
        "model": metrics["model"]["auc"],
        "logistic_regression": metrics["baselines"]["logistic_regression"]["auc"],
        "oracle": metrics["oracle"]["auc"],
        "models": {
            name: {"auc": found["auc"], "log_loss": found["log_loss"], "facts": _snapshot_day(found["facts"])}
            for name, found in metrics["models"].items()
        },
        "ranking": ranking_entry(metrics["ranking"]),
        "comparisons": [pair for pair in metrics["comparisons"] if pair["other"] in metrics["models"]],
    }


def _snapshot_day(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name == "snapshot_day"}


def _plots(scores: Scores, metrics: dict[str, Any]) -> dict[str, bytes]:
    """Draw the plots, PNG bytes by name. Without a model or rows, there are none."""
    first = next(iter(metrics["models"]), None)
    if first is None or not len(scores.labels):
        return {}
    order = ("logistic_regression", "constant_prior", ORACLE_SCORES)
    sums = {"model": scores.sums[f"{_MODEL}{first}"]} | {name: scores.sums[name] for name in order if name in scores.sums}
    images = {"roc": plots.roc(sums)}
    if metrics["calibration_bins"]:
        images["calibration"] = plots.calibration(
            {n: s for n, s in sums.items() if n in ("model", "logistic_regression")}, metrics["words"]
        )
        images["scores"] = plots.scores(sums["model"], metrics["words"])
    if len(metrics["history"]) > 1:
        images["auc_by_day"] = plots.auc_by_day(metrics["history"])
    return images
