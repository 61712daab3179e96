"""MLflow's registry: one registered model per dataset, and in it a version for each day of each of the dataset's models.

A version's tags say which it is (`evergreen.model`, `evergreen.day`) and of what bytes (`evergreen.digest`); version numbers
count registrations and mean nothing more. Aliases are set here; who deserves one is `ml.evaluation.promotion`'s to say.
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
    """A version of the model logged. It takes the place, and the aliases, of older ones of the same model and day."""
    try:
        client.create_registered_model(dataset)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    older = versions(client, dataset, model, day)
    tags = {MODEL: model, DAY: day, DIGEST: digest}
    with _tracking_uri(client.tracking_uri):  # where a SQL registry looks for the logged model, whatever the client's is
        new = client.create_model_version(dataset, logged.model_uri, logged.source_run_id, tags, model_id=logged.model_id)
    for version in older:
        for alias in version.aliases:
            client.set_registered_model_alias(dataset, alias, str(new.version))
        client.delete_model_version(dataset, str(version.version))
    return new


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """MLflow's global one, and the environment variable it sets by it, for a while."""
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def versions(client: MlflowClient, dataset: str, model: str, day: str) -> list[ModelVersion]:
    """Versions of a day of a model, the newest first: one where it was registered, else none."""
    found = client.search_model_versions(f"name = '{dataset}' and tags.`{MODEL}` = '{model}' and tags.`{DAY}` = '{day}'")
    # What a search finds comes without its aliases.
    held = [client.get_model_version(dataset, str(version.version)) for version in found]
    return sorted(held, key=lambda version: int(version.version), reverse=True)


def point(client: MlflowClient, dataset: str, aliases: Mapping[str, tuple[str, str] | None]) -> dict[str, ModelVersion | None]:
    """Let each alias point at the version of its (model, day), and where that is None at none. Gives the versions.

    Where a day has no version all aliases stay where they are: what they point at was scored too, if on an earlier day, and
    moved one by one, two of them could end up at one model.
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
