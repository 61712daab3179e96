"""The bytes of a delta: its rows in a row format, ids, deleted ids, and optionally the dense part, as safetensors.

Rows are packed as in tables for inference (`ml.embeddings.inference.pack`). Dense parameters are exact in every format.
"""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load, save

from ml.artifacts.delta import ModelDelta
from ml.artifacts.snapshot import TABLES, Tensors
from ml.embeddings.inference.pack import pack
from ml.sync.manifest import DamagedPackage, RowFormat

DELTA_FILE = "delta.safetensors"
_WEIGHTS = ".weights"


def delta_to_bytes(delta: ModelDelta, row_format: RowFormat = "float32") -> bytes:
    """Convert a delta to the bytes of a file. Equal deltas give equal bytes.

    Args:
        delta: The changes.
        row_format: Format of the rows; `float32` is exact.

    Example:
        >>> import torch
        >>> from ml.embeddings.delta import Delta, TableDelta
        >>> rows = TableDelta(torch.tensor([7]), torch.tensor([[0.5, -1.0]]), None, torch.tensor([], dtype=torch.int64))
        >>> delta = ModelDelta({}, {"bags": Delta(0, 1, 0, {"item": rows})})
        >>> delta_from_bytes(delta_to_bytes(delta, "float16"), "float16").tables["bags"].tables["item"].float_weights()
        tensor([[ 0.5000, -1.0000]])
    """
    tensors: Tensors = {}
    for name, tensor in delta.to_tensors().items():
        packed = _holds_rows(name) and row_format != "float32"
        tensors[name] = pack(tensor, row_format) if packed else tensor.contiguous()
    return save(tensors)


def delta_from_bytes(data: bytes, row_format: RowFormat = "float32") -> ModelDelta:
    """Read the bytes that `delta_to_bytes` returned.

    Args:
        data: The bytes of the file, whose digest was verified.
        row_format: Format of the rows.

    Returns:
        The changes. Rows stay packed, so that tables of the same format receive their bits.

    Raises:
        DamagedPackage: The bytes are not a delta in this row format.
    """
    try:
        tensors = load(data)
        return ModelDelta.from_tensors(tensors, row_format)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DamagedPackage(f"{DELTA_FILE} is not a delta with rows in {row_format}: {error}") from error


def _holds_rows(name: str) -> bool:
    return name.startswith(TABLES) and name.endswith(_WEIGHTS)
