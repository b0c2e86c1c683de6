"""Define the steps of a row through an expert, of which a mistake replaces one or two.

The steps are the reference's without its noise estimates. A dynamic per-tensor scale is taken from
the reference's answer, since it spans more rows than a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch

from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.formats.format import Format
    from moe.reference.layer import BaselineSiluAndMul

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """Hold one expert's w13 [2N, K] (or [N, K]) and w2 [K, N].

    Scales and plain weights are computed lazily.
    """

    expert: int
    w13: Tensor
    w2: Tensor
    reference: BaselineSiluAndMul

    @cached_property
    def plain(self) -> tuple[Tensor, Tensor]:
        """Return w13 and w2 before quantization."""
        return self.reference.expert(self.expert)

    @cached_property
    def scale13(self) -> Tensor:
        """Return the scales of w13, broadcastable to it. Quantized schemes only."""
        return formats.weight_scale(self.plain[0], self.reference.weight_format)

    @cached_property
    def scale2(self) -> Tensor:
        """Return the scales of w2, broadcastable to it. Quantized schemes only."""
        return formats.weight_scale(self.plain[1], self.reference.weight_format)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Hold a rank's number and its columns of the intermediate."""

    rank: int
    columns: slice
    intermediate: int  # N, of all ranks


def right_inputs(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
    """Return [R, K], the quantized input of these rows, times its router weight where declared."""
    if scene.reference.numerics.weight_on != "input":
        return quantized_input(scene)[rows]
    x = expert_input(scene)[rows] * scene.topk_weights[rows, slots, None]
    x, fmt = rounded(scene, x, "weighted"), scene.reference.act_format
    if fmt.grid == "model":
        return x
    scale = scene.answer.tensor_scales[0]
    if scale is None:
        scale = formats.activation_scale(x, fmt, None)
    return codes(x, scale, fmt) * scale


def right_w13(_: Scene, e: Matrices) -> Tensor:
    return e.w13


def right_w2(_: Scene, e: Matrices) -> Tensor:
    return e.w2


def right_biases(scene: Scene, expert: int) -> tuple[Tensor, Tensor] | None:
    """Return b13 [2N] and b2 [K] of an expert, or None if the layer has no biases."""
    return scene.reference.biases(expert)


def right_adapters(scene: Scene) -> Tensor | None:
    """Return the low-rank adapter of each row, [r] int32, -1 = none; None: the layer has none."""
    return scene.adapters


def right_changes(scene: Scene, adapter: int, expert: int) -> tuple[Tensor, Tensor]:
    """Return what an adapter adds to an expert's w13 [2N, K] and w2 [K, N]."""
    truth = scene.reference.adapters
    assert truth is not None, "the layer has no adapters"
    key = ("matrices", "adapter", adapter, expert)
    return cached(scene, key, lambda: truth.changes(adapter, expert, scene.reference.dtype))


def right_leave(scene: Scene, output: Tensor) -> Tensor:
    """Return the experts' output [..., K]; of a latent layer [..., L], projected back."""
    latent = scene.reference.latent
    return output if latent is None else latent.leave(output)


def adds_second_bias(shard: Shard) -> bool:
    """Tell whether the rank of a shard adds b2: the one with the first column does."""
    return bool(shard.columns.start == 0)


def right_product(_: Scene, x: Tensor, w: Tensor) -> Tensor:
    """Return x times w transposed. x: [..., R, I], w: [..., O, I], result: [..., R, O]."""
    return x @ w.mT


def right_total(_: Scene, products: Tensor) -> Tensor:
    """Return the products of all experts [..., P, O] as they are: their sums are complete."""
    return products


def right_halves(product: Tensor, shard: Shard) -> tuple[Tensor, Tensor | None]:
    """Return this rank's columns of gate and up, from the first product [R, 2N].

    up is None if the activation is not gated and the product is [R, N].
    """
    gate, *ups = (t[:, shard.columns] for t in torch.split(product, shard.intermediate, dim=1))
    return gate, ups[0] if ups else None


def right_second(scene: Scene, h: Tensor, rank: int) -> Tensor:
    """Return h [R, n], one rank's columns of the intermediate, after the second quantization."""
    fmt = scene.reference.act_format
    if fmt.grid == "model":
        return h
    scale = second_scale(scene, h, rank)
    return codes(h, scale, fmt) * scale


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a row through an expert; a mistake replaces one or two.

    `w13`, `w2` and `product` run for each expert, the others for all experts' rows together: on a
    device their number is what a mistake costs. `total` gets what `product` returned for all.
    """

    inputs: Callable[[Scene, Tensor, Tensor], Tensor] = right_inputs
    w13: Callable[[Scene, Matrices], Tensor] = right_w13
    product: Callable[[Scene, Tensor, Tensor], Tensor] = right_product
    total: Callable[[Scene, Tensor], Tensor] = right_total
    halves: Callable[[Tensor, Shard], tuple[Tensor, Tensor | None]] = right_halves
    # of gate and up, which is None if it is not gated; None: the layer's own
    activation: Callable[[Tensor, Tensor | None], Tensor] | None = None
    second: Callable[[Scene, Tensor, int], Tensor] = right_second
    w2: Callable[[Scene, Matrices], Tensor] = right_w2
    biases: Callable[[Scene, int], tuple[Tensor, Tensor] | None] = right_biases
    adds_b2: Callable[[Shard], bool] = adds_second_bias
    leave: Callable[[Scene, Tensor], Tensor] = right_leave
    adapters: Callable[[Scene], Tensor | None] = right_adapters
    changes: Callable[[Scene, int, int], tuple[Tensor, Tensor]] = right_changes

    def starts_right(self) -> bool:
        """Tell whether the first product is the reference's, so that it can be reused."""
        first = (self.inputs, self.w13, self.product, self.total, self.biases)
        functions = (right_inputs, right_w13, right_product, right_total, right_biases)
        adapted = (self.adapters, self.changes) == (right_adapters, right_changes)
        return first == functions and adapted


RIGHT = Steps()


def rounded(scene: Scene, value: Tensor, place: str) -> Tensor:
    """Return the value rounded as the numerics declare for a place."""
    declared = getattr(scene.reference.numerics, place)
    return formats.on_grid(value, scene.case.dtype if declared == "model" else "f32")


def right_activation(scene: Scene) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the activation of the layer under test, a function of gate and up."""
    truth = scene.reference.activation

    def activated(gate: Tensor, up: Tensor | None) -> Tensor:
        f = truth.of_gate(gate).value
        return f if up is None else rounded(scene, f, "activated_gate") * truth.of_up(up).value

    return activated


def matrices(scene: Scene, e: int) -> Matrices:
    """Return expert e's matrices, computed once per scene."""

    def make() -> Matrices:
        w13, w2 = scene.reference.weights(e)
        return Matrices(expert=e, w13=w13, w2=w2, reference=scene.reference)

    return cached(scene, ("matrices", e), make)


def codes(x: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Return the codes of x under a scale, as float32 numbers."""
    return formats.on_grid((x / scale).clamp(-fmt.top, fmt.top), fmt)


def expert_input(scene: Scene) -> Tensor:
    """Return the routed experts' input before quantization, [r, K], of a latent layer [r, L]."""
    if scene.reference.latent is None:
        return scene.x.to(scene.reference.dtype)
    key = ("input", tuple(scene.rows.tolist()))
    return cached(scene, key, lambda: scene.reference.entered(scene.x))


def input_scale(scene: Scene) -> Tensor:
    """Return the input's scale, broadcastable to [r, K]. Quantized schemes only."""
    shared, reference = scene.answer.tensor_scales[0], scene.reference
    if shared is not None and reference.act_format.has_one_scale:
        return shared
    return formats.activation_scale(expert_input(scene), reference.act_format, shared)


def quantized_input(scene: Scene) -> Tensor:
    """Return [r, K], the dequantized input."""
    fmt, x = scene.reference.act_format, expert_input(scene)
    if fmt.grid == "model":
        return x
    scale = input_scale(scene)
    return codes(x, scale, fmt) * scale


def second_scale(scene: Scene, h: Tensor, rank: int) -> Tensor:
    """Return the intermediate's scale, broadcastable to h [R, n]. Quantized schemes only."""
    shared, fmt = scene.answer.tensor_scales[1], scene.reference.act_format
    total = shared.scale[rank] if shared is not None and shared.scale[rank] > 0 else None
    if total is not None and fmt.has_one_scale:
        return total
    return formats.activation_scale(h, fmt, total)


def cached(scene: Scene, key: tuple[object, ...], make: Callable[[], T]) -> T:
    """Return what `make` returns, computed once for the scene and its parts."""
    if key not in scene.memo:
        scene.memo[key] = make()
    value: T = scene.memo[key]
    return value
