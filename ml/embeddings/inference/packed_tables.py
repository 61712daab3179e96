"""Packed rows of several tables in one block of memory that grows in place, and FBGEMM's kernel that pools them."""

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
_HEADROOM = 8  # a table that is full grows by one eighth


class PackedTables:
    """T tables, read by F features.

    Args:
        dims: Weights of a row of each table.
        formats: Format of each table.
        rows: Packed rows of each table, uint8 [R, bytes of a row].
        table_of: Number of the table that each feature reads, int64 [F], in ascending order.
        mean: Whether bags are averaged, or summed.
    """

    def __init__(
        self, dims: Sequence[int], formats: Sequence[Format], rows: Sequence[torch.Tensor], table_of: torch.Tensor, mean: bool
    ) -> None:
        self.row_bytes = [row_bytes(format, dim) for format, dim in zip(formats, dims, strict=True)]
        self.capacities = [max(len(own), 1) for own in rows]  # the kernel needs a row of each table, read or not
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
        """Bytes of all rows and of the room for more."""
        return self._memory.nbytes

    def rows(self, table: int) -> NDArray[np.uint8]:
        """Return a view of a table's rows, uint8 [capacity, bytes of a row]. It is invalid after `reserve`."""
        begin = self._begins[table]
        return self._memory[begin : begin + self._sizes()[table]].reshape(-1, self.row_bytes[table])

    def reserve(self, table: int, rows: int) -> None:
        """Make room for `rows` rows in a table; row numbers and contents stay the same.

        The block is extended in place by the operating system where that is possible, and the tables behind are moved within
        it, so that there are never two copies of the rows.
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
            rows: int64 [N], feature by feature; -1 reads zeros.
            offsets: int64 [F * B + 1], of the bags in `rows`.

        Returns:
            float32 [B, sum of dimensions over features].
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
        """Bytes of each table."""
        return [capacity * width for capacity, width in zip(self.capacities, self.row_bytes, strict=True)]

    def _set_begins(self) -> None:
        self._begins = [0, *np.cumsum(self._sizes()).tolist()[:-1]]
        self._feature_begins = torch.tensor(self._begins)[self._table_of]


_NONE = torch.empty(0, dtype=torch.uint8)
