"""Scoring a day with a model that has not seen it: reads features, asks for predictions, writes the report's partition.

Which model that is, and how it predicts, is the caller's; metrics, slices, baselines, plots and words are this room's
other modules. `metrics.json` holds, for machines, every number that the report shows:

    dataset, description, day, simulated, timezone    what was scored
    sampling            per_positive, window_hours, distribution: how negatives were drawn, where the log holds none
    data                rows, clicks, label_rate, earlier_days (that baselines and "known" look at)
    model               rows, clicks, label_rate, mean_prediction, auc, log_loss, normalised_entropy, calibration, facts
    models              the same keys, by name, of all models; the first is the one above
    baselines           constant_prior and logistic_regression: the same keys
    oracle              the same keys; the true probabilities of a simulated log
    beats               by baseline: whether the model's AUC is above its
    attained            auc, log_loss: share of the way from the constant prior to the oracle
    verdict             word (good, mixed, poor, unknown) and sentences
    slices              name, title, values: value, the metrics' keys, logistic_regression_auc
    calibration_bins    of the model: rows, predicted, observed, error (standard error of observed); none where it only ranks
    auc_by_day          day, model, logistic_regression, oracle, models: of the earlier reports, and of this one last
    standing            champion, challenger: of the models, by the same reports as they were then; where one of them was made
                        again since, the check `promotion`, which reads them anew, may know better

Every key is always there; what is undefined is null: a metric of one class, a baseline without earlier days, the model
(`facts` too) of a first day, which has no `models`; of a model that only ranks, all metrics but AUC. Nothing of it
depends on when or where it was computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.evaluation import plots
from ml.evaluation.baselines import Baseline, fit_baselines
from ml.evaluation.promotion import standings
from ml.evaluation.report import render
from ml.evaluation.rows import chunks, earlier_days
from ml.evaluation.slices import key_columns, known_keys, score_slices, slices_of
from ml.evaluation.verdict import attained, beats, verdict
from ml.lake import Lake
from ml.metrics import ClickSums, summary
from ml.schema import LABEL, ORACLE, arrow_schema
from ml.stages import CLEANED_FEATURES, EVALUATION_REPORTS

WINDOW_DAYS = 7
_MODEL = "model "  # before the names of models, among those of baselines

Predict = Callable[[pa.Table], NDArray[Any]]


@dataclass(frozen=True)
class Scored:
    """A model that has not seen the day. predict: rows of the feature table [N] -> float probabilities [N]. facts: on it to
    show, JSON values (`snapshot_day`, the day it was trained until, is put into words, and told of what is champion).
    ranks_only: its numbers put rows in order and are no probabilities."""

    predict: Predict
    facts: dict[str, Any]
    ranks_only: bool = False


@dataclass(frozen=True)
class EvaluatedDay:
    """figures: what `metrics.json` holds. plots: PNG by name. verdict: the report's first sentences."""

    figures: dict[str, Any]
    plots: dict[str, bytes]
    verdict: str
    rows: int
    report: UPath
    seconds: float


@dataclass(frozen=True)
class _Scores:
    """Of the N rows of the day. keys: what slices are cut by. by: probabilities [N] of the models, baselines and oracle."""

    labels: NDArray[np.float32]
    keys: pa.Table
    by: dict[str, NDArray[Any]]

    @property
    def model(self) -> NDArray[Any] | None:
        """Of the model that the report is about."""
        return next((scores for name, scores in self.by.items() if name.startswith(_MODEL)), None)


def evaluate_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    models: Mapping[str, Scored],
    window_days: int = WINDOW_DAYS,
    asked: Iterable[tuple[str, str]] = (),
) -> EvaluatedDay:
    """Score `day` and write `evaluation_reports/<dataset>/<day>`: `report.html`, `metrics.json`, `figures/*.png`.

    models: by name, the first of them the one that the report is about; without one there are data facts only.
    asked: stage and day of the partitions that the models look at.
    window_days: how many days before `day` the baselines learn from and make an item or user known.
    Raises `MissingPartition` without features of the day, `ValueError` for predictions that are no probabilities.
    """
    begin = time.perf_counter()
    earlier = earlier_days(lake, spec.name, day, window_days)
    made_from = lake.lineage(spec.name, [*asked, *((CLEANED_FEATURES, d) for d in [*earlier, day])])
    # Without a model there is nothing to compare with, so nothing is learned either.
    baselines = fit_baselines(lake, spec, earlier if models else [])
    ask: dict[str, Predict | None] = {f"{_MODEL}{name}": model.predict for name, model in models.items()}
    ask |= {name: baseline.predict for name, baseline in baselines.items()}
    scores = _score(lake, spec, day, {name: function for name, function in ask.items() if function is not None})
    figures = _figures(lake, spec, day, scores, earlier, models, baselines)
    images = _plots(scores, figures)
    with lake.write(EVALUATION_REPORTS, spec.name, day) as staging:
        (staging / "metrics.json").write_text(json.dumps(figures, indent=1, allow_nan=False))
        (staging / "report.html").write_text(render(figures, images), encoding="utf-8")
        (staging / "figures").mkdir()
        for name, png in images.items():
            (staging / "figures" / f"{name}.png").write_bytes(png)
        said = {"rows": len(scores.labels), "fingerprint": spec.fingerprint, "plots": sorted(images)}
        lake.write_manifest(staging, said | made_from)
    return EvaluatedDay(
        figures=figures,
        plots=images,
        verdict=" ".join(figures["verdict"]["sentences"]),
        rows=len(scores.labels),
        report=lake.partition(EVALUATION_REPORTS, spec.name, day) / "report.html",
        seconds=time.perf_counter() - begin,
    )


def _score(lake: Lake, spec: DatasetSpec, day: str, ask: dict[str, Predict]) -> _Scores:
    keys, labels, oracle = [], [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    by: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0, np.float32)] for name in ask}
    for chunk in chunks(lake, spec, day):
        labels.append(chunk.column(LABEL).to_numpy())
        keys.append(chunk.select(key_columns(spec)))
        if spec.oracle:
            oracle.append(chunk.column(ORACLE).to_numpy())
        for name, function in ask.items():
            by[name].append(_checked(function(chunk), chunk.num_rows, f"{spec.name} {day}: {name}"))
    columns = pa.schema([arrow_schema(spec).field(name) for name in key_columns(spec)])
    table = pa.concat_tables([columns.empty_table(), *(part.cast(columns) for part in keys)])
    scored = {name: np.concatenate(parts) for name, parts in by.items()}
    truth = np.concatenate(oracle)
    # A row that lost its true probability leaves no best possible to compare with.
    if spec.oracle and np.isfinite(truth).all():
        scored["oracle"] = truth
    return _Scores(np.concatenate(labels), table, scored)


def _checked(probabilities: NDArray[Any], rows: int, whose: str) -> NDArray[Any]:
    found = np.asarray(probabilities)
    if found.shape != (rows,):
        raise ValueError(f"{whose} gave predictions of shape {found.shape} for {rows} rows; expected ({rows},)")
    if not ((found >= 0) & (found <= 1)).all():
        wrong = found[~((found >= 0) & (found <= 1))]
        raise ValueError(f"{whose} gave {len(wrong)} predictions that are not in [0, 1], such as {wrong[0]}")
    return found


def _sampling(spec: DatasetSpec) -> dict[str, Any] | None:
    """How the rows that were not clicked came to be there, where the log does not hold them; rates are of what was drawn."""
    negatives = spec.label.negatives
    return negatives.model_dump(mode="json", include={"per_positive", "window_hours", "distribution"}) if negatives else None


def _figures(
    lake: Lake,
    spec: DatasetSpec,
    day: str,
    scores: _Scores,
    earlier: list[str],
    models: Mapping[str, Scored],
    baselines: dict[str, Baseline],
) -> dict[str, Any]:
    labels, by = scores.labels, scores.by
    known = known_keys(lake, spec, earlier) if earlier else {}
    slices = slices_of(spec, scores.keys, known)
    ranks_only = next((scored.ranks_only for scored in models.values()), False)
    sums = ClickSums() if scores.model is None or ranks_only else ClickSums.of(labels, scores.model)
    of_models = {
        name: {**summary(labels, by[f"{_MODEL}{name}"], scored.ranks_only), "facts": scored.facts}
        for name, scored in models.items()
    }
    figures: dict[str, Any] = {
        "dataset": spec.name,
        "description": spec.description,
        "day": day,
        "simulated": spec.simulation is not None,
        "sampling": _sampling(spec),
        "timezone": spec.time.timezone,
        "data": {**_data(labels), "earlier_days": earlier},
        "model": next(iter(of_models.values()), {**summary(labels, None), "facts": None}),
        "models": of_models,
        "baselines": {n: {**summary(labels, by.get(n)), "facts": baseline.facts} for n, baseline in baselines.items()},
        "oracle": {**summary(labels, by.get("oracle")), "facts": None},
        "slices": score_slices(slices, labels, scores.model, by.get("logistic_regression"), ranks_only),
        "calibration_bins": [asdict(found) for found in sums.calibration_bins()],
    }
    figures["beats"] = beats(figures)
    figures["attained"] = attained(figures)
    before = _reports_before(lake, spec.name, day)
    figures["auc_by_day"] = [*(told["auc_by_day"][-1] for told in before), _aucs(figures)]
    figures["standing"] = _standing([*before, figures])
    word, sentences = verdict(figures)
    figures["verdict"] = {"word": word, "sentences": sentences}
    return figures


def _data(labels: NDArray[Any]) -> dict[str, Any]:
    return {name: value for name, value in summary(labels, None).items() if name in ("rows", "clicks", "label_rate")}


def _reports_before(lake: Lake, dataset: str, day: str) -> list[dict[str, Any]]:
    folders = [
        lake.require(EVALUATION_REPORTS, dataset, other) for other in lake.days(EVALUATION_REPORTS, dataset) if other < day
    ]
    return [json.loads((folder / "metrics.json").read_text()) for folder in folders]


def _aucs(figures: dict[str, Any]) -> dict[str, Any]:
    found = {name: figures[name]["auc"] for name in ("model", "oracle")}
    found["models"] = {name: of["auc"] for name, of in figures["models"].items()}
    return {"day": figures["day"], "logistic_regression": figures["baselines"]["logistic_regression"]["auc"], **found}


def _standing(reports: list[dict[str, Any]]) -> dict[str, str | None]:
    found = standings(reports)
    return {"champion": found[-1].champion if found else None, "challenger": found[-1].challenger if found else None}


def _plots(scores: _Scores, figures: dict[str, Any]) -> dict[str, bytes]:
    """PNG by name; none where there is nothing to score."""
    if scores.model is None or not len(scores.labels):
        return {}
    order = ("logistic_regression", "constant_prior", "oracle")
    shown = {"model": scores.model} | {name: scores.by[name] for name in order if name in scores.by}
    sums = {name: ClickSums.of(scores.labels, found) for name, found in shown.items()}
    images = {"roc": plots.roc(sums)}
    if figures["calibration_bins"]:
        images["calibration"] = plots.calibration({n: s for n, s in sums.items() if n in ("model", "logistic_regression")})
        images["scores"] = plots.scores(sums["model"])
    if len(figures["auc_by_day"]) > 1:
        images["auc_by_day"] = plots.auc_by_day(figures["auc_by_day"])
    return images
