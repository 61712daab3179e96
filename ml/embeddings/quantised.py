"""Tables to look up in and no more, their rows in fewer bits: FBGEMM's inference tables behind the same face.

| bits | a row of D weights takes                     | weights                                                   |
|------|----------------------------------------------|-----------------------------------------------------------|
| fp32 | 4 D bytes                                    | as trained                                                |
| fp16 | 2 D                                          | rounded                                                   |
| int8 | D, and 4 for scale and shift                 | 256 steps between the row's smallest and its largest      |
| int4 | D / 2, and 4                                 | 16 steps                                                  |

Ids find their rows as before; an id without one reads zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from fbgemm_gpu.split_table_batched_embeddings_ops_training import BoundsCheckMode, EmbeddingLocation, PoolingMode
from fbgemm_gpu.tbe.utils import quantize_embs
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.bags import TrainableBags, bags_of, in_order
from ml.embeddings.collisionless import CollisionlessEmbeddingBags
from ml.embeddings.hashed import HashedEmbeddingBags
from ml.embeddings.idmap import EMPTY, IdMap
from ml.embeddings.records import WEIGHTS
from ml.embeddings.remap import to_rows
from ml.embeddings.static import StaticEmbeddingBags
from ml.features.schema import OOV_ID

Bits = Literal["fp32", "fp16", "int8", "int4"]
_TYPES: dict[Bits, SparseType] = {
    "fp32": SparseType.FP32,
    "fp16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}
_ALIGNED = 1  # rows begin where the one before ends: no padding


@dataclass(frozen=True)
class TableLoss:
    """What a table's rows lost. error: the root of the mean square of what changed, over that of the weights. nbytes: of its
    rows now; before: as float32."""

    error: float
    nbytes: int
    before: int


class QuantisedBags(EmbeddingBagCollectionInterface):
    """Tables of one dimension D as they were when this was made. Knows the kinds collisionless, hashed and static."""

    def __init__(self, bags: TrainableBags, bits: Bits) -> None:
        super().__init__()
        self._configs, self.bits = bags.embedding_bag_configs(), bits
        self._keys = [feature for config in self._configs for feature in config.feature_names]
        self._table_of = torch.tensor([n for n, config in enumerate(self._configs) for _ in config.feature_names])
        self._means = torch.tensor([self._configs[n].pooling == PoolingType.MEAN for n in self._table_of])
        self._dims = [self._configs[n].embedding_dim for n in self._table_of]
        self._rows, tables = _rows_of(bags)
        zero = [torch.cat((table, table.new_zeros(1, table.shape[1]))) for table in tables]  # the last: of ids without a row
        self._none = torch.tensor([len(table) for table in tables])
        self._tbe = IntNBitTableBatchedEmbeddingBagsCodegen(
            [
                (c.name, len(t), c.embedding_dim, _TYPES[bits], EmbeddingLocation.HOST)
                for c, t in zip(self._configs, zero, strict=True)
            ],
            feature_table_map=self._table_of.tolist(),
            pooling_mode=PoolingMode.SUM,
            device="cpu",
            bounds_check_mode=BoundsCheckMode.NONE,
            output_dtype=SparseType.FP32,
            row_alignment=_ALIGNED,
            weight_lists=[quantize_embs(table, _TYPES[bits]) for table in zero],
            indices_dtype=torch.int64,
        )
        self.losses = {
            config.name: _loss(table, bits) for config, table in zip(self._configs, tables, strict=True)
        }  # fmt: skip

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables; empty bags are zeros."""
        features = in_order(features, self._keys)
        of_key = torch.tensor(features.length_per_key())
        table = torch.repeat_interleave(self._table_of, of_key)
        rows = self._rows.find(features.values().long(), table, self._none)
        lengths = features.lengths().long()
        offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
        pooled = self._tbe(rows, offsets)
        shares = torch.where(self._means.unsqueeze(1), 1 / lengths.view(len(self._keys), -1).clamp(min=1), 1.0)
        if bool((shares != 1).any()):
            pooled = pooled * shares.T.repeat_interleave(torch.tensor(self._dims), 1)
        return KeyedTensor(self._keys, self._dims, pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False


class _Map:
    """Rows by id, of tables that grow."""

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        self.ids = IdMap(sum(map(len, ids)))
        for number, own in enumerate(ids):
            self.ids.insert(np.full(len(own), number), own, np.arange(len(own)))

    def find(self, ids: torch.Tensor, table: torch.Tensor, none: torch.Tensor) -> torch.Tensor:
        """Rows, int64 [N]; `none` [T] of each table for an id without one."""
        rows = torch.from_numpy(self.ids.find(table.numpy(), ids.numpy()))
        return torch.where(rows == EMPTY, none[table], rows)


class _Fixed:
    """Rows by number, of tables of a fixed size. hashed: whether ids beyond share rows, or are out of vocabulary."""

    def __init__(self, hashed: bool) -> None:
        self.hashed = hashed

    def find(self, ids: torch.Tensor, table: torch.Tensor, none: torch.Tensor) -> torch.Tensor:
        if self.hashed:
            return to_rows(ids, none[table])
        return torch.where((ids >= 0) & (ids < none[table]), ids, OOV_ID)


def _rows_of(bags: TrainableBags) -> tuple[_Map | _Fixed, list[torch.Tensor]]:
    """How ids find rows, and the rows of each table, float32 [R, D]."""
    if isinstance(bags, CollisionlessEmbeddingBags):
        store = bags.store
        rows = [store.rows_of(number) for number in range(len(store.rules))]
        end = WEIGHTS + store.dim
        weights = [torch.from_numpy(store.records.floats[own, WEIGHTS:end]) for own in rows]
        return _Map([store.records.longs[own, 0] for own in rows]), weights
    if isinstance(bags, HashedEmbeddingBags | StaticEmbeddingBags):
        held = bags.weights()
        names = [config.name for config in bags.embedding_bag_configs()]
        return _Fixed(isinstance(bags, HashedEmbeddingBags)), [held[f"{name}.weight"].detach().clone() for name in names]
    raise TypeError(f"{type(bags).__name__} has no rows to quantise: collisionless, hashed and static tables have")


def _loss(table: torch.Tensor, bits: Bits) -> TableLoss:
    rows, dim = table.shape
    each = {"fp32": 4 * dim, "fp16": 2 * dim, "int8": dim + 4, "int4": dim // 2 + 4}[bits]
    if not rows:
        return TableLoss(0.0, 0, 0)
    spread = table.square().mean().sqrt()
    error = float((_back(table, bits) - table).square().mean().sqrt() / spread) if spread > 0 else 0.0
    return TableLoss(error, rows * each, rows * 4 * dim)


def _back(table: torch.Tensor, bits: Bits) -> torch.Tensor:
    """The weights as they are read."""
    if bits == "fp32":
        return table
    if bits == "fp16":
        return table.half().float()
    if bits == "int8":
        quantised = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(table)
        return torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(quantised)
    return torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(
        torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(table, 4), 4
    )


def quantise_tables(model: nn.Module, bits: Bits) -> dict[str, TableLoss]:
    """Put tables in fewer bits in the place of a model's, which must not be trained on. Tables made of several rows stay as
    they are. Gives what each table lost, by name."""
    found: dict[str, TableLoss] = {}
    for path, bags in bags_of(model).items():
        if not isinstance(bags, CollisionlessEmbeddingBags | HashedEmbeddingBags | StaticEmbeddingBags):
            continue
        quantised = QuantisedBags(bags, bits)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, quantised)
        found |= quantised.losses
    return found
