"""Table collections for inference. They store rows in fewer bits (`formats`), and deltas keep them up to date.

Ids are mapped to rows as in the trained tables. An id without a row reads zeros.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.delta import Delta, DeltaReceiver, TableDelta, TableShape
from ml.embeddings.inference.formats import Format, row_bytes
from ml.embeddings.inference.kinds import Kind, kind_of
from ml.embeddings.inference.pack import LARGEST, repack, unpack
from ml.embeddings.inference.packed_tables import PackedTables
from ml.embeddings.inference.serving_rows import Replaced, ServingRows
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.interface import TrainableBags, check_fit, in_order
from ml.schema import FIRST_ID

_CHECKED = 1 << 16  # rows that are checked at a time


class QuantisedBags(EmbeddingBagCollectionInterface, DeltaReceiver):
    """Quantised tables for inference, all with the same pooling.

    `forward` can run in several threads, even while another thread applies a delta, and does not wait for it. It reads each row
    whole, from before the delta or from after it. During the call, a batch may have rows of both kinds; once the call has
    returned, all rows are from after it.

    Args:
        configs: The tables.
        kind: Kind of the trained tables.
        formats: Format of each table.
        packed: Rows of each table, uint8 [R, bytes of a row], as `pack` returns them.
        ids: Ids of the rows of each table, int64 [R]; empty for tables that are not collisionless.
        clock: Step and latest event time of the trained tables, int64 [2].

    Raises:
        ValueError: If the poolings of the tables differ.

    Example:
        >>> from ml.embeddings.fixed.static import StaticEmbeddingBags
        >>> from ml.embeddings.inference.quantise import quantise_bags
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=["f"])]
        >>> trained = StaticEmbeddingBags(tables, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
        >>> quantised, _ = quantise_bags(trained, "int8")
        >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([7, 3]), lengths=torch.tensor([1, 0, 1]))
        >>> bool((quantised(features).values() - trained.eval()(features).values()).abs().max() < 0.001)
        True

        After more training, a delta updates the quantised tables:

        >>> trained.train()(features).values().sum().backward()
        >>> quantised.apply_delta(trained.delta(since=quantised.step))
        True
        >>> bool((quantised(features).values() - trained.eval()(features).values()).abs().max() < 0.001)
        True
    """

    def __init__(
        self,
        configs: Sequence[EmbeddingBagConfig],
        kind: Kind,
        formats: Sequence[Format],
        packed: Sequence[torch.Tensor],
        ids: Sequence[torch.Tensor],
        clock: torch.Tensor,
    ) -> None:
        super().__init__()
        if len(poolings := {config.pooling for config in configs}) > 1:
            raise ValueError(f"expected tables of one pooling, found {poolings}")
        self.kind, self.formats, self._configs = kind, list(formats), list(configs)
        self._keys = [feature for config in configs for feature in config.feature_names]
        table_of = torch.tensor([n for n, config in enumerate(configs) for _ in config.feature_names])
        self._dims = [config.embedding_dim for config in configs for _ in config.feature_names]
        self._clock = clock.clone()
        dims = [config.embedding_dim for config in configs]
        tables = PackedTables(dims, formats, packed, table_of, mean=PoolingType.MEAN in poolings)
        self._rows = ServingRows(kind, tables, [len(rows) for rows in packed], ids, table_of)

    @classmethod
    def restored(cls, bags: TrainableBags, about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> QuantisedBags:
        """Build a collection from what `about` and `tensors` returned.

        Args:
            bags: A collection of the same kind and with the same tables as the trained one; its rows are not used.
            about: The mapping that `about` returned.
            tensors: The tensors that `tensors` returned.

        Returns:
            The collection.

        Raises:
            ValueError: If names, shapes or dtypes of tensors do not match. This check is necessary because the kernel does not
                check bounds.
            LookupError: If tensors or formats are missing.
        """
        configs, kind = bags.embedding_bag_configs(), kind_of(bags)
        formats: list[Format] = [about["formats"][config.name] for config in configs]
        packed = [tensors[f"{config.name}.rows"] for config in configs]
        wanted = {"step": torch.empty(2, dtype=torch.int64, device="meta")}
        for config, format, rows in zip(configs, formats, packed, strict=True):
            shape = (len(rows), row_bytes(format, config.embedding_dim))
            wanted[f"{config.name}.rows"] = torch.empty(shape, dtype=torch.uint8, device="meta")
            if kind == "collisionless":
                wanted[f"{config.name}.id"] = torch.empty(len(rows), dtype=torch.int64, device="meta")
            elif len(rows) <= FIRST_ID:
                raise ValueError(f"{config.name}: {len(rows)} rows, expected more than the {FIRST_ID} reserved rows")
        check_fit(wanted, tensors)
        ids = [tensors[f"{config.name}.id"] for config in configs if f"{config.name}.id" in wanted]
        return cls(configs, kind, formats, packed, ids, tensors["step"])

    def about(self) -> dict[str, Any]:
        """Return the formats by table name, as values that can be stored as JSON."""
        return {"formats": {c.name: format for c, format in zip(self._configs, self.formats, strict=True)}}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return copies of all tensors.

        Returns:
            `<table>.rows`, uint8 [R, bytes of a row], for each table. `step`, int64 [2], holds the step and the latest event
            time in microseconds since 1970 UTC. Collisionless tables also have `<table>.id`, int64 [R], and both tensors of a
            table are sorted by id.
        """
        found = {"step": self._clock.clone()}
        for number, config in enumerate(self._configs):
            keys, rows = self._rows.keys_and_rows(number)
            if self.kind == "collisionless":
                found[f"{config.name}.id"] = torch.from_numpy(keys)
            found[f"{config.name}.rows"] = torch.from_numpy(self._rows.packed.rows(number)[rows])
        return found

    @property
    def nbytes(self) -> int:
        """Size of the rows, including free ones, and of the map from ids to rows, in bytes."""
        return self._rows.nbytes

    def share(self, epochs: SharedEpochs) -> None:
        """Let other processes read the rows while this one applies deltas; see `ml.embeddings.inference.shared.pickling`."""
        self._rows.share(epochs)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, sum of the features' dimensions], keys in the order of the tables; empty bags are zeros.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample, or different batch sizes.
        """
        features = in_order(features, self._keys)
        if features.weights_or_none() is not None:
            raise ValueError("quantised tables do not support weights per sample")
        if features.variable_stride_per_key():
            raise ValueError("expected the same batch size for all features")
        if not features.stride():  # FBGEMM's kernel fails for an empty batch
            return KeyedTensor(self._keys, self._dims, torch.zeros(0, sum(self._dims)))
        pooled = self._rows.look_up(features.values().long(), features.offsets().long())
        return KeyedTensor(self._keys, self._dims, pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Return the tables, with `num_embeddings` set to the number of rows in use."""
        return [replace(config, num_embeddings=rows) for config, rows in zip(self._configs, self._rows.sizes, strict=True)]

    def is_weighted(self) -> bool:
        return False

    @property
    def step(self) -> int:
        return int(self._clock[0])

    def delta_shapes(self) -> Mapping[str, TableShape]:
        stores_ids = self.kind == "collisionless"
        tables = zip(self._configs, self._rows.sizes, strict=True)
        return {c.name: TableShape(c.embedding_dim, None if stores_ids else rows) for c, rows in tables}

    def accepts(self, delta: Delta) -> bool:
        """Check a delta without applying it; see `DeltaReceiver.accepts`.

        Raises:
            Gap: If the delta begins after this collection's step.
            ValueError: If the delta does not match this collection's tables, or a table's format cannot represent its weights.
        """
        new = super().accepts(delta)
        for config, format in zip(self._configs, self.formats, strict=True):
            table = delta.tables.get(config.name)
            if new and table is not None and format != "float32" and not _within_float16(table):
                raise ValueError(
                    f"table {config.name!r} is {format}, the delta has weights outside the range of float16: export the model "
                    "again"
                )
        return new

    def apply_undoable(self, delta: Delta) -> Delta | None:
        """Apply a delta like `apply_delta`, and return what it has replaced.

        Returns:
            The rows before, for `revert`; None if the delta was not applied. They take the size of the rows that the delta has.
        """
        return self._write(delta, undoable=True) if self.accepts(delta) else None

    def revert(self, undo: Delta) -> None:
        """Restore the rows and the step from before a delta, bit for bit.

        Args:
            undo: What `apply_undoable` returned for the last delta that was applied and not yet reverted.

        Raises:
            ValueError: If the collection is not at the step of that delta. Nothing is changed.
        """
        if undo.since != self.step:
            raise ValueError(f"the tables are at step {self.step}, step {undo.since} was to be reverted")
        self._write(undo)
        self._clock = torch.tensor([undo.step, undo.time])

    def _write_delta(self, delta: Delta) -> None:
        self._write(delta)

    def _write(self, delta: Delta, undoable: bool = False) -> Delta | None:
        """Write the rows of a delta in chunks. If `undoable`, return what they have replaced."""
        before, changed = self._clock, {}
        for number, config in enumerate(self._configs):
            if (table := delta.tables.get(config.name)) is not None:
                replaced = self._write_table(number, table)
                if undoable:
                    changed[config.name] = self._undo(number, list(replaced))
                else:
                    deque(replaced, maxlen=0)
        self._clock = torch.tensor([delta.step, max(delta.time, int(before[1]))])
        return Delta(delta.step, int(before[0]), int(before[1]), changed) if undoable else None

    def _write_table(self, number: int, table: TableDelta) -> Iterator[Replaced]:
        keys, deleted, rows = table.keys.numpy(), table.deleted.numpy(), self._rows
        if self.kind == "collisionless":  # an id that was deleted and admitted again keeps a row throughout
            yield rows.delete(number, deleted[~np.isin(deleted, keys)])
        for begin in range(0, len(keys), chunk := rows.chunk(number)):
            own = slice(begin, begin + chunk)
            yield rows.write(number, keys[own], repack(table.weights[own], table.format, self.formats[number]).numpy())

    def _undo(self, number: int, replaced: Sequence[Replaced]) -> TableDelta:
        keys = torch.from_numpy(np.concatenate([one.keys for one in replaced]))
        rows = torch.from_numpy(np.concatenate([one.rows for one in replaced]))
        format = self.formats[number]
        seen = torch.zeros_like(keys) if self.kind == "collisionless" else None
        new = torch.from_numpy(np.concatenate([one.new for one in replaced]))
        return TableDelta(keys, rows.view(torch.float32) if format == "float32" else rows, seen, new, format)


def _within_float16(table: TableDelta) -> bool:
    """Return whether formats other than float32 can represent all weights of a table's delta."""
    for part in table.weights.split(_CHECKED):
        weights = part if table.format == "float32" else unpack(part, table.format)
        low, high = weights.aminmax() if weights.numel() else (torch.zeros(()), torch.zeros(()))
        if not (low >= -LARGEST and high <= LARGEST):  # not for NaN either
            return False
    return True
