"""A few rows through the experts again, with one step done wrongly.

The steps are the reference's, without the noise that it carries along: this is asked for dozens
of mistakes, on few rows, in every case. A dynamic per-tensor scale is the one of the right
answer, since it was taken over more rows than are here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.mutants import FEW
from harness.mutants.contributions import parts_of
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
    """One expert's values w13 [2N, K] and w2 [K, N]; scales and plain weights when asked for."""

    expert: int
    w13: Tensor
    w2: Tensor
    reference: BaselineSiluAndMul

    @cached_property
    def plain(self) -> tuple[Tensor, Tensor]:
        """w13 and w2 before quantization."""
        return self.reference.expert(self.expert)

    @cached_property
    def scale13(self) -> Tensor:
        """Broadcastable to w13. Quantized schemes only."""
        return formats.weight_scale(self.plain[0], self.reference.weight_format)

    @cached_property
    def scale2(self) -> Tensor:
        """Broadcastable to w2. Quantized schemes only."""
        return formats.weight_scale(self.plain[1], self.reference.weight_format)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where one rank stands: its number and its columns of the intermediate."""

    rank: int
    columns: slice
    intermediate: int  # N, of all ranks


def right_inputs(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
    """[R, K] the quantized input of these rows."""
    del slots
    return quantized_input(scene)[rows]


def right_w13(_: Scene, e: Matrices) -> Tensor:
    return e.w13


def right_w2(_: Scene, e: Matrices) -> Tensor:
    return e.w2


def right_product(_: Scene, x: Tensor, w: Tensor) -> Tensor:
    """x [R, I], w [O, I] -> [R, O]"""
    return x @ w.T


def right_halves(both: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    """[R, 2N] -> this rank's gate and up."""
    gate, up = both[:, : shard.intermediate], both[:, shard.intermediate :]
    return gate[:, shard.columns], up[:, shard.columns]


def right_second(scene: Scene, h: Tensor, rank: int) -> Tensor:
    """[R, n] one rank's columns -> the values of their codes."""
    fmt = scene.reference.act_format
    if fmt.grid == "model":
        return h
    scale = second_scale(scene, h, rank)
    return codes(h, scale, fmt) * scale


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The way of a row through an expert; a mistake replaces a step."""

    inputs: Callable[[Scene, Tensor, Tensor], Tensor] = right_inputs
    w13: Callable[[Scene, Matrices], Tensor] = right_w13
    product: Callable[[Scene, Tensor, Tensor], Tensor] = right_product
    halves: Callable[[Tensor, Shard], tuple[Tensor, Tensor]] = right_halves
    activation: Callable[[Tensor, Tensor], Tensor] | None = None  # None: the layer's own
    second: Callable[[Scene, Tensor, int], Tensor] = right_second
    w2: Callable[[Scene, Matrices], Tensor] = right_w2

    def starts_right(self) -> bool:
        """Whether the first product is the right one, which then need not be made again."""
        first = (self.inputs, self.w13, self.product)
        return first == (right_inputs, right_w13, right_product)


RIGHT = Steps()


def redo(scene: Scene, steps: Steps = RIGHT, *, ids: Tensor | None = None) -> Tensor:
    """[min(r, FEW), K] the output with these steps, or with other experts in the slots."""
    few = scene.first(FEW)
    return few.total(parts=redo_parts(few, steps, ids=None if ids is None else ids[:FEW]))


def redo_parts(scene: Scene, steps: Steps = RIGHT, *, ids: Tensor | None = None) -> Tensor:
    """[W, r, k, K] what each rank adds for each slot, as `Answer.parts`.

    ids: [r, k] global experts, -1 = none; None: the right ones.
    """
    ids = scene.topk_ids if ids is None else ids
    parts = torch.zeros_like(parts_of(scene))
    case, layout = scene.case, scene.case.layout
    held = scene.reference.problem.experts_by_rank
    for e, (rows, slots) in _places(ids).items():
        one = matrices(scene, e)
        both = _first_product(scene, steps, one, e, rows, slots)
        w2 = steps.w2(scene, one)
        for rank in range(layout.world_size):
            if e not in held[rank]:
                continue
            columns = layout.intermediate_of(rank, case.n)
            part = slice(columns.start, columns.stop)
            shard = Shard(rank=rank, columns=part, intermediate=case.n)
            h = _intermediate(scene, steps, both, shard)
            parts[rank, rows, slots] = steps.product(scene, h, w2[:, part])
    return parts


def _places(ids: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Each expert's rows and slots."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row, experts in enumerate(ids.tolist()):
        for slot, e in enumerate(experts):
            if e >= 0:
                found.setdefault(e, []).append((row, slot))
    device = ids.device
    tensors = {e: torch.tensor(pairs, device=device).T for e, pairs in found.items()}
    return {e: (t[0], t[1]) for e, t in tensors.items()}


def _first_product(
    scene: Scene, steps: Steps, one: Matrices, e: int, rows: Tensor, slots: Tensor
) -> Tensor:
    """[R, 2N] rounded as the member declares."""

    def make() -> Tensor:
        both = steps.product(scene, steps.inputs(scene, rows, slots), steps.w13(scene, one))
        declared = scene.reference.numerics.gemm1
        return formats.on_grid(both, scene.case.dtype if declared == "model" else "f32")

    if not steps.starts_right():
        return make()
    return remembered(scene, ("first product", e, tuple(scene.rows[rows].tolist())), make)


def _intermediate(scene: Scene, steps: Steps, both: Tensor, shard: Shard) -> Tensor:
    """[R, n] this rank's columns, quantized again."""
    activation = steps.activation or right_activation(scene)
    h = activation(*steps.halves(both, shard))
    declared = scene.reference.numerics.activation
    h = formats.on_grid(h, scene.case.dtype if declared == "model" else "f32")
    return steps.second(scene, h, shard.rank)


def right_activation(scene: Scene) -> Callable[[Tensor, Tensor], Tensor]:
    """f(gate) * up of the layer that is judged."""
    truth = scene.reference.activation
    return lambda gate, up: truth(gate, up).value


def matrices(scene: Scene, e: int) -> Matrices:
    """Expert e's; worked out once for a scene."""

    def make() -> Matrices:
        w13, w2 = scene.reference.weights(e)
        return Matrices(expert=e, w13=w13, w2=w2, reference=scene.reference)

    return remembered(scene, ("matrices", e), make)


def codes(x: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """The codes as float32 numbers."""
    return formats.on_grid((x / scale).clamp(-fmt.top, fmt.top), fmt)


def input_scale(scene: Scene) -> Tensor:
    """The input's scale, broadcastable to [r, K]. Quantized schemes only."""
    shared = scene.answer.tensor_scales[0]
    if shared is not None:
        return shared
    reference = scene.reference
    return formats.activation_scale(scene.x.to(reference.dtype), reference.act_format, None)


def quantized_input(scene: Scene) -> Tensor:
    """[r, K] the values of the input's codes."""
    fmt, x = scene.reference.act_format, scene.x.to(scene.reference.dtype)
    if fmt.grid == "model":
        return x
    scale = input_scale(scene)
    return codes(x, scale, fmt) * scale


def second_scale(scene: Scene, h: Tensor, rank: int) -> Tensor:
    """The intermediate's scale, broadcastable to h [R, n]. Quantized schemes only."""
    shared = scene.answer.tensor_scales[1]
    if shared is not None and shared.scale[rank] > 0:
        return shared.scale[rank]
    return formats.activation_scale(h, scene.reference.act_format, None)


def shared_mlp(scene: Scene, columns: slice | None = None) -> Tensor:
    """[r, K] the shared experts' output, or what some of their columns add to it."""
    w13, w2 = scene.reference.expert(None)
    dtype = scene.case.dtype
    gate, up = formats.on_grid(scene.x.to(w13.dtype) @ w13.T, dtype).chunk(2, dim=1)
    h = formats.on_grid(right_activation(scene)(gate, up), dtype)
    part = slice(None) if columns is None else columns
    return h[:, part] @ w2[:, part].T


def remembered(scene: Scene, key: tuple[object, ...], make: Callable[[], T]) -> T:
    """What `make` gives, made once for the scene and its parts."""
    if key not in scene.memo:
        scene.memo[key] = make()
    found: T = scene.memo[key]
    return found


def elsewhere(scene: Scene, **changes: Tensor) -> Scene:
    """The scene with other tokens; of what it remembers only the experts' matrices hold."""
    memo = {key: value for key, value in scene.memo.items() if key[0] == "matrices"}
    return dataclasses.replace(scene, memo=memo, **changes)  # type: ignore[arg-type]
