"""Linear layers with 8-bit integer products, for inference on CPU.

y = (128 h + l) W_q^T s_x s_w + b. Each row of W is scaled by its largest absolute value: s_w = max |w| / 127. Each row of the
input is scaled in `forward` and split into two 8-bit parts, x = s_x (128 h + l). One part is not enough: embeddings can be a
hundred times smaller than the dense features of the same row, and one part would round them to zero. Integer products are
summed exactly, and the output of a row does not depend on the other rows of its batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

from ml.compute.kernel_cache import jit
from ml.models.mlp import Heads

_STEPS = 127
_PART = 7  # bits of the lower part
# Read as int32 without the sign bit, floats are ordered by magnitude, with infinities and NaN above all finite numbers.
_NO_SIGN, _INFINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
_LEAST = np.int32((127 - 100) << 23)  # 2^-100, so that a row of zeros has a scale


class Int8Linear(nn.Module):
    """A linear layer of 8-bit weights: `forward(float32 [B, inputs]) -> float32 [B, outputs]`, on CPU, without gradients.

    If a row of the input has an infinity or NaN, all outputs of that row are NaN.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.

    Attributes:
        weight: int8 [inputs, outputs].
        scale: float32 [outputs], the step of each output's weights.
        bias: float32 [outputs].

    Example:
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
        """Quantise the weights of a trained layer; the bias stays float32."""
        found = cls(layer.in_features, layer.out_features)
        found.set_weights(layer.weight, layer.bias)
        return found

    def set_weights(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise weights into this layer.

        Args:
            weight: Weights [outputs, inputs] of any float type, as in `nn.Linear`.
            bias: Biases [outputs]; None for zeros.
        """
        weight = weight.detach().float()
        self.scale.copy_(weight.abs().amax(1) / _STEPS)
        steps = weight / self.scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
        self.weight.copy_(steps.round().T)  # copy_ keeps the strides that oneDNN needs; `contiguous` does not if inputs is 1
        self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias.detach())

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
    """Replace a model's linear layers by `Int8Linear`. The model must not be trained afterwards.

    Layers with one output and the heads of labels stay float32, and so do the projections inside embedding tables.

    Args:
        model: Any model; changed in place.

    Returns:
        Paths of the replaced layers.
    """
    paths = layers_of(model)
    for path in paths:
        model.set_submodule(path, Int8Linear.of(model.get_submodule(path)))  # type: ignore[arg-type]
    return paths


def layers_of(model: nn.Module) -> list[str]:
    """Return the paths of the linear layers that `quantise_layers` replaces."""
    tables = tuple(f"{p}." for p, module in model.named_modules() if isinstance(module, EmbeddingBagCollectionInterface))
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features > 1
        and not isinstance(module, Heads)
        and not path.startswith(tables)
    ]


def _products(parts: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the sums of products, int32 [2 B, outputs].

    Without VNNI instructions `torch._int_mm` is a plain loop, so the sums are computed in float32, which is exact up to 2^24.
    """
    if torch.cpu._is_vnni_supported():
        return torch._int_mm(parts, weight)  # pyright: ignore[reportPrivateImportUsage]
    return parts.float() @ weight.float()


@jit(nogil=True)
def _to_parts(rows, bits, parts, scale, scale_bits):  # type: ignore[no-untyped-def]
    """Split rows into higher and lower parts, int8 [2, B, inputs]. bits, scale_bits: rows and scale viewed as int32."""
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
