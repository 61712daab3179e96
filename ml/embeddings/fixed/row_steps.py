"""The step of each row's last update, from which fixed-size tables create deltas and count touched rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ml.embeddings.delta import Gap

_LARGEST = 2**31 - 1


class RowSteps:
    """Row steps of several tables, whose rows are numbered consecutively.

    A look-up in training marks its rows with the current step, at the cost of one write per occurrence. If a delta is taken
    between a look-up and its backward pass, the backward pass marks the rows again, so that the next delta contains them.

    Args:
        sizes: Number of rows of each table, by name.

    Example:
        >>> steps = RowSteps({"a": 3, "b": 2})
        >>> steps.mark(torch.tensor([0, 2, 2, 4]))  # row 4 is row 1 of table b
        >>> steps.mark(torch.tensor([2]))
        >>> {name: rows.tolist() for name, rows in steps.changed(since=1).items()}
        {'a': [2], 'b': []}
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.rows = torch.zeros(sum(sizes.values()), dtype=torch.int32)
        self.clock = torch.zeros(2, dtype=torch.int64)  # the step, and the latest event time
        self.span = torch.zeros(2, dtype=torch.int64)  # the step when the pass began, and the oldest `since` of a delta
        self._read_at = 0

    @property
    def step(self) -> int:
        return int(self.clock[0])

    @property
    def time(self) -> int:
        return int(self.clock[1])

    def set_time(self, now: int) -> None:
        """Set the latest event time, in microseconds since 1970 UTC. An earlier time has no effect."""
        if now > self.time:
            self.clock[1] = now

    def advance_to(self, step: int) -> None:
        """Raise the current step. A lower step has no effect.

        Raises:
            OverflowError: If the step does not fit into int32.
        """
        if step > _LARGEST:
            raise OverflowError(f"step {step} exceeds the largest step, {_LARGEST}: train again from the first day")
        self.clock[0] = max(step, self.step)

    def mark(self, rows: torch.Tensor, pooled: torch.Tensor | None = None) -> None:
        """Count a training step, and mark the rows that it looked up.

        Args:
            rows: Rows, numbered across all tables, int64 [N].
            pooled: The pooled rows, whose backward pass updates the rows.
        """
        self.advance_to(self.step + 1)
        marked = self.step
        self.rows.numpy()[rows.numpy()] = marked  # takes half the time of torch's indexing
        if pooled is not None and pooled.requires_grad:
            pooled.register_hook(lambda _: self._mark_again(rows, marked))

    def _mark_again(self, rows: torch.Tensor, marked: int) -> None:
        if marked <= self._read_at:
            self.mark(rows)

    def changed(self, since: int) -> dict[str, torch.Tensor]:
        """Return the rows of each table that were marked after a step, int64 [U], in ascending order.

        Raises:
            Gap: If `since` is later than the current step, or if older changes are no longer available.
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
        """Return live tensors.

        Returns:
            `<table>.row_step`, int32 [rows], for each table. `pass`, int64 [2], holds the step at the beginning of the pass and
            the oldest step that deltas can start from.
        """
        return {f"{name}.row_step": rows for name, rows in self.by_table().items()} | {"pass": self.span}

    def begin_pass(self) -> None:
        """Reset the number of touched rows to zero."""
        self.span[0] = self.step

    def touched(self) -> dict[str, int]:
        """Return the number of rows of each table that have been marked since `begin_pass`."""
        return {name: int((rows > self.span[0]).sum()) for name, rows in self.by_table().items()}

    def reset(self) -> None:
        """Discard the steps of all rows. Deltas can start from the current step or later."""
        self.rows.zero_()
        self.span.fill_(self.step)
        self._read_at = self.step
