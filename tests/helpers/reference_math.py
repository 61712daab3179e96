"""Hashing, searching and optimizers of the reference tables, on whole columns, in plain torch."""

from __future__ import annotations

import torch

from ml.embeddings.optimizers import RowOptimizer


def repetitions(inverse: torch.Tensor) -> torch.Tensor:
    """Number of earlier occurrences of the value of each element, int64 [N]."""
    order = inverse.argsort(stable=True)
    sorted_ = inverse[order]
    at = torch.arange(len(inverse), device=inverse.device)
    first = torch.cat([torch.ones_like(at[:1], dtype=torch.bool), sorted_[1:] != sorted_[:-1]])
    nth = torch.empty_like(at)
    nth[order] = at - torch.where(first, at, 0).cummax(0).values
    return nth


def find(ids: torch.Tensor, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of ids in sorted `ids`, int64 [N], and whether they are there, bool [N]."""
    if not len(ids):
        return torch.zeros_like(asked), torch.zeros_like(asked, dtype=torch.bool)
    place = torch.searchsorted(ids.contiguous(), asked).clamp(max=len(ids) - 1)
    return place, ids[place] == asked


def signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


LOWEST = signed(1 << 63)


def mix(x: torch.Tensor) -> torch.Tensor:
    """`ml.hashing.mix64` of int64 tensors; `>>` copies the sign, which is masked out."""
    x = (x ^ (x >> 30 & ((1 << 34) - 1))) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & ((1 << 37) - 1))) * signed(0x94D049BB133111EB)
    return x ^ (x >> 31 & ((1 << 33) - 1))


def first_state(o: RowOptimizer, weight: torch.Tensor) -> torch.Tensor:
    """Optimizer state of rows with these weights, float32 [N, D], before their first update: float32 [N, S]."""
    dim = weight.shape[1]
    state = torch.zeros(len(weight), o.words(dim), device=weight.device)
    if o.kind in ("adagrad", "ftrl"):
        state[:, :dim] = o.initial_accumulator
    if o.kind == "ftrl":
        scale = o.beta + o.initial_accumulator**0.5 + o.l2
        state[:, dim:] = -weight * scale - weight.sign() * o.l1
    return state


def optimizer_step(o: RowOptimizer, lr: float, columns: dict[str, torch.Tensor], rows: torch.Tensor, g: torch.Tensor) -> None:
    """Update rows, int64 [N], of the columns of a table by their gradients, float32 [N, D]."""
    w, state, slot = columns["weight"], columns["state"], columns["slot"]
    dim = w.shape[1]
    if o.kind == "sgd":
        w[rows] -= lr * g
    elif o.kind == "rowwise_adagrad":
        slot[rows] += g.square().mean(1)
        w[rows] -= lr * g / (slot[rows].sqrt() + o.eps).unsqueeze(1)
    elif o.kind == "adagrad":
        state[rows] += g.square()
        w[rows] -= lr * g / (state[rows].sqrt() + o.eps)
    elif o.kind == "adam":
        slot[rows] += 1
        t = slot[rows].unsqueeze(1)
        m = o.beta1 * state[rows, :dim] + (1 - o.beta1) * g
        v = o.beta2 * state[rows, dim:] + (1 - o.beta2) * g.square()
        state[rows] = torch.cat([m, v], 1)
        w[rows] -= lr / (1 - o.beta1**t) * m / ((v / (1 - o.beta2**t)).sqrt() + o.eps)
    else:
        n, z = state[rows, :dim], state[rows, dim:]
        total = n + g.square()
        z = z + lr * g - (total.sqrt() - n.sqrt()) * w[rows]
        state[rows] = torch.cat([total, z], 1)
        w[rows] = -z.sign() * (z.abs() - o.l1).clamp(min=0) / (o.beta + total.sqrt() + o.l2)
