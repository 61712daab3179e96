"""The choice of a launcher and a number of processes. Separate from `launch`, so that this module does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Launcher = Literal["local", "driver", "executors"]


@dataclass(frozen=True)
class Processes:
    """A number of processes, and their launcher.

    Attributes:
        count: Number of processes.
        launcher: `local` starts them on this machine. Spark's TorchDistributor starts them on the driver's machine (`driver`)
            or as barrier tasks (`executors`).
        spark: The session that Spark's launchers need.
    """

    count: int = 1
    launcher: Launcher = "local"
    spark: SparkSession | None = None
