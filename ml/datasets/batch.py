"""The batch that a reader yields and a model receives. Define containers of tensors here, and no input or output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class Unlabelled(ValueError):
    """A field was read that the batch of a request does not have: labels, sample rates or event times."""


class _TrainingField:
    """A field that requests do not have. Reading a missing one raises `Unlabelled`, so that callers need not check for None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._key = name, f"_{name}"

    @overload
    def __get__(self, batch: None, owner: type) -> None: ...
    @overload
    def __get__(self, batch: Any, owner: type) -> torch.Tensor: ...
    def __get__(self, batch: Any, owner: type) -> torch.Tensor | None:
        if batch is None:
            return None  # the default of the dataclass field
        found = batch.__dict__[self._key]
        if found is None:
            raise Unlabelled(
                f"the batch has no {self._name}: it was made from a request. Training, evaluation and sampling correction need "
                "batches of a feature table or of training data (ml.datasets)"
            )
        return found

    def __set__(self, batch: Any, value: torch.Tensor | None) -> None:
        batch.__dict__[self._key] = value


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B examples with I dense and F sparse features.

    A request has only `dense` and `sparse`. Reading one of the other fields of its batch raises `Unlabelled`.

    Args:
        dense: float32 [B, I].
        sparse: KeyedJaggedTensor of F keys with stride B; ids are int64, key-major.
        labels: float32 [B], 0 or 1.
        sample_rate: float32 [B], the probability that an unclicked row like this was kept by sampling; 1.0 without sampling.
        event_time: int64 [B], microseconds since 1970-01-01 UTC.
        further: float32 [B, L - 1], further labels; None in a dataset with one label.
        weight: float32 [B], sample weights; None in a dataset without.

    Example:
        >>> sparse = KeyedJaggedTensor(["item"], torch.tensor([7, 9]), lengths=torch.tensor([1, 1], dtype=torch.int32))
        >>> request = Batch(torch.zeros(2, 3), sparse)
        >>> len(request), request.is_labelled
        (2, False)
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: _TrainingField = _TrainingField()
    sample_rate: _TrainingField = _TrainingField()
    event_time: _TrainingField = _TrainingField()
    further: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.dense)

    def __repr__(self) -> str:
        kind = "labelled" if self.is_labelled else "unlabelled"
        return f"Batch({len(self)} {kind} rows, {self.dense.shape[1]} dense, {len(self.sparse.keys())} sparse features)"

    @property
    def is_labelled(self) -> bool:
        """Whether the batch has labels, sample rates and event times."""
        return all(self.__dict__[f"_{name}"] is not None for name in ("labels", "sample_rate", "event_time"))

    @property
    def all_labels(self) -> torch.Tensor:
        """All labels of the rows, float32 [B, L], the main label first."""
        main = self.labels.unsqueeze(1)
        return main if self.further is None else torch.cat((main, self.further), 1)

    def with_sample_rate(self, sample_rate: torch.Tensor) -> Batch:
        """Returns the same rows with other sample rates, float32 [B]."""
        return Batch(self.dense, self.sparse, self.labels, sample_rate, self.event_time, self.further, self.weight)

    def rows(self, kept: torch.Tensor) -> Batch:
        """Select rows.

        Args:
            kept: bool [B], True for rows to keep.

        Returns:
            The kept rows, in their order.
        """
        lengths = self.sparse.lengths().view(len(self.sparse.keys()), len(self))  # [F, B]
        of_values = torch.repeat_interleave(kept.repeat(len(lengths)), lengths.reshape(-1).long())  # [values]
        sparse = KeyedJaggedTensor(
            self.sparse.keys(),
            self.sparse.values()[of_values],
            lengths=lengths[:, kept].reshape(-1),
            stride=int(kept.sum()),
        )
        if not self.is_labelled:
            return Batch(self.dense[kept], sparse)
        main = self.labels[kept], self.sample_rate[kept], self.event_time[kept]
        further, weight = (None if values is None else values[kept] for values in (self.further, self.weight))
        return Batch(self.dense[kept], sparse, *main, further, weight)
