"""Who can start the processes that train together. Apart from `launch`, which does it, so that naming one loads no torch."""

from typing import Literal

Launcher = Literal["local", "driver", "executors"]
