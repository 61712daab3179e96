"""Packed rows of several tables, each of which grows without being moved. FBGEMM's kernel pools them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen  # noqa: F401 (loads the kernel)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import EmbeddingLocation, PoolingMode
from numpy.typing import NDArray

from ml.embeddings.inference.formats import Format, row_bytes
from ml.embeddings.inference.growing_memory import GrowingMemory

_TYPES: dict[Format, SparseType] = {
    "float32": SparseType.FP32,
    "float16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}


class PackedTables:
    """Packed rows of T tables, which F features read.

    Args:
        dims: Embedding dimension of each table.
        formats: Format of each table.
        rows: Packed rows of each table, uint8 [R, bytes of a row].
        table_of: Index of the table that each feature reads, int64 [F], in ascending order.
        mean: True if bags are averaged; False if they are summed.

    Example:
        >>> from ml.embeddings.inference.pack import pack
        >>> rows = [pack(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "float32")]
        >>> tables = PackedTables([4], ["float32"], rows, torch.tensor([0]), mean=False)
        >>> tables.look_up(torch.tensor([0, 0, -1]), torch.tensor([0, 2, 3]))
        tensor([[2., 4., 6., 8.],
                [0., 0., 0., 0.]])
    """

    def __init__(
        self, dims: Sequence[int], formats: Sequence[Format], rows: Sequence[torch.Tensor], table_of: torch.Tensor, mean: bool
    ) -> None:
        self._arguments = list(dims), list(formats)
        self.row_bytes = [row_bytes(format, dim) for format, dim in zip(formats, dims, strict=True)]
        self.capacities = [max(len(own), 1) for own in rows]  # the kernel needs at least one row per table
        self._table_of, self._mode = table_of, int(PoolingMode.MEAN if mean else PoolingMode.SUM)
        types = [_TYPES[format] for format in formats]
        largest = {
            type_: max((d for d, t in zip(dims, types, strict=True) if t == type_), default=0) for type_ in _TYPES.values()
        }
        self._dims = [largest[t] for t in (SparseType.INT4, SparseType.INT8, SparseType.FP16, SparseType.FP32)]
        self._placements = torch.full((len(table_of),), EmbeddingLocation.HOST.value, dtype=torch.int32)
        self._types = torch.tensor([types[table].as_int() for table in table_of.tolist()], dtype=torch.uint8)
        self._columns = torch.tensor([0, *(dims[table] for table in table_of.tolist())]).cumsum(0).int()
        self._width = int(self._columns[-1])
        self._shared = False
        self._place([own.numpy() for own in rows])

    def __reduce__(self) -> tuple[type[PackedTables], tuple[Any, ...]]:
        """Copy and pickle the rows without the room behind them."""
        rows = [torch.from_numpy(self.rows(table).copy()) for table in range(len(self.capacities))]
        return PackedTables, (*self._arguments, rows, self._table_of, self._mode == int(PoolingMode.MEAN))

    @property
    def nbytes(self) -> int:
        """Size of the rows in bytes, including reserved rows."""
        return sum(self._sizes())

    @property
    def memory(self) -> GrowingMemory:
        """The memory of the rows."""
        return self._memory[0]

    def share(self) -> None:
        """Move the rows to memory that other processes can read. Not during a `look_up`."""
        self._shared = True
        self._place([self.rows(table) for table in range(len(self.capacities))])

    def unfilled(self) -> PackedTables:
        """Return the same tables without rows, which `attached` gives the rows of another process."""
        empty = [torch.empty((0, width), dtype=torch.uint8) for width in self.row_bytes]
        return PackedTables(*self._arguments, empty, self._table_of, self._mode == int(PoolingMode.MEAN))

    def attached(self, memory: GrowingMemory) -> PackedTables:
        """Return the same tables over the rows in the memory of another process. They can be looked up only."""
        tables = PackedTables.__new__(PackedTables)
        tables.__dict__ = self.__dict__ | {"_memory": (memory, torch.tensor(memory.begins)[self._table_of])}
        return tables

    def rows(self, table: int) -> NDArray[np.uint8]:
        """Return a view of a table's rows, uint8 [capacity, bytes of a row]."""
        memory, width = self._memory[0], self.row_bytes[table]
        begin = memory.begins[table]
        return memory.bytes[begin : begin + self.capacities[table] * width].reshape(-1, width)

    def reserve(self, table: int, rows: int) -> None:
        """Reserve memory for `rows` rows in a table. Row numbers and contents do not change, and no row is moved.

        A table that has grown to many times its first size fills its room. All tables are then copied to a larger range, which
        takes their memory a second time until no `look_up` reads the first range any more.

        Args:
            table: Index of the table.
            rows: Number of rows that the table must have room for.
        """
        if rows <= self.capacities[table]:
            return
        size, memory = rows * self.row_bytes[table], self._memory[0]
        if size > memory.rooms[table]:
            held = [self.rows(number) for number in range(len(self.capacities))]
            self.capacities[table] = rows
            self._place(held)
            return
        memory.use(table, size)
        self.capacities[table] = rows

    def look_up(self, rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pool rows.

        Args:
            rows: Rows to read, ordered by feature, int64 [N]; -1 reads zeros.
            offsets: Offsets of the bags in `rows`, int64 [F * B + 1].

        Returns:
            Pooled rows, float32 [B, sum of the features' dimensions].
        """
        int4, int8, float16, float32 = self._dims
        memory, begins = self._memory
        return torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function(
            dev_weights=torch.from_numpy(memory.bytes),
            uvm_weights=_NONE,
            weights_placements=self._placements,
            weights_offsets=begins,
            weights_tys=self._types,
            D_offsets=self._columns,
            total_D=self._width,
            max_int2_D=0,
            max_int4_D=int4,
            max_int8_D=int8,
            max_float16_D=float16,
            max_float32_D=float32,
            indices=rows,
            offsets=offsets,
            pooling_mode=self._mode,
            indice_weights=None,
            output_dtype=SparseType.FP32.as_int(),
            row_alignment=1,  # rows without padding
        )

    def _sizes(self) -> list[int]:
        """Return the size of each table in bytes, including reserved rows."""
        return [capacity * width for capacity, width in zip(self.capacities, self.row_bytes, strict=True)]

    def _place(self, rows: Sequence[NDArray[np.uint8]]) -> None:
        """Copy rows, uint8 [R, bytes of a row] of each table, to a new range with room for `capacities`."""
        memory = GrowingMemory(self._sizes(), self._shared)
        for table, own in enumerate(rows):
            memory.bytes[memory.begins[table] : memory.begins[table] + own.size] = own.reshape(-1)
        # One reference, so that a look-up in another thread uses the offsets of the range that it reads.
        self._memory = memory, torch.tensor(memory.begins)[self._table_of]


_NONE = torch.empty(0, dtype=torch.uint8)
