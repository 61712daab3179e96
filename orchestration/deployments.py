"""Builds the resources of a deployment from environment variables. On a laptop, none of them has to be set.

| variable                 | default                        |                                            |
|--------------------------|--------------------------------|--------------------------------------------|
| EVERGREEN_HOME           | ./.evergreen                   | everything Evergreen writes                |
| EVERGREEN_LAKE           | $EVERGREEN_HOME                | partitions; any fsspec URL                 |
| EVERGREEN_LANDING        | $EVERGREEN_HOME/landing        | raw logs, a folder per dataset             |
| EVERGREEN_SYNC           | $EVERGREEN_HOME/sync           | models published to servers; any URL       |
| EVERGREEN_SPARK_MASTER   | local, every core              | any Spark master; `none` for no Spark      |
| EVERGREEN_DASK           | a cluster on this machine      | address of a Dask scheduler                |
| EVERGREEN_DASK_ADAPT     | one worker per core            | `min:max` workers of the local cluster     |
| EVERGREEN_TUNING_DB      | SQLite in $EVERGREEN_HOME      | PostgreSQL URL of the tuning service       |
| SIGOPT_API_URL           | the service in process         | a tuning service over HTTP                 |
| EVERGREEN_PROCESSES      | 1                              | processes that train a model together      |
| EVERGREEN_LAUNCHER       | local                          | `local`, or Spark's `driver`, `executors`  |
| EVERGREEN_CACHE          | none                           | folder that caches shards of a remote lake |
| EVERGREEN_CACHE_LIMIT    | none                           | size limit of the cache, such as `100gb`   |
| EVERGREEN_CATALOG        | the repository's catalog/      | the datasets, one YAML each                |
| MLFLOW_TRACKING_URI      | SQLite in $EVERGREEN_HOME      | an MLflow server                           |
| EVERGREEN_EXAMPLE_ROWS   | 5                              | raw rows logged in MLflow with a model     |
"""

import os
from pathlib import Path
from typing import get_args

from assets.resources import (
    CacheSettings,
    DaskResource,
    LakeResource,
    LandingResource,
    MlflowResource,
    ServingResource,
    SparkResource,
    StreamsResource,
    SyncResource,
    TrainingResource,
    TuningResource,
)
from ml.catalog.load import CATALOG, Catalog, CatalogError, read_catalog
from ml.compute.dask_cluster import parse_adapt
from ml.distributed.launchers import Launcher
from ml.recipes.recipe import recipe_of
from ml.tracking.local_store import check_home


def home() -> Path:
    """Return the absolute path of the Evergreen home.

    Raises:
        ValueError: The path contains characters that the URLs of MLflow's and Dagster's SQLite databases cannot have.
    """
    return check_home(Path(os.environ.get("EVERGREEN_HOME") or ".evergreen").absolute(), "EVERGREEN_HOME")


def lake_root() -> str:
    """Return the root of the lake, a folder or an fsspec URL."""
    return os.environ.get("EVERGREEN_LAKE") or str(home())


def landing_root() -> str:
    """Return the folder, or fsspec URL, of the landing folders."""
    return os.environ.get("EVERGREEN_LANDING") or str(home() / "landing")


def sync_root() -> str:
    """Return the folder, or fsspec URL, in which models are published to servers."""
    return os.environ.get("EVERGREEN_SYNC") or str(home() / "sync")


def serving_folder(dataset: str) -> Path:
    """Return the folder of a dataset's service, such as its pins and its address."""
    return home() / "serving" / dataset


def catalog_folder() -> Path:
    """Return the folder of the catalog."""
    return Path(os.environ.get("EVERGREEN_CATALOG") or CATALOG)


def catalog() -> Catalog:
    """Load the datasets of the catalog and check their recipes, so that errors appear before anything runs.

    An entry that is not valid, or names a recipe that is not, is among `broken` and does not affect the others.

    Raises:
        CatalogError: The folder has no entry.
    """
    found = read_catalog(catalog_folder())
    for name, spec in list(found.datasets.items()):
        for model in spec.models:
            try:
                recipe_of(spec, model)
            except CatalogError as error:
                found.broken[name] = CatalogError(f"{catalog_folder() / name}.yaml: models.{model}: {error}")
                found.datasets.pop(name, None)
    return found


def resources() -> dict[str, object]:
    """Build the resources of this process's deployment from the environment variables."""
    spark = SparkResource(master=os.environ.get("EVERGREEN_SPARK_MASTER") or "")
    return {
        "lake": LakeResource(root=lake_root()),
        "landing": LandingResource(root=landing_root()),
        "streams": StreamsResource(root=str(home() / "stream")),
        "sync": SyncResource(root=sync_root()),
        "serving": ServingResource(root=str(home() / "serving")),
        "spark": spark,
        "dask": _dask(),
        "training": _training(spark),
        "tuning": _tuning(),
        "mlflow": _mlflow(),
    }


def _tuning() -> TuningResource:
    """The service in process uses the database that `make sigopt` serves."""
    database = os.environ.get("EVERGREEN_TUNING_DB") or str(home() / "tuning" / "tuning.db")
    return TuningResource(database=database, folder=str(home() / "tuning" / "trials"))


def _dask() -> DaskResource:
    """Raises `ValueError` with the name of a variable that is invalid."""
    address, adapt = os.environ.get("EVERGREEN_DASK") or "", os.environ.get("EVERGREEN_DASK_ADAPT") or ""
    if adapt and address:
        raise ValueError("EVERGREEN_DASK_ADAPT scales the cluster on this machine only: unset it, or unset EVERGREEN_DASK")
    if adapt:
        try:
            parse_adapt(adapt)
        except ValueError as error:
            raise ValueError(f"EVERGREEN_DASK_ADAPT: {error}") from error
    return DaskResource(address=address, adapt=adapt)


def _mlflow() -> MlflowResource:
    """Raises `ValueError` with the name of a variable that is invalid."""
    rows = os.environ.get("EVERGREEN_EXAMPLE_ROWS") or "5"
    if not rows.isdecimal():
        raise ValueError(f"EVERGREEN_EXAMPLE_ROWS: expected a whole number of at least 0, found {rows!r}")
    return MlflowResource(home=str(home()), example_rows=int(rows))


def _training(spark: SparkResource) -> TrainingResource:
    """Raises `ValueError` with the name of a variable that is invalid."""
    processes, launcher = os.environ.get("EVERGREEN_PROCESSES") or "1", os.environ.get("EVERGREEN_LAUNCHER") or "local"
    if not processes.isdecimal() or int(processes) < 1:
        raise ValueError(f"EVERGREEN_PROCESSES: expected a whole number of at least 1, found {processes!r}")
    if launcher not in get_args(Launcher):
        raise ValueError(f"EVERGREEN_LAUNCHER: expected one of {get_args(Launcher)}, found {launcher!r}")
    return TrainingResource(
        processes=int(processes),
        launcher=launcher,  # type: ignore[arg-type]
        cache=CacheSettings(
            folder=os.environ.get("EVERGREEN_CACHE") or "", limit=os.environ.get("EVERGREEN_CACHE_LIMIT") or ""
        ),
        spark=spark,
    )
