"""Champion and challenger of a dataset according to its reports, and the aliases in MLflow's registry that follow them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.days import checked_days
from assets.partitions import daily
from assets.policy import key
from assets.resources import LakeResource, MlflowResource
from ml import stages
from ml.catalog.spec import DatasetSpec

if TYPE_CHECKING:
    from ml.evaluation.promotion import Standing

NAME = "promotion"
MARGIN = 0.005  # of AUC; the models of one dataset differ by less from day to day


def build_promotion_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Build the check of one dataset, on its reports."""
    report = key(spec, stages.EVALUATION_REPORTS)

    @dg.asset_check(
        asset=report,
        name=NAME,
        partitions_def=daily(spec),
        description="Champion and challenger according to the reports up to the day; aliases in MLflow's registry "
        f"follow the newest report. Warns if the champion's AUC is more than {MARGIN} below the day's best.",
    )
    def promotion(context: dg.AssetCheckExecutionContext, lake: LakeResource, mlflow: MlflowResource) -> dg.AssetCheckResult:
        from ml.evaluation.history import history_of
        from ml.evaluation.promotion import standings

        days = checked_days(context, lake.open(), stages.EVALUATION_REPORTS, spec)
        found = standings(history_of(lake.open(), spec.name))
        until = [standing for standing in found if standing.day <= days[-1]]
        checked = [standing for standing in until if standing.day >= days[0]]
        failing = [standing.day for standing in checked if standing.behind > MARGIN]
        return dg.AssetCheckResult(
            passed=not failing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                **(_metadata(until[-1]) if until else {"champion": "none: no models were compared up to this day"}),
                "changed": any(standing.replaced for standing in checked),
                **(_aliases(context, spec, found[-1], Path(mlflow.home)) if found else {}),
                "failing_days": dg.MetadataValue.json(failing),
            },
        )

    return promotion


def _metadata(standing: "Standing") -> dict[str, Any]:
    """Return metadata of the day, or of the last day before it whose report compares models."""
    replaced = {"replaced": standing.replaced} if standing.replaced else {}
    aucs = {f"auc_{name}": auc for name, (auc, _) in standing.scores.items()}
    challenger = standing.challenger or "none: there is no other model"
    return {"day": standing.day, "champion": standing.champion, "challenger": challenger, **replaced, **aucs}


def _aliases(context: dg.AssetCheckExecutionContext, spec: DatasetSpec, newest: "Standing", home: Path) -> dict[str, str]:
    """Point the registry's aliases at the models of the newest report, all or none. The checked day does not matter."""
    from mlflow.exceptions import MlflowException

    from ml.tracking.registry import CHALLENGER, CHAMPION, point
    from ml.tracking.run import Tracker

    models = {CHAMPION: newest.champion, CHALLENGER: newest.challenger}
    until = newest.trained_until
    wanted = {alias: (model, until.get(model, "an unknown day")) if model else None for alias, model in models.items()}
    try:
        found = point(Tracker(home).client(), spec.name, wanted)
    except MlflowException as error:  # the verdict depends on reports alone
        context.log.warning("aliases of %s were not moved: %s", spec.name, error)
        return {"aliases": f"not moved: {error}"}
    which = {alias: " trained until ".join(of) for alias, of in wanted.items() if of}
    missing = [which[alias] for alias in which if not found[alias]]
    if missing:
        reason = f"not moved: MLflow's registry has no version of {' and of '.join(missing)}"
        context.log.warning("aliases of %s were %s", spec.name, reason)
        return {f"{alias}_alias": reason for alias in wanted}
    return {
        f"{alias}_alias": f"version {version.version}: {which[alias]}" if version else "none"
        for alias, version in found.items()
    }
