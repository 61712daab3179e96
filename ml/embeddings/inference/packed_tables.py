"""Packed rows of several tables in one block of memory that grows in place. FBGEMM's kernel pools them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen  # noqa: F401 (loads the kernel)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import EmbeddingLocation, PoolingMode
from numpy.typing import NDArray

from ml.embeddings.collisionless.memory import extended
from ml.embeddings.inference.formats import Format, row_bytes

_TYPES: dict[Format, SparseType] = {
    "float32": SparseType.FP32,
    "float16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}
_HEADROOM = 8  # a full table grows by at least 1 / _HEADROOM


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
        self._memory = np.zeros(sum(self._sizes()), np.uint8)
        self._set_begins()
        for table, own in enumerate(rows):
            self.rows(table)[: len(own)] = own.numpy()

    @property
    def nbytes(self) -> int:
        """Size of the block in bytes, including reserved rows."""
        return self._memory.nbytes

    def rows(self, table: int) -> NDArray[np.uint8]:
        """Return a view of a table's rows, uint8 [capacity, bytes of a row]. `reserve` makes the view invalid."""
        begin = self._begins[table]
        return self._memory[begin : begin + self._sizes()[table]].reshape(-1, self.row_bytes[table])

    def reserve(self, table: int, rows: int) -> None:
        """Reserve memory for `rows` rows in a table. Row numbers and contents do not change.

        The operating system extends the block in place if it can. The tables that follow are moved within the block, so there
        is no second copy of the rows.

        Args:
            table: Index of the table.
            rows: Number of rows that the table must have room for.
        """
        capacity = self.capacities[table]
        if rows <= capacity:
            return
        added = max(rows - capacity, capacity // _HEADROOM) * self.row_bytes[table]
        end = self._begins[table] + self._sizes()[table]
        behind = self._memory.nbytes - end
        self._memory = extended(self._memory, self._memory.nbytes + added)
        address = self._memory.ctypes.data + end
        ctypes.memmove(address + added, address, behind)
        self.capacities[table] += added // self.row_bytes[table]
        self._set_begins()

    def look_up(self, rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pool rows.

        Args:
            rows: Rows to read, ordered by feature, int64 [N]; -1 reads zeros.
            offsets: Offsets of the bags in `rows`, int64 [F * B + 1].

        Returns:
            Pooled rows, float32 [B, sum of the features' dimensions].
        """
        int4, int8, float16, float32 = self._dims
        return torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function(
            dev_weights=torch.from_numpy(self._memory),
            uvm_weights=_NONE,
            weights_placements=self._placements,
            weights_offsets=self._feature_begins,
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

    def _set_begins(self) -> None:
        self._begins = [0, *np.cumsum(self._sizes()).tolist()[:-1]]
        self._feature_begins = torch.tensor(self._begins)[self._table_of]


_NONE = torch.empty(0, dtype=torch.uint8)
