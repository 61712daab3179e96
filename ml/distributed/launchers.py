"""Which processes train together, and who starts them. Apart from `launch`, so that naming a launcher does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Launcher = Literal["local", "driver", "executors"]


@dataclass(frozen=True)
class Processes:
    """Some processes, and their launcher.

    Attributes:
        count: number of processes.
        launcher: `local` starts them on this machine. Spark's TorchDistributor starts them on the driver's machine (`driver`)
            or as barrier tasks (`executors`).
        spark: the session that Spark's launchers need.
    """

    count: int = 1
    launcher: Launcher = "local"
    spark: SparkSession | None = None
