"""MLflow's model registry: one registered model per dataset, with one version for each day of each of the dataset's models.

The tags of a version identify it (`evergreen.model`, `evergreen.day`) and its bytes (`evergreen.digest`); version numbers only
count registrations. This module sets aliases; `ml.evaluation.promotion` decides which models they point at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

MODEL, DAY, DIGEST = "evergreen.model", "evergreen.day", "evergreen.digest"
CHAMPION, CHALLENGER = "champion", "challenger"


def register(client: MlflowClient, dataset: str, logged: LoggedModel, model: str, day: str, digest: str) -> ModelVersion:
    """Register a logged model as a version. It replaces older versions of the same model and day, and takes over their aliases.

    Args:
        client: MLflow's client.
        dataset: Name of the registered model.
        logged: The logged model.
        model: Name of the model, as the catalog entry has it.
        day: `YYYY-MM-DD`.
        digest: Digest of the trained day.

    Returns:
        The new version.
    """
    try:
        client.create_registered_model(dataset)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    older = versions(client, dataset, model, day)
    tags = {MODEL: model, DAY: day, DIGEST: digest}
    with _tracking_uri(client.tracking_uri):  # a SQL registry looks for the logged model there and ignores the client's URI
        new = client.create_model_version(dataset, logged.model_uri, logged.source_run_id, tags, model_id=logged.model_id)
    for version in older:
        for alias in version.aliases:
            client.set_registered_model_alias(dataset, alias, str(new.version))
        client.delete_model_version(dataset, str(version.version))
    return new


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's global tracking URI, and the environment variable that follows it, within the block."""
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def versions(client: MlflowClient, dataset: str, model: str, day: str) -> list[ModelVersion]:
    """Find the versions of a day of a model, newest first. There is one if the day was registered."""
    found = client.search_model_versions(f"name = '{dataset}' and tags.`{MODEL}` = '{model}' and tags.`{DAY}` = '{day}'")
    # Search results come without aliases.
    held = [client.get_model_version(dataset, str(version.version)) for version in found]
    return sorted(held, key=lambda version: int(version.version), reverse=True)


def point(client: MlflowClient, dataset: str, aliases: Mapping[str, tuple[str, str] | None]) -> dict[str, ModelVersion | None]:
    """Point each alias at the version of its (model, day), or remove the alias if that is None.

    If one of the days has no version, no alias is changed: moving only some aliases could point two of them at one model. The
    aliases then point at versions that were scored on an earlier day.

    Args:
        client: MLflow's client.
        dataset: Name of the registered model.
        aliases: Model and day by alias.

    Returns:
        The version by alias; None if there is none.
    """
    if not client.search_registered_models(f"name = '{dataset}'"):
        return dict.fromkeys(aliases)
    found = {
        alias: next(iter(versions(client, dataset, *wanted)), None) if wanted else None for alias, wanted in aliases.items()
    }
    if any(wanted and not found[alias] for alias, wanted in aliases.items()):
        return found
    for alias, version in found.items():
        if version:
            client.set_registered_model_alias(dataset, alias, str(version.version))
        else:
            client.delete_registered_model_alias(dataset, alias)
    return found
