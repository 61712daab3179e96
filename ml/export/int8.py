"""Linear layers whose products are of eight bits: integers times integers, summed exactly.

y = (128 h + l) W_q^T s_x s_w + b: a row of W is scaled by its own largest number, s_w = max |w| / 127. A row x of the input is
scaled as it comes in, and taken in two parts of eight bits, x = s_x (128 h + l): dense features stand beside embeddings a
hundredth their size, of which one part alone leaves nothing. What a row gives does not depend on the others of its batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

from ml.compute.kernel_cache import jit

_STEPS = 127
_PART = 7  # bits of the lower part
# Floats as int32: without their sign they are ordered as magnitudes are, with what is not finite above all others.
_NO_SIGN, _INFINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
_LEAST = np.int32((127 - 100) << 23)  # 2^-100, that a row of zeros has a scale


class Int8Linear(nn.Module):
    """A linear layer, `forward(float32 [B, inputs]) -> float32 [B, outputs]`, not to be trained on; on CPU.

    weight: int8 [inputs, outputs]. scale, bias: float32 [outputs]. What is not finite in a row makes all of its outputs NaN.

    >>> layer = nn.Linear(64, 8)
    >>> x = torch.randn(16, 64)
    >>> bool((Int8Linear.of(layer)(x) - layer(x)).abs().max() < 0.05)
    True
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(inputs, outputs, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    @classmethod
    def of(cls, layer: nn.Linear) -> Int8Linear:
        found, weight = cls(layer.in_features, layer.out_features), layer.weight.detach().float()
        found.scale = weight.abs().amax(1) / _STEPS
        steps = weight / found.scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
        found.weight.copy_(steps.round().T)  # a copy has the strides that oneDNN insists on, `contiguous` not where inputs is 1
        if layer.bias is not None:
            found.bias = layer.bias.detach().float().clone()
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.detach().float().contiguous().numpy()
        parts, scale = torch.empty((2, *rows.shape), dtype=torch.int8), np.empty(len(rows), np.float32)
        _to_parts(rows, rows.view(np.int32), parts.numpy(), scale, scale.view(np.int32))
        out = torch.empty(len(rows), len(self.scale))
        if len(rows):
            sums = _products(parts.flatten(0, 1), self.weight)
            _from_parts(sums.numpy(), scale, self.scale.numpy(), self.bias.numpy(), out.numpy())
        return out

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


def quantise_layers(model: nn.Module) -> list[str]:
    """Put `Int8Linear` in the place of a model's linear layers, which must not be trained on. Gives their paths.

    Layers with one output stay as they are, being sums, and so does what tables project with.
    """
    paths = layers_of(model)
    for path in paths:
        model.set_submodule(path, Int8Linear.of(model.get_submodule(path)))  # type: ignore[arg-type]
    return paths


def layers_of(model: nn.Module) -> list[str]:
    """Paths of the linear layers that can be of eight bits."""
    tables = tuple(f"{p}." for p, module in model.named_modules() if isinstance(module, EmbeddingBagCollectionInterface))
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features > 1 and not path.startswith(tables)
    ]


def _products(parts: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums of products, int32 [2 B, outputs]. A processor without such products would get a plain loop from torch; there the
    same sums come as float32, exact up to 2^24."""
    if torch.cpu._is_vnni_supported():
        return torch._int_mm(parts, weight)  # pyright: ignore[reportPrivateImportUsage]
    return parts.float() @ weight.float()


@jit(nogil=True)
def _to_parts(rows, bits, parts, scale, scale_bits):  # type: ignore[no-untyped-def]
    """Rows as higher and lower parts, int8 [2, B, inputs]. bits, scale_bits: rows and scale, the same memory, as int32."""
    for i in range(len(rows)):
        largest = _LEAST
        for j in range(rows.shape[1]):
            largest = max(largest, bits[i, j] & _NO_SIGN)
        if largest >= _INFINITE:
            scale[i], parts[:, i] = np.nan, 0
            continue
        scale_bits[i] = largest
        scale[i] /= np.float32(_STEPS << _PART)
        per = np.float32(1) / scale[i]
        for j in range(rows.shape[1]):
            step = np.int32(np.rint(rows[i, j] * per))
            higher = (step + (1 << _PART - 1)) >> _PART
            parts[0, i, j] = higher
            parts[1, i, j] = step - (higher << _PART)


@jit(nogil=True)
def _from_parts(sums, rows, columns, bias, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        for j in range(out.shape[1]):
            steps = np.float32(1 << _PART) * np.float32(sums[i, j]) + np.float32(sums[len(out) + i, j])
            out[i, j] = steps * (rows[i] * columns[j]) + bias[j]
