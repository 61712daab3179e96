"""Resources that asset signatures name. What they are bound to is a deployment's affair (`orchestration/deployments.py`)."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml.compute.runner import LocalRunner, Runner, SparkRunner
from ml.distributed.launchers import Launcher
from ml.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class LakeResource(dg.ConfigurableResource):
    """The lake that partitions are read from and written to."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def open(self) -> Lake:
        return Lake.at(self.root)


class LandingResource(dg.ConfigurableResource):
    """Where raw logs arrive: one folder per dataset."""

    root: str = Field(description="A folder, or any fsspec URL.")

    def folder(self, dataset: str) -> str:
        return f"{self.root.rstrip('/')}/{dataset}"


class SparkResource(dg.ConfigurableResource):
    """Spark, started on first use; with `master: none` the same tasks run in this process instead."""

    master: str = Field(
        default="", description="Any Spark master; empty for a local session on every core; `none` for no Spark."
    )

    def session(self) -> "SparkSession | None":
        from ml.compute.spark import start_session

        return None if self.master == "none" else start_session(self.master or None)

    def runner(self) -> Runner:
        session = self.session()
        return SparkRunner(session) if session else LocalRunner()


class TrainingResource(dg.ConfigurableResource):
    """How many processes train a model together, who starts them, and by what way they read."""

    processes: int = Field(default=1, ge=1, description="Of each day's training; a recipe's `batch_size` is a multiple of it.")
    launcher: Launcher = Field(
        default="local",
        description="`local`, here; or Spark's TorchDistributor: on the `driver`'s machine, or as tasks on `executors`.",
    )
    cache: str = Field(default="", description="A folder of each machine for shards of a lake elsewhere; empty for none.")
    cache_limit: str = Field(default="", description="How much of it at most, as in `100gb`; empty for any.")
    spark: dg.ResourceDependency[SparkResource]

    def session(self) -> "SparkSession | None":
        """Spark, where it starts the processes."""
        return None if self.processes == 1 or self.launcher == "local" else self.spark.session()


class MlflowResource(dg.ConfigurableResource):
    """Where runs and models are logged: `MLFLOW_TRACKING_URI`, or a SQLite store and local artifacts below `home`."""

    home: str = Field(description="A local folder.")
    example_rows: int = Field(
        default=5,
        ge=0,
        description="Raw rows of the day's log that are logged with a model, as an example of its input; 0 for none.",
    )
