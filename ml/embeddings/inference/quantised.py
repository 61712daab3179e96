"""Table collections for inference. They store rows in fewer bits (`formats`), and deltas keep them up to date.

Ids are mapped to rows as in the trained tables. An id without a row reads zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, ROW_MASK, HashMap, find_one, home_of
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch
from ml.embeddings.delta import Delta, DeltaReceiver, TableShape
from ml.embeddings.fixed.id_to_row import to_rows
from ml.embeddings.inference.formats import Format, row_bytes
from ml.embeddings.inference.kinds import Kind, kind_of
from ml.embeddings.inference.lock import ReadWriteLock
from ml.embeddings.inference.pack import LARGEST, pack
from ml.embeddings.inference.packed_tables import PackedTables
from ml.embeddings.interface import TrainableBags, check_fit, in_order
from ml.schema import FIRST_ID, OOV_ID


class QuantisedBags(EmbeddingBagCollectionInterface, DeltaReceiver):
    """Quantised tables for inference, all with the same pooling.

    `forward` can run in several threads, even while a delta is applied. It reads either only rows from before the delta or only
    rows from after it.

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
        self._table_of = torch.tensor([n for n, config in enumerate(configs) for _ in config.feature_names])
        self._dims = [config.embedding_dim for config in configs for _ in config.feature_names]
        self._rows = torch.tensor([len(rows) for rows in packed])  # number of rows of each table, including free rows
        self._free = [np.empty(0, np.int64) for _ in configs]
        self._hash_map, self._clock, self._lock = _map_of(ids), clock.clone(), ReadWriteLock()
        dims = [config.embedding_dim for config in configs]
        self._packed = PackedTables(dims, formats, packed, self._table_of, mean=PoolingType.MEAN in poolings)

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
            rows = np.arange(int(self._rows[number]))
            if self.kind == "collisionless":
                ids, rows = self._ids_and_rows(number)
                found[f"{config.name}.id"] = torch.from_numpy(ids)
            found[f"{config.name}.rows"] = torch.from_numpy(self._packed.rows(number)[rows])
        return found

    @property
    def nbytes(self) -> int:
        """Size of the rows, including reserved rows, and of the hash map, in bytes."""
        return self._packed.nbytes + (self._hash_map.nbytes if self.kind == "collisionless" else 0)

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
        offsets = features.offsets().long()
        with self._lock.read():
            pooled = self._packed.look_up(self._find(features.values().long(), offsets), offsets)
        return KeyedTensor(self._keys, self._dims, pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Return the tables, with `num_embeddings` set to the number of rows in use."""
        free = [len(rows) for rows in self._free]
        sizes = zip(self._configs, self._rows.tolist(), free, strict=True)
        return [replace(config, num_embeddings=rows - unused) for config, rows, unused in sizes]

    def is_weighted(self) -> bool:
        return False

    @property
    def step(self) -> int:
        return int(self._clock[0])

    def delta_shapes(self) -> Mapping[str, TableShape]:
        stores_ids = self.kind == "collisionless"
        tables = zip(self._configs, self._rows.tolist(), strict=True)
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
            if new and table is not None and format != "float32" and not bool((table.weights.abs() <= LARGEST).all()):
                raise ValueError(
                    f"table {config.name!r} is {format}, the delta has weights outside the range of float16: export the model "
                    "again"
                )
        return new

    def _write_delta(self, delta: Delta) -> None:
        with self._lock.write():
            for number, (config, format) in enumerate(zip(self._configs, self.formats, strict=True)):
                if (table := delta.tables.get(config.name)) is None:
                    continue
                rows = table.keys.numpy()
                if self.kind == "collisionless":
                    self._delete(number, table.deleted.numpy())
                    rows = self._rows_for(number, rows)
                self._packed.rows(number)[rows] = pack(table.weights, format).numpy()
            self._clock[0], self._clock[1] = delta.step, max(delta.time, int(self._clock[1]))

    def _delete(self, number: int, ids: np.ndarray) -> None:
        """Delete the rows of ids, for reuse by other ids. Ids without a row are ignored."""
        tables = np.full(len(ids), number)
        rows = self._hash_map.find(tables, ids)
        self._hash_map.erase(tables, ids)
        self._free[number] = np.concatenate([self._free[number], rows[rows != EMPTY]])

    def _rows_for(self, number: int, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id, int64 [U]. Ids without a row are inserted."""
        tables = np.full(len(ids), number)
        rows = self._hash_map.find(tables, ids)
        new = np.flatnonzero(rows == EMPTY)
        free, used = self._free[number], int(self._rows[number])
        reused = free[: len(new)]
        fresh = np.arange(used, used + len(new) - len(reused))
        self._packed.reserve(number, used + len(fresh))
        self._free[number], self._rows[number] = free[len(reused) :], used + len(fresh)
        rows[new] = np.concatenate([reused, fresh])
        self._hash_map.insert(tables[new], ids[new], rows[new])
        return rows

    def _ids_and_rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a table in ascending order, and the row of each id, both int64 [R]."""
        slots = self._hash_map.slots
        mine = slots[(slots[:, 1] != EMPTY) & (slots[:, 1] >> ROW_BITS == number)]
        mine = mine[np.argsort(mine[:, 0])]
        return np.ascontiguousarray(mine[:, 0]), mine[:, 1] & ROW_MASK

    def _find(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Return the row of each id, int64 [N]; -1 for ids without a row."""
        if self.kind == "collisionless":
            rows = torch.empty_like(ids)
            _find(self._hash_map.slots, self._table_of.numpy(), ids.numpy(), offsets.numpy(), rows.numpy())
            return rows
        ends = offsets[:: (len(offsets) - 1) // len(self._keys)]
        rows = torch.repeat_interleave(self._rows[self._table_of], ends.diff())
        if self.kind == "hashed":
            return to_rows(ids, rows)
        return torch.where((ids >= 0) & (ids < rows), ids, OOV_ID)


def _map_of(ids: Sequence[torch.Tensor]) -> HashMap:
    found = HashMap(sum(map(len, ids)))
    for number, own in enumerate(ids):
        found.insert(torch.full_like(own, number).numpy(), own.numpy(), torch.arange(len(own)).numpy())
    return found


@jit(nogil=True)
def _find(slots, table_of, ids, offsets, rows):  # type: ignore[no-untyped-def]
    mask, bags = len(slots) - 1, (len(offsets) - 1) // len(table_of)
    for feature in range(len(table_of)):
        table, end = table_of[feature], offsets[(feature + 1) * bags]
        for i in range(offsets[feature * bags], end):
            if i + AHEAD < end:
                prefetch(slots, home_of(table, ids[i + AHEAD], mask), 0)
            rows[i] = find_one(slots, table, ids[i])
