"""Reports on the previous day's models: their metrics on a day that they have not seen, with baselines and plots."""

from base64 import b64encode
from typing import Any

import dagster as dg

from assets.days import each_day
from assets.partitions import days_before
from assets.policy import daily_asset, key
from assets.resources import LakeResource
from assets.tables import table
from ml import stages
from ml.catalog.ranking import lambdarank_of
from ml.catalog.spec import DatasetSpec

LOOK_BACK_DAYS = 7  # days that the baselines learn from, and whose items and users count as known


def build(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Build the asset of one dataset."""

    @daily_asset(
        spec,
        stages.EVALUATION_REPORTS,
        kinds={"html", "matplotlib"},
        deps=[
            dg.AssetDep(key(spec, stages.CLEANED_FEATURES), partition_mapping=days_before(LOOK_BACK_DAYS, 0)),
            *(dep for model in spec.models for dep in _models_scored(spec, model)),
            *(
                [dg.AssetDep(key(spec, stages.CANDIDATE_INDEX), partition_mapping=days_before(1, 1))]
                if lambdarank_of(spec)
                else []
            ),
            dg.AssetDep(key(spec, stages.EVALUATION_REPORTS), partition_mapping=days_before(1, 1)),
        ],
        description="Metrics of the previous day's models on the day, compared with a constant and a logistic regression.",
    )
    def evaluation_reports(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ml.evaluation.evaluate import evaluate_day
        from ml.evaluation.models import models_before, ranker_before

        def work(day: str) -> dict[str, Any]:
            models = models_before(spec, day, lake.open())
            before = spec.previous_day(day)
            inputs = [(stages.served_models(spec, name), before) for name in models] if before else []
            ranker = ranker_before(spec, day, lake.open())
            inputs += [(stages.CANDIDATE_INDEX, before)] if ranker and before else []
            done = evaluate_day(spec, day, lake.open(), models, model_inputs=inputs, ranker=ranker)
            scores = {
                name: (done.metrics["model"] or {}).get(name)
                for name in ("auc", "log_loss", "normalised_entropy", "calibration")
            }
            plots = {
                f"{name}_plot": dg.MetadataValue.md(f"![{name}](data:image/png;base64,{b64encode(png).decode()})")
                for name, png in done.plots.items()
            }
            return {
                "dagster/row_count": done.rows,
                **{
                    name: value
                    for name, value in (scores | _labels(done.metrics) | _ranking(done.metrics) | _means(done.metrics)).items()
                    if value is not None
                },
                "models": _models(done.metrics["models"]),
                **_rankers(done.metrics["ranking"]),
                "verdict": dg.MetadataValue.md(done.verdict),
                "report": dg.MetadataValue.path(str(done.report)),
                **plots,
            }

        return each_day(context, work, summary="recall_at_20" if spec.label.negatives else "auc")

    return evaluation_reports


def _models_scored(spec: DatasetSpec, model: str) -> list[dg.AssetDep]:
    """The states of a model that a report reads: the state of the day before, and the results of the day's online training."""
    daily, online = (key(spec, stage) for stage in (stages.tuned_models(model), stages.online_updates(model)))
    if spec.models[model].serve == "online":
        return [dg.AssetDep(online, partition_mapping=days_before(1, 0))]
    return [dg.AssetDep(daily, partition_mapping=days_before(1, 1)), dg.AssetDep(online)]


def _labels(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Metrics of the first model for each further label, with the label's name."""
    labels = {label["name"]: next(iter(label["models"].values()), None) for label in metrics.get("labels", [])[1:]}
    numbers = ("auc", "log_loss", "calibration")
    return {f"{metric}/{label}": found[metric] for label, found in labels.items() if found for metric in numbers}


def _ranking(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Recall and MRR of each model and source over all live items, with short names for the headline model."""
    from ml.evaluation.ranking.verdict import headline_model

    ranking, headline = metrics["ranking"], headline_model(metrics)
    if ranking is None:
        return {}
    systems = {**ranking["sources"], **ranking["models"]}
    numbers = {"recall_at_20": "recall@20", "mrr_at_20": "mrr@20"}
    found = {f"{short}/{name}": of[metric] for name, of in systems.items() for short, metric in numbers.items()}
    return found | ({short: systems[headline][metric] for short, metric in numbers.items()} if headline else {})


def _rankers(ranking: dict[str, Any] | None) -> dict[str, Any]:
    """The ranker that wins, and a table of all rankers on the same clicks; empty if they are not compared."""
    if not ranking or not ranking["rankers"]:
        return {}
    rankers = ranking["rankers"]
    numbers = ("recall@10", "recall@20", "recall@100", "mrr@20")
    rows = (
        {
            "ranker": name,
            "orders": of["of"],
            **{metric: "" if of[metric] is None else round(of[metric], 4) for metric in numbers},
        }
        for name, of in rankers["systems"].items()
    )
    return {
        "best_ranker": rankers["winner"] or "none: no significant difference",
        "rankers": table({"ranker": "string", "orders": "string"} | dict.fromkeys(numbers, "float"), rows),
    }


def _means(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Means of the primary model over the last reported days, and their standard errors."""
    primary = next(iter(metrics["models"]), None)
    means = metrics["recent"]["systems"].get(primary, {})
    names = {metric: metric.replace("@", "_at_") for metric in means}
    found = {f"{names[metric]}_mean": of["mean"] for metric, of in means.items()}
    return found | {f"{names[metric]}_mean_error": of["standard_error"] for metric, of in means.items()}


def _models(metrics: dict[str, Any]) -> dg.TableMetadataValue:
    """One row per model."""
    numbers = ("auc", "log_loss", "normalised_entropy", "calibration")
    rows = ({"model": name, **{n: "" if of[n] is None else round(of[n], 5) for n in numbers}} for name, of in metrics.items())
    return table({"model": "string"} | dict.fromkeys(numbers, "float"), rows)
