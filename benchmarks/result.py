"""One line of the benchmark table. A benchmark module has `run() -> list[Result]`; `benchmarks/__main__.py` runs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A claim as a ratio measured in one run: `ours` over `baseline`, in the same unit; more is better.

    floor: the most that the machine allows, in the same unit, where it is known (the note says how it was found).
    """

    name: str
    unit: str
    ours: float
    baseline: float
    baseline_name: str
    floor: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline
