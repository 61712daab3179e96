"""The step of the last update of each row: what tables of a fixed size need to know for deltas, and to count touched rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ml.embeddings.delta import Gap

_LARGEST = 2**31 - 1


class RowSteps:
    """Steps of several tables, numbered one after the other.

    Rows are marked when they are looked up in training, which costs one write per occurrence. If a delta is taken between a
    look-up and its backward pass, the rows are marked again by the backward pass, so that the next delta has them.

    Args:
        sizes: Number of rows of each table, by name.

    Example:
        >>> steps = RowSteps({"a": 3, "b": 2})
        >>> steps.mark(torch.tensor([0, 2, 2, 4]))  # row 4 is row 1 of b
        >>> steps.mark(torch.tensor([2]))
        >>> {name: rows.tolist() for name, rows in steps.changed(since=1).items()}
        {'a': [2], 'b': []}
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.rows = torch.zeros(sum(sizes.values()), dtype=torch.int32)
        self.clock = torch.zeros(2, dtype=torch.int64)  # step, latest event time
        self.span = torch.zeros(2, dtype=torch.int64)  # step at the beginning of the pass, oldest step that deltas may follow
        self._read_at = 0

    @property
    def step(self) -> int:
        return int(self.clock[0])

    @property
    def time(self) -> int:
        return int(self.clock[1])

    def set_time(self, now: int) -> None:
        """Set the event time, microseconds since 1970 UTC, unless it is earlier than before."""
        if now > self.time:
            self.clock[1] = now

    def advance_to(self, step: int) -> None:
        """Raise the step, unless it is lower than the present one."""
        if step > _LARGEST:
            raise OverflowError(f"{step} updates are more than a row's step can count: train again from the first day")
        self.clock[0] = max(step, self.step)

    def mark(self, rows: torch.Tensor, pooled: torch.Tensor | None = None) -> None:
        """Count a training step, and mark the rows that it looked up.

        Args:
            rows: int64 [N], numbered over all tables.
            pooled: What was made of the rows; its backward pass updates them.
        """
        self.advance_to(self.step + 1)
        marked = self.step
        self.rows.numpy()[rows.numpy()] = marked  # half the time of torch's own indexing
        if pooled is not None and pooled.requires_grad:
            pooled.register_hook(lambda _: self._mark_again(rows, marked))

    def _mark_again(self, rows: torch.Tensor, marked: int) -> None:
        if marked <= self._read_at:
            self.mark(rows)

    def changed(self, since: int) -> dict[str, torch.Tensor]:
        """Return the rows of each table that were marked after a step, int64 [U], in order.

        Raises:
            Gap: If `since` is a later step, or one before the oldest known change.
        """
        if since > self.step:
            raise Gap(f"the tables are at step {self.step}, changes since {since} were requested: load a snapshot")
        if since < (oldest := int(self.span[1])):
            raise Gap(f"changes since step {since} are unavailable, the oldest available step is {oldest}: load a snapshot")
        self._read_at = self.step
        return {name: (rows > since).nonzero().squeeze(1) for name, rows in self.by_table().items()}

    def by_table(self) -> dict[str, torch.Tensor]:
        """Return views of the steps of each table's rows, int32 [rows]."""
        return dict(zip(self.sizes, self.rows.split(list(self.sizes.values())), strict=True))

    def state(self) -> dict[str, torch.Tensor]:
        """Return live tensors: `<table>.row_step` int32 [rows]; `pass` int64 [2]: the step at which the pass began, and the
        oldest that deltas may follow on."""
        return {f"{name}.row_step": rows for name, rows in self.by_table().items()} | {"pass": self.span}

    def begin_pass(self) -> None:
        """Start the count of touched rows at zero."""
        self.span[0] = self.step

    def touched(self) -> dict[str, int]:
        """Return the number of rows of each table that were marked since `begin_pass`."""
        return {name: int((rows > self.span[0]).sum()) for name, rows in self.by_table().items()}

    def forget(self) -> None:
        """Record that it is unknown when rows were updated before the present step."""
        self.rows.zero_()
        self.span.fill_(self.step)
        self._read_at = self.step
