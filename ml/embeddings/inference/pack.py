"""Packing of rows into the layouts that FBGEMM's inference kernel reads.

The bytes of a packed row depend only on the weights of that row.
"""

from __future__ import annotations

import torch

from ml.embeddings.inference.formats import Format, row_bytes

LARGEST = torch.finfo(torch.float16).max
"""Largest absolute weight that formats other than float32 can represent."""
_BLOCK = 2**16
"""Weights that are packed at a time, so that intermediate results stay in the processor's caches."""
_SMALLEST_SCALE = 2.0**-24  # the smallest positive float16


def pack(weights: torch.Tensor, format: Format) -> torch.Tensor:
    """Pack rows.

    An int8 or int4 row begins with its scale and shift as float16. The shift is rounded down and the scale is rounded up, so
    that all weights are within range. Weights are then quantised with the rounded scale and shift.

    Args:
        weights: Weights of the rows, float32 [R, D].
        format: Format of the packed rows.

    Returns:
        Packed rows, uint8 [R, `row_bytes(format, D)`].
    """
    if not len(weights):
        return torch.empty(0, row_bytes(format, weights.shape[1]), dtype=torch.uint8)
    if format in ("float32", "float16"):
        return (weights.half() if format == "float16" else weights).contiguous().view(torch.uint8)
    packed = torch.empty(len(weights), row_bytes(format, weights.shape[1]), dtype=torch.uint8)
    count = max(_BLOCK // weights.shape[1], 1)
    for own, rows in zip(packed.split(count), weights.split(count), strict=True):
        _pack_integers(rows, format, own)
    return packed


def _pack_integers(weights: torch.Tensor, format: Format, packed: torch.Tensor) -> None:
    """Write int8 or int4 rows into `packed`."""
    most = 255 if format == "int8" else 15
    smallest, largest = weights.aminmax(dim=1, keepdim=True)
    shift = _rounded_half(smallest, -torch.inf)
    scale = _rounded_half(((largest - shift.float()) / most).clamp(min=_SMALLEST_SCALE), torch.inf)
    steps = (weights - shift.float()).div_(scale.float()).round_().clamp_(max=most).to(torch.uint8)
    packed[:, :4] = torch.cat((scale, shift), 1).view(torch.uint8)
    packed[:, 4:] = steps[:, ::2] | steps[:, 1::2] << 4 if format == "int4" else steps


def unpack(packed: torch.Tensor, format: Format) -> torch.Tensor:
    """Return the weights that the kernel reads from packed rows, float32 [R, D]."""
    if not len(packed):  # tensors without elements may have any strides, which a view in another type refuses
        packed = packed.clone(memory_format=torch.contiguous_format)
    if format in ("float32", "float16"):
        return packed.contiguous().view(torch.float32 if format == "float32" else torch.float16).float()
    scale, shift = packed[:, :4].contiguous().view(torch.float16).float().split(1, 1)
    steps = packed[:, 4:]
    if format == "int4":
        steps = torch.stack((steps & 15, steps >> 4), 2).flatten(1)
    return steps * scale + shift


def repack(rows: torch.Tensor, format: Format, wanted: Format) -> torch.Tensor:
    """Convert rows of a delta to the format of a table. Rows that are in it already keep their bits.

    Args:
        rows: float32 [R, D], or packed rows, uint8 [R, bytes of a row].
        format: Their format.
        wanted: Format of the table.

    Returns:
        Packed rows, uint8 [R, `row_bytes(wanted, D)`].
    """
    if format == wanted:
        return rows.contiguous().view(torch.uint8)
    return pack(rows if format == "float32" else unpack(rows, format), wanted)


def _rounded_half(numbers: torch.Tensor, towards: float) -> torch.Tensor:
    """Round numbers to float16, up if `towards` is inf and down if it is -inf."""
    near = numbers.half()
    wrong = near.float() < numbers if towards > 0 else near.float() > numbers
    return torch.where(wrong, near.nextafter(torch.full_like(near, towards)), near)
