"""One line of the benchmark table. A benchmark module has `run() -> list[Result]`; `benchmarks/__main__.py` runs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A speed claim as a ratio measured in one run: `ours` over `baseline`. Higher is better.

    Attributes:
        name: What was measured.
        unit: Unit of `ours`, `baseline` and `floor`.
        ours: Our rate.
        baseline: The rate of the baseline; None if its library is not installed.
        baseline_name: What the baseline is.
        floor: The most that the machine allows, where it is known.
        note: Explanations, for example how the floor was measured.
    """

    name: str
    unit: str
    ours: float
    baseline: float | None
    baseline_name: str
    floor: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.baseline is None else self.ours / self.baseline
