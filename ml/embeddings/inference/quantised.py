"""Tables to look up in and no more, their rows in fewer bits (`formats`): FBGEMM's inference tables behind the same face.

Ids find their rows as in the tables that were trained; an id without one reads zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from fbgemm_gpu.split_table_batched_embeddings_ops_training import BoundsCheckMode, EmbeddingLocation, PoolingMode
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.collisionless.hash_map import HashMap, find_one, home_of
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch
from ml.embeddings.fixed.hashed import HashedEmbeddingBags
from ml.embeddings.fixed.id_to_row import to_rows
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.inference.formats import Format, fitting, row_bytes
from ml.embeddings.interface import TrainableBags, bags_of, check_fit, in_order
from ml.schema import FIRST_ID, OOV_ID

_KINDS: dict[type, str] = {
    CollisionlessEmbeddingBags: "collisionless",
    HashedEmbeddingBags: "hashed",
    StaticEmbeddingBags: "static",
}
_LARGEST = torch.finfo(torch.float16).max
_LEAST_SCALE = 2.0**-24  # float16 holds nothing smaller
_TYPES: dict[Format, SparseType] = {
    "float32": SparseType.FP32,
    "float16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}


@dataclass(frozen=True)
class QuantisedTable:
    """What became of a table. nbytes: of its rows now; before: as float32.

    rms_error, largest_error: root of the mean square, and largest, of what its weights are off by, over the root of the mean
    square of the weights.
    """

    rows: int
    held_as: Format
    nbytes: int
    before: int
    rms_error: float
    largest_error: float


class QuantisedBags(EmbeddingBagCollectionInterface):
    """Tables of one pooling that were trained as `kind`. formats: of each table, in their order.

    packed: rows of each table, uint8 [R, bytes of a row], as FBGEMM reads them. ids: int64 [R] of each, of those that grow.
    """

    def __init__(
        self,
        configs: Sequence[EmbeddingBagConfig],
        kind: str,
        formats: Sequence[Format],
        packed: Sequence[torch.Tensor],
        ids: Sequence[torch.Tensor] = (),
        clock: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if len(poolings := {config.pooling for config in configs}) > 1:
            raise ValueError(f"expected tables of one pooling, found {poolings}")
        self.kind, self.formats, self._ids = kind, list(formats), list(ids)
        self._clock = torch.zeros(2, dtype=torch.int64) if clock is None else clock.clone()
        self._configs = [replace(c, num_embeddings=len(rows)) for c, rows in zip(configs, packed, strict=True)]
        self._keys = [feature for config in configs for feature in config.feature_names]
        self._table_of = torch.tensor([n for n, config in enumerate(configs) for _ in config.feature_names])
        self._dims = [config.embedding_dim for config in configs for _ in config.feature_names]
        self._rows = torch.tensor([len(rows) for rows in packed])
        self._map = _map_of(self._ids)
        self._tbe = IntNBitTableBatchedEmbeddingBagsCodegen(
            [
                (config.name, max(len(rows), 1), config.embedding_dim, _TYPES[held_as], EmbeddingLocation.HOST)
                for config, rows, held_as in zip(configs, packed, formats, strict=True)
            ],
            feature_table_map=self._table_of.tolist(),
            pooling_mode=PoolingMode.MEAN if PoolingType.MEAN in poolings else PoolingMode.SUM,
            device="cpu",
            bounds_check_mode=BoundsCheckMode.NONE,  # rows are of the table, or none (-1), which FBGEMM reads as zeros
            output_dtype=SparseType.FP32,
            row_alignment=1,  # rows begin where the one before ends: no padding
            indices_dtype=torch.int64,
        )
        self._tbe.initialize_weights()
        for own, rows in zip(self._packed(), packed, strict=True):
            own.copy_(rows)

    @classmethod
    def restored(cls, bags: TrainableBags, about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> QuantisedBags:
        """What `about` and `tensors` gave. bags: of the kind and the tables that were trained.

        Raises `ValueError`, `LookupError` where they do not fit: rows that are not there would be read from what lies behind.
        """
        configs, kind = bags.embedding_bag_configs(), _KINDS[type(bags)]
        formats: list[Format] = [about["formats"][config.name] for config in configs]
        packed = [tensors[f"{config.name}.rows"] for config in configs]
        wanted = {"step": torch.empty(2, dtype=torch.int64, device="meta")}
        for config, held_as, rows in zip(configs, formats, packed, strict=True):
            wanted[f"{config.name}.rows"] = rows.new_empty(
                len(rows), row_bytes(held_as, config.embedding_dim), dtype=torch.uint8, device="meta"
            )
            if kind == "collisionless":
                wanted[f"{config.name}.id"] = rows.new_empty(len(rows), dtype=torch.int64, device="meta")
            elif len(rows) <= FIRST_ID:
                raise ValueError(f"{config.name}: {len(rows)} rows, of which {FIRST_ID} are of no value's")
        check_fit(wanted, tensors)
        ids = [tensors[f"{config.name}.id"] for config in configs if f"{config.name}.id" in wanted]
        return cls(configs, kind, formats, packed, ids, tensors["step"])

    def about(self) -> dict[str, Any]:
        """What `tensors` are, as plain values."""
        return {"formats": {c.name: f for c, f in zip(self._configs, self.formats, strict=True)}}

    def tensors(self) -> dict[str, torch.Tensor]:
        """By table: `<table>.rows` uint8 [R, bytes of a row], and of those that grow `<table>.id` int64 [R]. `step`
        int64 [2]: the step of the tables, and their event time."""
        found = {f"{c.name}.rows": rows for c, rows in zip(self._configs, self._packed(), strict=True)}
        found["step"] = self._clock
        return found | {f"{c.name}.id": ids for c, ids in zip(self._configs, self._ids, strict=False)}

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables; empty bags are zeros.

        The features' keys may come in any order. Raises `KeyError` where one is missing, `ValueError` for weights per sample.
        """
        features = in_order(features, self._keys)
        if features.weights_or_none() is not None:
            raise ValueError("weights per sample are for training alone")
        if features.variable_stride_per_key():
            raise ValueError("batches of another size for each feature are not for these tables")
        if not features.stride():  # FBGEMM's kernel knows no empty batch
            return KeyedTensor(self._keys, self._dims, torch.zeros(0, sum(self._dims)))
        offsets = features.offsets().long()
        return KeyedTensor(self._keys, self._dims, self._tbe(self._find(features.values().long(), offsets), offsets))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False

    def _find(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Rows, int64 [N], -1 for an id without one."""
        if self.kind == "collisionless":
            rows = torch.empty_like(ids)
            _find(self._map.slots, self._table_of.numpy(), ids.numpy(), offsets.numpy(), rows.numpy())
            return rows
        ends = offsets[:: (len(offsets) - 1) // len(self._keys)]
        rows = torch.repeat_interleave(self._rows[self._table_of], ends.diff())
        if self.kind == "hashed":
            return to_rows(ids, rows)
        return torch.where((ids >= 0) & (ids < rows), ids, OOV_ID)

    def _packed(self) -> list[torch.Tensor]:
        """Rows of each table, views of FBGEMM's memory; a table without rows has one there that is never read."""
        whole = self._tbe.split_embedding_weights(split_scale_shifts=False)
        return [rows[: c.num_embeddings] for (rows, _), c in zip(whole, self._configs, strict=True)]


def quantisable(model: nn.Module) -> dict[str, TrainableBags]:
    """A model's tables that can be held in fewer bits, by their path: all but those of which several rows make an embedding."""
    return {path: bags for path, bags in bags_of(model).items() if type(bags) in _KINDS}


def quantise_bags(
    bags: TrainableBags, rows: Format, tables: Mapping[str, Format] | None = None
) -> tuple[QuantisedBags, dict[str, QuantisedTable]]:
    """What `bags` hold now, in the format `rows`, or as `tables` says of one; and what became of each table, by name. A table
    with weights beyond float16 stays float32.

    Raises `TypeError` for tables of which several rows make an embedding, `ValueError` for weighted bags.
    """
    if type(bags) not in _KINDS:
        raise TypeError(f"{type(bags).__name__} has no rows to quantise: those of {sorted(_KINDS.values())} tables are")
    if bags.is_weighted():
        raise ValueError("weights per sample are for training alone")
    configs, held = bags.embedding_bag_configs(), bags.weights()
    formats: list[Format] = []
    packed: list[torch.Tensor] = []
    figures: dict[str, QuantisedTable] = {}
    for config in configs:
        weights = held[f"{config.name}.weight"].detach()
        asked = (tables or {}).get(config.name, rows)
        within = bool((weights.abs() <= _LARGEST).all())
        formats.append(fitting(asked, config.embedding_dim) if within else "float32")
        packed.append(_pack(weights, formats[-1]))
        figures[config.name] = _compare(weights, formats[-1], packed[-1])
    ids = [held[f"{config.name}.id"] for config in configs if f"{config.name}.id" in held]
    return QuantisedBags(configs, _KINDS[type(bags)], formats, packed, ids, held["step"]), figures


def quantise_tables(model: nn.Module, rows: Format, tables: Mapping[str, Format] | None = None) -> dict[str, QuantisedTable]:
    """Put tables in fewer bits in the place of a model's, which must not be trained on; those that can not be stay as they are.

    rows: the format of all but those that `tables` names. Gives what became of each, by name.
    """
    found: dict[str, QuantisedTable] = {}
    for path, bags in quantisable(model).items():
        quantised, figures = quantise_bags(bags, rows, tables)
        model.set_submodule(path, quantised)
        found |= figures
    return found


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


def _pack(weights: torch.Tensor, held_as: Format) -> torch.Tensor:
    """Rows as FBGEMM reads them, uint8 [R, bytes of a row]: of int8 and int4, scale and shift as float16 come first. Both are
    rounded away from the row, which lies within the steps then, and steps are counted with what is read."""
    if not len(weights):
        return torch.empty(0, row_bytes(held_as, weights.shape[1]), dtype=torch.uint8)
    if held_as in ("float32", "float16"):
        return (weights.half() if held_as == "float16" else weights).contiguous().view(torch.uint8)
    most = 255 if held_as == "int8" else 15
    shift = _half(weights.amin(1, keepdim=True), -torch.inf)
    span = weights.amax(1, keepdim=True) - shift.float()
    scale = _half((span / most).clamp(min=_LEAST_SCALE), torch.inf)
    steps = ((weights - shift.float()) / scale.float()).round().clamp(max=most).to(torch.uint8)
    if held_as == "int4":
        steps = steps[:, ::2] | steps[:, 1::2] << 4
    return torch.cat((torch.cat((scale, shift), 1).view(torch.uint8), steps), 1)


def _half(numbers: torch.Tensor, towards: float) -> torch.Tensor:
    """As float16, rounded up (towards inf) or down (-inf)."""
    near = numbers.half()
    wrong = near.float() < numbers if towards > 0 else near.float() > numbers
    return torch.where(wrong, near.nextafter(torch.full_like(near, towards)), near)


def _unpack(packed: torch.Tensor, held_as: Format) -> torch.Tensor:
    """The weights as they are read, float32 [R, D]."""
    if held_as in ("float32", "float16"):
        return packed.contiguous().view(torch.float32 if held_as == "float32" else torch.float16).float()
    scale, shift = packed[:, :4].contiguous().view(torch.float16).float().split(1, 1)
    steps = packed[:, 4:]
    if held_as == "int4":
        steps = torch.stack((steps & 15, steps >> 4), 2).flatten(1)
    return steps * scale + shift


def _compare(weights: torch.Tensor, held_as: Format, packed: torch.Tensor) -> QuantisedTable:
    spread, off = weights.square().mean().sqrt(), _unpack(packed, held_as) - weights
    known = len(weights) > 0 and bool(spread > 0)
    return QuantisedTable(
        len(weights),
        held_as,
        nbytes=packed.numel(),
        before=weights.nbytes,
        rms_error=float(off.square().mean().sqrt() / spread) if known else 0.0,
        largest_error=float(off.abs().max() / spread) if known else 0.0,
    )
