"""Mistakes inside an expert: gate and up, the activation function, missing or moved blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import gelu as gaussian
from torch.nn.functional import silu as swish

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Matrices,
    Shard,
    Steps,
    quantized_input,
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
    _needs_gate(scene)
    activation = right_activation(scene)
    return redo(scene, Steps(activation=lambda gate, up: activation(_known(up), gate)))


def silu(scene: Scene) -> Tensor:
    _is_another(scene, "silu", "silu_no_mul")
    return _with(scene, swish)


def gelu(scene: Scene) -> Tensor:
    _is_another(scene, "gelu", "gelu_no_mul")
    return _with(scene, gaussian)


def gelu_tanh(scene: Scene) -> Tensor:
    _is_another(scene, "gelu_tanh", "gelu_tanh_no_mul")
    return _with(scene, lambda gate: gaussian(gate, approximate="tanh"))


def relu(scene: Scene) -> Tensor:
    return _with(scene, torch.relu)


def relu2(scene: Scene) -> Tensor:
    _is_another(scene, "relu2", "relu2_no_mul")
    return _with(scene, lambda gate: gate.relu().square())


def sigmoid(scene: Scene) -> Tensor:
    return _with(scene, torch.sigmoid)


def silu_without_up(scene: Scene) -> Tensor:
    _needs_gate(scene)
    truth = scene.reference.activation
    return redo(scene, Steps(activation=lambda gate, _: truth.of_gate(gate).value))


def up_without_gate(scene: Scene) -> Tensor:
    _needs_gate(scene)
    return redo(scene, Steps(activation=lambda _, up: _known(up)))


def product_without_silu(scene: Scene) -> Tensor:
    return _with(scene, lambda gate: gate)


def gate_clamped(scene: Scene) -> Tensor:
    exceeded, activation = False, right_activation(scene)
    if scene.reference.activation.limit is not None:
        raise NotApplicable("the layer's activation has a limit")

    def clamped(gate: Tensor, up: Tensor | None) -> Tensor:
        nonlocal exceeded
        exceeded |= any(bool((t > LIMIT).any()) for t in (gate, up, _negative(up)) if t is not None)
        return activation(gate.clamp(max=LIMIT), None if up is None else up.clamp(-LIMIT, LIMIT))

    out = redo(scene, Steps(activation=clamped))
    if not exceeded:
        raise NotApplicable(f"nothing in these rows is beyond {LIMIT:g}")
    return out


def _negative(up: Tensor | None) -> Tensor | None:
    return None if up is None else -up


def swiglu_oai(scene: Scene) -> Tensor:
    _needs_gate(scene)
    _is_another(scene, "swiglu_clamped")

    def oai(gate: Tensor, up: Tensor | None) -> Tensor:
        gate, up = gate.clamp(max=LIMIT), _known(up).clamp(-LIMIT, LIMIT)
        return gate * torch.sigmoid(OAI_ALPHA * gate) * (up + 1)

    return redo(scene, Steps(activation=oai))


def _with(scene: Scene, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the output with another function of the gate."""

    def product(gate: Tensor, up: Tensor | None) -> Tensor:
        return function(gate) if up is None else function(gate) * up

    return redo(scene, Steps(activation=product))


def _known(up: Tensor | None) -> Tensor:
    assert up is not None, "a gated layer has up"
    return up


def _needs_gate(scene: Scene) -> None:
    if not scene.reference.activation.gated:
        raise NotApplicable("the layer's activation is not gated")


def gate_up_interleaved(scene: Scene) -> Tensor:
    def alternate(product: Tensor, shard: Shard) -> tuple[Tensor, Tensor | None]:
        gate, up = right_halves(product, shard)
        joined = torch.cat([gate, _known(up)], dim=1)
        return joined[:, ::2], joined[:, 1::2]

    _needs_gate(scene)
    if scene.case.n == 1:
        raise NotApplicable("one gate row and one up row are interleaved as they are")
    return redo(scene, Steps(halves=alternate))


def shard_of_joined_rows(scene: Scene) -> Tensor:
    def cut(product: Tensor, shard: Shard) -> tuple[Tensor, Tensor | None]:
        start, stop = 2 * shard.columns.start, 2 * shard.columns.stop
        gate, up = product[:, start:stop].chunk(2, dim=1)
        return gate, up

    _needs_gate(scene)
    if scene.case.layout.size("moe_tp") == 1:
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

    if scene.case.expert_case.k < BLOCK or scene.case.n < BLOCK:
        raise NotApplicable(f"w2 has no whole block of {BLOCK} x {BLOCK}")
    return redo(scene, Steps(w2=transposed))


def odd_k_blocks_missing(scene: Scene) -> Tensor:
    return _without(scene, lambda block: block % 2 == 1)


def last_k_block_missing(scene: Scene) -> Tensor:
    last = (scene.case.expert_case.k - 1) // BLOCK
    if last == 1:
        raise NotApplicable("of two blocks the last one is every second one")
    return _without(scene, lambda block: block == last)


def _is_another(scene: Scene, *names: str) -> None:
    """Raise NotApplicable if the activation of the layer has one of these names."""
    activation = scene.case.activation
    if activation in names:
        raise NotApplicable(f"{activation} is the layer's own activation")


def _without(scene: Scene, is_missing: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the output with some 128-blocks of the hidden size left out of the first product."""
    if scene.case.expert_case.k <= BLOCK:
        raise NotApplicable(f"the hidden size is one block of {BLOCK}")
    column = torch.arange(scene.case.expert_case.k, device=scene.x.device)
    remaining = ~is_missing(column // BLOCK)

    def masked(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
        del slots
        return quantized_input(scene)[rows] * remaining

    return redo(scene, Steps(inputs=masked))
