"""Resources of the assets. `orchestration/deployments.py` binds them to a deployment."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml.compute.runner import LocalRunner, Runner, SparkRunner
from ml.distributed.launchers import Launcher
from ml.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from upath import UPath

    from ml.compute.dask_cluster import Cluster
    from ml.datasets.cache_config import CacheConfig
    from ml.sync.folder import SyncFolder


class LakeResource(dg.ConfigurableResource):
    """The lake that partitions are read from and written to."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def open(self) -> Lake:
        return Lake.at(self.root)


class LandingResource(dg.ConfigurableResource):
    """The folder where raw logs arrive, with one folder per dataset."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def folder(self, dataset: str) -> str:
        return f"{self.root.rstrip('/')}/{dataset}"


class StreamsResource(dg.ConfigurableResource):
    """The folder of events that arrive continuously, with one folder per dataset."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def folder(self, dataset: str) -> "UPath":
        from upath import UPath

        return UPath(self.root) / dataset


class ServingResource(dg.ConfigurableResource):
    """The local folder of running services, with one folder per dataset."""

    root: str = Field(description="A local folder.")

    def folder(self, dataset: str) -> Path:
        return Path(self.root) / dataset


class SyncResource(dg.ConfigurableResource):
    """Where models are published to servers, with a folder for each model of each dataset."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def folder(self, dataset: str, model: str) -> "SyncFolder":
        from ml.sync.folder import sync_folder

        return sync_folder(self.root, dataset, model)


class SparkResource(dg.ConfigurableResource):
    """Spark, started on first use. With `master: none` the same tasks run in this process."""

    master: str = Field(
        default="", description="Any Spark master; empty for a local session on every core; `none` for no Spark."
    )

    def session(self) -> "SparkSession | None":
        from ml.compute.spark import start_session

        return None if self.master == "none" else start_session(self.master or None)

    def runner(self) -> Runner:
        session = self.session()
        return SparkRunner(session) if session else LocalRunner()


class DaskResource(dg.ConfigurableResource):
    """Dask: a scheduler, or processes of this machine that are started on first use."""

    address: str = Field(default="", description="Address of a scheduler; empty for a cluster on this machine.")
    adapt: str = Field(
        default="", description="`min:max`, between which a cluster on this machine scales; empty for one worker per core."
    )

    def cluster(self) -> "Cluster":
        from ml.compute.dask_cluster import Cluster, parse_adapt

        return Cluster(self.address, parse_adapt(self.adapt) if self.adapt else None)


class CacheSettings(dg.Config):
    """A folder on each machine that caches shards of a remote lake."""

    folder: str = Field(default="", description="A local folder outside the lake; empty for no cache.")
    limit: str = Field(default="", description="Size limit of the cache, such as `100gb`; empty for no limit.")

    def config(self) -> "CacheConfig | None":
        from ml.datasets.cache_config import CacheConfig

        return CacheConfig.of(self.folder, self.limit)


class TrainingResource(dg.ConfigurableResource):
    """The processes that train a model together: their number, their launcher and their cache."""

    processes: int = Field(
        default=1, ge=1, description="Processes that train a day together; `batch_size` of a recipe must be a multiple of it."
    )
    launcher: Launcher = Field(
        default="local",
        description="`local` for this machine, or Spark's TorchDistributor on the `driver` or on `executors`.",
    )
    cache: CacheSettings = Field(default=CacheSettings(), description="Where each machine caches shards of a remote lake.")
    spark: dg.ResourceDependency[SparkResource]

    def session(self) -> "SparkSession | None":
        """Return the Spark session if it starts the processes."""
        return None if self.processes == 1 or self.launcher == "local" else self.spark.session()


class TuningResource(dg.ConfigurableResource):
    """The tuning service and the folder of its trials. `SIGOPT_API_URL` names a service over HTTP instead of the database."""

    database: str = Field(description="SQLite file or PostgreSQL URL of the tuning service.")
    folder: str = Field(description="Folder of each machine in which trials have their folders.")


class MlflowResource(dg.ConfigurableResource):
    """MLflow, at `MLFLOW_TRACKING_URI` or as a SQLite store with local artifacts below `home`."""

    home: str = Field(description="A local folder.")
    example_rows: int = Field(
        default=5,
        ge=0,
        description="Raw rows of the day that are logged with a model as its input example; 0 for none.",
    )
