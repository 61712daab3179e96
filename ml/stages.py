"""Names of the lake's stages, and the order in which a day passes through them.

A stage is a folder of the lake (`<root>/<stage>/<dataset>/<day>`), and its name is the key of the asset that writes it, below
the dataset's name: `criteo/tuned_models/dlrm` writes `tuned_models/dlrm/criteo/<day>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec

RAW_LOGS = "raw_logs"
RAW_ACTIONS = "raw_actions"
JOINED_EXAMPLES = "joined_examples"
FEATURE_TABLES = "feature_tables"
CLEANED_FEATURES = "cleaned_features"
FEATURE_PROFILES = "feature_profiles"
MDS_DATASETS = "mds_datasets"
CANDIDATE_INDEX = "candidate_index"
BATCH_RECOMMENDATIONS = "batch_recommendations"
EVALUATION_REPORTS = "evaluation_reports"
STUDIES = "studies"

VALIDATED = (RAW_LOGS, CLEANED_FEATURES, MDS_DATASETS)
"""Stages that store rows. `ml.quality` checks their days against the contract of the stage."""


def advisor_recipes(model: str) -> str:
    """Returns the stage of a model's recipes, one for each day."""
    return f"advisor_recipes/{model}"


def tuning_results(model: str) -> str:
    """Returns the stage of the results of a model's tunings, one for each day that a tuning served."""
    return f"tuning_results/{model}"


def tuned_models(model: str) -> str:
    """Returns the stage of a model's trained days."""
    return f"tuned_models/{model}"


def online_updates(model: str) -> str:
    """Returns the stage of a model's days that were trained online, in slices."""
    return f"online_updates/{model}"


def exported_models(model: str) -> str:
    """Returns the stage of a model's days that are exported for inference."""
    return f"exported_models/{model}"


def checkpoints(model: str) -> str:
    """Returns the folder of the lake for checkpoints of a model's days that are being trained."""
    return f"checkpoints/{model}"


def online_checkpoints(model: str) -> str:
    """Returns the folder of the lake for checkpoints of a model's days that are being trained online."""
    return f"online_checkpoints/{model}"


def online_packages(model: str) -> str:
    """Returns the folder of the lake for what a model's day publishes while it is trained online and no server follows it."""
    return f"online_packages/{model}"


def profiles(stage: str) -> str:
    """Returns the folder of the lake for the profiles of a stage's days."""
    return f"profiles/{stage}"


def stages_on_request(spec: DatasetSpec) -> list[str]:
    """Returns the stages of a dataset's assets that are not made with every day."""
    online = [online_updates(model) for model, choice in spec.models.items() if choice.serve == "daily"]
    batch = [BATCH_RECOMMENDATIONS] if spec.item and spec.user else []
    return [*(tuning_results(model) for model in spec.models), *online, *batch]


def served_models(spec: DatasetSpec, model: str) -> str:
    """Returns the stage of the states of a model that are exported and that reports score: daily, or trained online."""
    return online_updates(model) if spec.models[model].serve == "online" else tuned_models(model)


def stages_of(spec: DatasetSpec) -> list[str]:
    """Returns the stages that are made with every day of a dataset, in the order in which they are made."""
    logs = [RAW_LOGS, RAW_ACTIONS, JOINED_EXAMPLES] if spec.actions else [RAW_LOGS]
    return [
        *logs,
        *([FEATURE_TABLES] if spec.feature_tables else []),
        CLEANED_FEATURES,
        MDS_DATASETS,
        FEATURE_PROFILES,
        *(advisor_recipes(model) for model in spec.models),
        *(tuned_models(model) for model in spec.models),
        *(online_updates(model) for model, choice in spec.models.items() if choice.serve == "online"),
        *(exported_models(model) for model in spec.models),
        *([CANDIDATE_INDEX] if spec.item else []),
        EVALUATION_REPORTS,
    ]
