"""Int8 layers give the outputs of the trained layers, up to the rounding of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ml.embeddings.fixed.compositional import Composition, CompositionalEmbeddingBags
from ml.embeddings.fixed.partitions import partitions_for
from ml.models import int8
from ml.models.int8 import Int8Linear, layers_of, quantise_layers


def layer_of(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inputs * 1000 + outputs)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


@pytest.mark.parametrize("inputs", [1, 2, 13, 64, 429])
@pytest.mark.parametrize("outputs", [2, 3, 64])
@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_outputs_differ_by_the_rounding_of_weights_alone(inputs: int, outputs: int, rows: int) -> None:
    layer, x = layer_of(inputs, outputs), torch.randn(rows, inputs)
    rounded = nn.Linear(inputs, outputs)
    scale = layer.weight.abs().amax(1, keepdim=True) / 127
    rounded.weight.data, rounded.bias.data = (layer.weight / scale).round() * scale, layer.bias.data
    found = Int8Linear.of(layer)(x)
    torch.testing.assert_close(found, rounded(x), rtol=1e-3, atol=1e-3)
    assert error(found, layer(x)) < 0.02


def test_small_inputs_beside_large_ones_are_not_lost() -> None:
    """Embeddings are small beside dense features: steps of 1/127 of the largest number would round them all to zero."""
    layer = layer_of(64, 32, bias=False)
    x = torch.randn(200, 64)
    x[:, :4] *= 100
    layer.weight[:, :4] = 0  # so that only the small inputs count
    assert error(Int8Linear.of(layer)(x), layer(x)) < 0.02


def test_a_row_gives_the_same_bits_in_every_batch() -> None:
    layer, x = Int8Linear.of(layer_of(100, 30)), torch.randn(64, 100)
    x[7] *= 1e6
    whole = layer(x)
    assert all(torch.equal(layer(x[i : i + 1])[0], whole[i]) for i in range(64))
    assert torch.equal(layer(x.T.contiguous().T), whole), "whatever the strides"


def test_a_processor_without_int8_products_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Int8Linear.of(layer_of(429, 64)), torch.randn(50, 429)
    wanted = layer(x)
    monkeypatch.setattr(int8.torch.cpu, "_is_vnni_supported", lambda: False)
    assert torch.equal(layer(x), wanted)


def test_zeros_empty_batches_and_non_finite_inputs() -> None:
    layer = layer_of(10, 4)
    ours, x = Int8Linear.of(layer), torch.randn(4, 10)
    x[0], x[1, 3], x[2, 3] = 0, torch.nan, -torch.inf
    out = ours(x)
    assert torch.equal(out[0], layer.bias)
    assert out[1:3].isnan().all() and out[3].isfinite().all()
    assert ours(torch.empty(0, 10)).shape == (0, 4)
    layer.weight.zero_()
    assert torch.equal(Int8Linear.of(layer)(x[3:]), layer.bias.unsqueeze(0))


def test_layers_with_several_outputs_are_replaced_and_projections_of_tables_are_not() -> None:
    model = nn.Module()
    config = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["t"])
    how = {"t": Composition(partitions_for("naive", 8, 8), "add")}
    model.tables = CompositionalEmbeddingBags([config], how, init_scale=1, lr=1, eps=1, initial_accumulator=0, seed=0)
    model.tables.inner = nn.Linear(3, 3)
    model.deep = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    assert layers_of(model) == ["deep.0"]
    assert quantise_layers(model) == ["deep.0"] and layers_of(model) == []
    assert model.deep(torch.randn(2, 3)).shape == (2, 1)
