"""Trainings of small models on random data whose work is known, to find what a unit of each term of `ml.advisor.cost` takes.

Each step gathers and collates its rows with the code of the reader, as training does. A step over tensors that are already in
the processor's cache takes less time. Ids repeat as those of a log do, since a row that a step reads often is fetched and
updated once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.advisor.cost import READING_TERMS, terms
from ml.advisor.workload import FeatureLoad, Workload
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.loop import train_step
from ml.training.state import TrainState, new_state

BATCHES = 2  # of one part of the data
SECONDS = 0.02  # processor time per shape and repetition, at least
LENGTH = 3  # ids per row of a feature with several


@dataclass(frozen=True)
class Shape:
    """A model and random data whose steps are timed.

    Attributes:
        model: A shipped recipe.
        dense: Number of dense features.
        sparse: Number of sparse features with one id per row.
        rows: Rows per batch.
        ids: Distinct ids of each sparse feature. The n-th most frequent one occurs with a probability proportional to 1 / n.
        overrides: Recipe keys that differ.
        even: Whether all ids are equally probable instead.
        fresh: Whether every batch has ids that no batch before it has, all equally probable.
        lists: Number of further sparse features, which have `LENGTH` ids per row on average.
    """

    model: str
    dense: int
    sparse: int
    rows: int
    ids: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    even: bool = False
    fresh: bool = False
    lists: int = 0

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return load_recipe(self.model, {"batch_size": self.rows, **self.overrides})

    @property
    def schema(self) -> FeatureSchema:
        """Features d0, d1, ... (dense), s0, s1, ... (one id per row) and m0, m1, ... (several)."""
        numbers = {"d": self.dense, "s": self.sparse, "m": self.lists}
        dense, single, multi = (tuple(f"{kind}{i}" for i in range(number)) for kind, number in numbers.items())
        return FeatureSchema(dense, single, multi, "calibration")

    @property
    def workload(self) -> Workload:
        """The work of one step."""
        even, schema = self.even or self.fresh, self.schema
        # Of ids whose n-th one occurs in proportion to 1 / n, one in c occurs at least c times as often as the rarest.
        by_count = () if even else tuple(self.ids / 2**k for k in range(self.ids.bit_length()))
        load = FeatureLoad(self.rows, self.ids, 0.0, by_count)
        load = replace(load, new=load.distinct(self.rows)) if self.fresh else load
        loads = {name: replace(load, lookups=self.rows * (LENGTH if name in schema.multi else 1)) for name in schema.sparse}
        return Workload(self.rows, self.rows / 2, loads)

    @property
    def units(self) -> dict[str, float]:
        """Units of each term in a step, which reads no files."""
        found = terms(self.recipe, self.schema, self.workload)
        return {name: number for name, number in found.items() if name not in READING_TERMS}

    def data(self, part: int) -> Rows:
        """Return the rows of `BATCHES` batches."""
        generator, rows = np.random.default_rng(part), BATCHES * self.rows
        single = self._ids(generator.random((rows, self.sparse)))
        lengths = generator.integers(1, 2 * LENGTH, (rows, self.lists), np.int32)
        order, ones = np.arange(rows), np.ones(rows, np.float32)
        if self.fresh:
            single += (part * BATCHES + order[:, None] // self.rows) * self.ids
        return Rows(
            dense=generator.random((rows, self.dense), np.float32),
            single=single,
            multi_lengths=lengths,
            multi_values=self._ids(generator.random(int(lengths.sum()))),
            label=generator.integers(0, 2, rows).astype(np.float32),
            sample_rate=ones,
            event_time=np.zeros(rows, np.int64),
            position=order,
            further=np.empty((rows, 0), np.float32),
            weight=np.empty((rows, 0), np.float32),
        )

    def _ids(self, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the ids of draws between 0 and 1. With a uniform logarithm, the n-th id is as probable as 1 / n."""
        numbers = draws * self.ids if self.even or self.fresh else self.ids**draws - 1
        return 2 + numbers.astype(np.int64)


class Training:
    """The training of a shape, which loads kernels and admits ids when it is created.

    Attributes:
        shape: The shape.
        first_seconds: CPU-seconds of the first steps, as many as a part of the data has.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape, self._state = shape, new_state(shape.recipe, shape.schema)
        self._state.begin_pass()
        self.first_seconds = _train(self._state, shape.data(0))

    def step_seconds(self, repetition: int) -> float:
        """Train for a while on data of the repetition's own, and return the CPU-seconds of a step."""
        steps, spent, part = 0, 0.0, 0
        while spent < SECONDS:
            spent += _train(self._state, self.shape.data(repetition * 1000 + part))
            steps, part = steps + BATCHES, part + 1
        return spent / steps


def typical_seconds(trainings: Iterable[Training], repeats: int) -> list[float]:
    """Return the CPU-seconds of a step of each training.

    The median of the repetitions counts: the fastest is one that no day of training attains on average. The repetitions of a
    training are not in a row, so that other work of the machine for a moment does not change all of them.
    """
    rounds = [[training.step_seconds(number) for training in trainings] for number in range(1, repeats + 1)]
    return [median(times) for times in zip(*rounds, strict=True)]


def _train(state: TrainState, rows: Rows) -> float:
    """Train on rows batch by batch, as a pass does, and return the CPU-seconds."""
    size = len(rows) // BATCHES
    order, began = np.random.default_rng(0).permutation(size), time.process_time()
    for low in range(0, len(rows), size):
        batch = batch_from_rows(rows.take(low + order), state.schema)
        train_step(state, batch, total_steps=1_000_000)
    return time.process_time() - began
