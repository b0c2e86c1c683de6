"""Mistakes inside an expert: gate and up, the activation function, missing or moved blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import gelu as gaussian
from torch.nn.functional import silu as swish

from harness.mutants import NotApplicable
from harness.mutants.recompute import (
    Matrices,
    Shard,
    Steps,
    quantized_input,
    redo,
    right_activation,
    right_halves,
    right_second,
)
from moe.spec import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene

LIMIT = 7.0  # where models with a clamped SwiGLU clamp it
OAI_ALPHA = 1.702


def gate_up_swapped(scene: Scene) -> Tensor:
    activation = right_activation(scene)
    return redo(scene, Steps(activation=lambda gate, up: activation(up, gate)))


def silu(scene: Scene) -> Tensor:
    _is_another(scene, "silu")
    return redo(scene, Steps(activation=lambda gate, up: swish(gate) * up))


def gelu(scene: Scene) -> Tensor:
    return redo(scene, Steps(activation=lambda gate, up: gaussian(gate) * up))


def gelu_tanh(scene: Scene) -> Tensor:
    _is_another(scene, "gelu_tanh")
    return redo(scene, Steps(activation=lambda gate, up: gaussian(gate, approximate="tanh") * up))


def relu(scene: Scene) -> Tensor:
    return redo(scene, Steps(activation=lambda gate, up: gate.relu() * up))


def sigmoid(scene: Scene) -> Tensor:
    return redo(scene, Steps(activation=lambda gate, up: gate.sigmoid() * up))


def silu_without_up(scene: Scene) -> Tensor:
    activation = right_activation(scene)
    return redo(scene, Steps(activation=lambda gate, _: activation(gate, torch.ones_like(gate))))


def up_without_gate(scene: Scene) -> Tensor:
    return redo(scene, Steps(activation=lambda _, up: up))


def product_without_silu(scene: Scene) -> Tensor:
    return redo(scene, Steps(activation=lambda gate, up: gate * up))


def gate_clamped(scene: Scene) -> Tensor:
    exceeded, activation = False, right_activation(scene)

    def clamped(gate: Tensor, up: Tensor) -> Tensor:
        nonlocal exceeded
        exceeded |= bool((gate > LIMIT).any() | (up.abs() > LIMIT).any())
        return activation(gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT))

    out = redo(scene, Steps(activation=clamped))
    if not exceeded:
        raise NotApplicable(f"nothing in these rows is beyond {LIMIT:g}")
    return out


def swiglu_oai(scene: Scene) -> Tensor:
    def oai(gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
        return gate * torch.sigmoid(OAI_ALPHA * gate) * (up + 1)

    return redo(scene, Steps(activation=oai))


def gate_up_interleaved(scene: Scene) -> Tensor:
    def alternate(product: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        joined = torch.cat(right_halves(product, shard), dim=1)
        return joined[:, ::2], joined[:, 1::2]

    if scene.case.n == 1:
        raise NotApplicable("one gate row and one up row are interleaved as they are")
    return redo(scene, Steps(halves=alternate))


def shard_of_joined_rows(scene: Scene) -> Tensor:
    def cut(product: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        start, stop = 2 * shard.columns.start, 2 * shard.columns.stop
        gate, up = product[:, start:stop].chunk(2, dim=1)
        return gate, up

    if scene.case.use_ep or scene.case.world_size == 1:
        raise NotApplicable("every rank has whole experts")
    return redo(scene, Steps(halves=cut))


def half_intermediate(scene: Scene) -> Tensor:
    def half(scene: Scene, h: Tensor, rank: int) -> Tensor:
        values = right_second(scene, h, rank).clone()
        values[:, values.shape[1] // 2 :] = 0
        return values

    return redo(scene, Steps(second=half))


def last_n_block_missing(scene: Scene) -> Tensor:
    if min(scene.case.layer_spec.shard_sizes) <= BLOCK:
        raise NotApplicable(f"a rank has no more than {BLOCK} intermediate columns")

    def short(scene: Scene, h: Tensor, rank: int) -> Tensor:
        values = right_second(scene, h, rank).clone()
        values[:, (values.shape[1] - 1) // BLOCK * BLOCK :] = 0
        return values

    return redo(scene, Steps(second=short))


def w2_blocks_transposed(scene: Scene) -> Tensor:
    def transposed(_: Scene, e: Matrices) -> Tensor:
        down, across = e.w2.shape[0] // BLOCK, e.w2.shape[1] // BLOCK
        w2 = e.w2.clone()
        full_blocks = w2[: down * BLOCK, : across * BLOCK]
        tiles = full_blocks.reshape(down, BLOCK, across, BLOCK).clone()  # not a view: written below
        full_blocks.copy_(tiles.transpose(1, 3).reshape(full_blocks.shape))
        return w2

    if scene.case.k < BLOCK or scene.case.n < BLOCK:
        raise NotApplicable(f"w2 has no whole block of {BLOCK} x {BLOCK}")
    return redo(scene, Steps(w2=transposed))


def odd_k_blocks_missing(scene: Scene) -> Tensor:
    return _without(scene, lambda block: block % 2 == 1)


def last_k_block_missing(scene: Scene) -> Tensor:
    last = (scene.case.k - 1) // BLOCK
    if last == 1:
        raise NotApplicable("of two blocks the last one is every second one")
    return _without(scene, lambda block: block == last)


def _is_another(scene: Scene, name: str) -> None:
    if scene.case.activation == name:
        raise NotApplicable(f"{name} is the layer's own activation")


def _without(scene: Scene, is_missing: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the output with some 128-blocks of the hidden size left out of the first product."""
    if scene.case.k <= BLOCK:
        raise NotApplicable(f"the hidden size is one block of {BLOCK}")
    column = torch.arange(scene.case.k, device=scene.x.device)
    remaining = ~is_missing(column // BLOCK)

    def masked(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
        del slots
        return quantized_input(scene)[rows] * remaining

    return redo(scene, Steps(inputs=masked))
