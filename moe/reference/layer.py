"""`BaselineSiluAndMul`: the whole MoE layer, one expert at a time, in float32 (or float64).

It takes the member's declared `Numerics` and the layout, because both change what a *right*
answer is: a rounding before the second quantization moves codes, and each rank quantizes its
own columns of the intermediate. Weights are quantized whole, as checkpoints are, then sharded.

Beside the output it works out how far a right member may be from it, from the case's own
numbers (docs/bounds.md derives each term):

- `variance`: the expected squared distance of each row, from every declared rounding, from the
  accumulation noise of the products, and from codes that this noise may push over a tie;
- `flips`: the squared distance if every code within reach of the noise did flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference import formats
from moe.spec import FORMATS, Format, Numerics, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

REACH = 5.0  # a tie is within reach of noise at this many of its standard deviations
FLOAT32_NOISE = 2.0**-21  # relative, of a few float32 operations and an exponential


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a right layer gives for some tokens, before its last rounding, and how surely.

    out: [T, K]. variance, flips: [T] float32, squared distances. amax1, amax2: largest absolute
    input and intermediate value, from which static scales are calibrated.
    """

    out: Tensor
    variance: Tensor
    flips: Tensor
    amax1: Tensor
    amax2: Tensor


@dataclass
class _Sums:
    """What accumulates while the experts pass by; one instance a call."""

    partial: Tensor  # [ranks, T, K] each rank's weighted sum
    variance: Tensor  # [T]
    flips: Tensor  # [T]
    amax2: Tensor  # []


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A value and how a right member's may differ from it, all elementwise.

    variance: of small noise, as good as normal. jumps: the expected square of rare whole steps,
    where noise carried the value over a rounding tie. doubt: the largest such step, 0 where no
    tie is within reach.
    """

    value: Tensor
    variance: Tensor
    jumps: Tensor
    doubt: Tensor

    def columns(self, part: slice) -> Noisy:
        """Some columns, as one rank's shard has them."""
        pieces = (t[:, part] for t in (self.value, self.variance, self.jumps, self.doubt))
        value, variance, jumps, doubt = pieces
        return Noisy(value=value, variance=variance, jumps=jumps, doubt=doubt)

    def settled(self, value: Tensor, step: Tensor, tie: Tensor) -> Noisy:
        """After rounding to `value` on a grid of `step`, from a distance `tie` to the next tie.

        Small noise is gone, unless it reached the tie: then the two are whole steps apart. Of
        the jumps before, those towards the tie, half of them, go on as jumps.
        """
        sigma = self.variance.sqrt()
        over = 0.5 * torch.erfc(tie / sigma.clamp(min=1e-30) / 2**0.5) * step.square()
        far = torch.maximum(step, self.doubt)
        moved = 0.5 * self.jumps / self.doubt.square().clamp(min=1e-38) * far.square()
        jumps = over + torch.where(tie < self.doubt, moved, 0.0)
        doubt = torch.where(tie < REACH * sigma + self.doubt, far, 0.0)
        return Noisy(value=value, variance=torch.zeros_like(value), jumps=jumps, doubt=doubt)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale, and how far a rounding of its largest value may have moved it.

    scale: [] or broadcastable to the values. doubt: the largest relative shift, 0 for most.
    chance: the probability of that shift.
    """

    scale: Tensor
    doubt: Tensor
    chance: Tensor


class BaselineSiluAndMul:
    """y = sum over k of weight * down(silu(gate(x)) * up(x)), plus the shared experts.

    expert(e) -> (w13 [2N, K], w2 [K, N]) in the model dtype, whole, before quantization; shared
    is the same for the shared experts as one wide MLP, or None.
    """

    def __init__(
        self,
        problem: Problem,
        numerics: Numerics,
        expert: Callable[[int], tuple[Tensor, Tensor]],
        shared: tuple[Tensor, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.problem = problem
        self.numerics = numerics
        self.dtype = dtype
        self._expert = expert
        self._shared = shared
        self.weight_format = FORMATS[problem.scheme.weights]
        self.act_format = FORMATS[problem.scheme.activations]
        self._model = problem.dtype
        self._latest: tuple[int, tuple[Tensor, Tensor]] | None = None

    def __call__(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        *,
        a1_scale: Tensor | None = None,
        a2_scale: Tensor | None = None,
    ) -> Answer:
        """x: [T, K]; topk_ids: [T, k] int32, -1 = none; topk_weights: [T, k] float32.

        With dynamic per-tensor scales, x must hold every token that the member sees together.
        Rows of only -1 come out as zeros.
        """
        x = x.to(self.dtype)
        inputs = self._quantize_input(x, a1_scale)
        second = self._second_scales(inputs, topk_ids, a2_scale)
        world = self.problem.layout.world_size
        sums = _Sums(
            partial=x.new_zeros((world, *x.shape)),
            variance=x.new_zeros(x.shape[0]),
            flips=x.new_zeros(x.shape[0]),
            amax2=x.new_zeros(()),
        )
        for e in range(self.problem.num_experts):
            rows, slots = (topk_ids == e).nonzero(as_tuple=True)
            if len(rows):
                self._add_expert(sums, e, inputs[rows], rows, topk_weights[rows, slots], second)
        return self._finish(sums, x)

    def _quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Tensor:
        if self.act_format.grid == "model":
            return x
        scale = formats.activation_scale(x, self.act_format, a1_scale)
        return formats.quantize(x, scale, self.act_format).values

    def _second_scales(
        self, inputs: Tensor, topk_ids: Tensor, a2_scale: Tensor | None
    ) -> list[Scale | None]:
        """Each rank's scale of the intermediate, where one serves all rows of the rank."""
        world, fmt = self.problem.layout.world_size, self.act_format
        if fmt.grid == "model" or fmt.per != "tensor":
            return [None] * world
        if fmt.static:
            assert a2_scale is not None, "a static format needs its calibrated scale"
            none = a2_scale.new_zeros(())
            return [Scale(scale=a2_scale.to(self.dtype), doubt=none, chance=none)] * world
        largest: list[Scale | None] = [None] * world
        for e in range(self.problem.num_experts):
            rows = (topk_ids == e).nonzero(as_tuple=True)[0]
            for rank, h in self._shards(e, inputs[rows]) if len(rows) else ():
                scale, held = dynamic_scale(h, fmt), largest[rank]
                if held is None or scale.scale > held.scale:
                    largest[rank] = scale
        return largest

    def _shards(self, e: int, inputs: Tensor) -> Iterator[tuple[int, Noisy]]:
        """Expert e's intermediate, as each rank that computes it has it."""
        w13, _ = self.weights(e)
        h = intermediate(inputs, w13, self.numerics, self._model)
        layout = self.problem.layout
        for rank in range(layout.world_size):
            if e in layout.experts_of(rank, self.problem.num_experts):
                columns = layout.intermediate_of(rank, self.problem.intermediate)
                yield rank, h.columns(slice(columns.start, columns.stop))

    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        """Expert e's matrices as the values that their codes stand for; the latest is kept."""
        if self._latest is None or self._latest[0] != e:
            w13, w2 = (w.to(self.dtype) for w in self._expert(e))
            fmt = self.weight_format
            values = formats.weight_values(w13, fmt), formats.weight_values(w2, fmt)
            self._latest = (e, values)
        return self._latest[1]

    def _add_expert(
        self,
        sums: _Sums,
        e: int,
        inputs: Tensor,
        rows: Tensor,
        weight: Tensor,
        second: list[Scale | None],
    ) -> None:
        """Add expert e's share of these rows to the partial sums of the ranks that compute it."""
        _, w2 = self.weights(e)
        weight = weight.to(self.dtype)
        for rank, h in self._shards(e, inputs):
            sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
            columns = self.problem.layout.intermediate_of(rank, self.problem.intermediate)
            part = w2[:, columns.start : columns.stop]
            self._add_shard(sums, rank, rows, weight, self._quantize(h, second[rank]), part)

    def _quantize(self, h: Noisy, shared: Scale | None) -> Noisy:
        """The second quantization of one rank's columns."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        return quantize_noisy(h, shared or dynamic_scale(h, fmt), fmt)

    def _add_shard(
        self, sums: _Sums, rank: int, rows: Tensor, weight: Tensor, h: Noisy, w2: Tensor
    ) -> None:
        """GEMM2 of one expert on one rank's columns; weight: [R] router weights."""
        y = h.value @ w2.T
        power = w2.square().sum(dim=0)  # [n] squared length of what one unit of h moves
        noise = (h.variance + h.jumps) @ power
        noise = noise + gathered(self.numerics, h.value.shape[1]) * y.square().sum(dim=1)
        if self.numerics.expert == "model":
            noise = noise + rounding_variance(y, self._model).sum(dim=1)
        sums.partial[rank].index_add_(0, rows, weight[:, None] * y)
        sums.variance.index_add_(0, rows, weight.square() * noise)
        sums.flips.index_add_(0, rows, weight.square() * (h.doubt.square() @ power))

    def _finish(self, sums: _Sums, x: Tensor) -> Answer:
        """Add up the ranks and the shared experts, and the roundings of doing so."""
        routed = sums.partial.sum(dim=0)
        variance = sums.variance
        rounded = rounding_variance(sums.partial, self._model).sum(dim=0)
        if self.numerics.combine == "model":
            rounded = rounded * self.problem.top_k
        out = routed
        if self._shared is not None:
            shared, noise = self._shared_output(x)
            out = routed + shared
            variance = variance + noise
        adds = self.problem.layout.world_size - 1 + (self._shared is not None)
        largest = torch.maximum(out.abs(), sums.partial.abs().amax(dim=0))
        rounded = rounded + adds * rounding_variance(largest, self._model)
        return Answer(
            out=out,
            variance=variance + rounded.sum(dim=1),
            flips=sums.flips,
            amax1=x.abs().amax() if x.numel() else x.new_zeros(()),
            amax2=sums.amax2,
        )

    def _shared_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shared experts, unquantized and rounded to the model dtype after each step."""
        assert self._shared is not None
        w13, w2 = (w.to(self.dtype) for w in self._shared)
        everywhere = Numerics(gemm1="model", activation="model", accumulation=2.0**-22)
        h = intermediate(x, w13, everywhere, self._model)
        y = h.value @ w2.T
        shards = self.problem.layout.tp_size
        noise = (h.variance + h.jumps) @ w2.square().sum(dim=0)
        noise = noise + gathered(everywhere, h.value.shape[1]) * y.square().sum(dim=1)
        return y, noise + (1 + shards) * rounding_variance(y, self._model).sum(dim=1)


def rounding_variance(x: Tensor, dtype: str) -> Tensor:
    """Of one rounding to the model dtype, elementwise: a step squared over twelve."""
    return formats.step_of(x, dtype).square() / 12


def gathered(numerics: Numerics, terms: int) -> float:
    """Relative variance of a sum of so many products."""
    return numerics.accumulation**2 * terms


def rounded(x: Noisy, dtype: str) -> Noisy:
    """Both sides round to the dtype: they agree but where a tie is within reach."""
    if dtype == "f32":
        return x
    step, value = formats.step_of(x.value, dtype), formats.on_grid(x.value, dtype)
    return x.settled(value, step, ((x.value - value).abs() - step / 2).abs())


def intermediate(x: Tensor, w13: Tensor, numerics: Numerics, model: str) -> Noisy:
    """silu(gate) * up of rows x [R, K] with w13 [2N, K] = [gate; up], rounded as declared.

    The noise of a product is relative to the root of the sum of squares of what it adds up.
    """
    both = x @ w13.T
    lengths = x.square().sum(dim=1, keepdim=True) * w13.square().sum(dim=1)
    variance = gathered(numerics, x.shape[1]) * lengths / x.shape[1]
    none = torch.zeros_like(both)
    product = Noisy(value=both, variance=variance, jumps=none, doubt=none)
    first = rounded(product, model if numerics.gemm1 == "model" else "f32")
    return rounded(_silu_mul(first), model if numerics.activation == "model" else "f32")


def _silu_mul(both: Noisy) -> Noisy:
    """[R, 2n] -> [R, n]; noise goes through the derivatives, plus float32's own."""
    half = both.value.shape[1] // 2
    gate, up = both.columns(slice(0, half)), both.columns(slice(half, None))
    sigmoid = torch.sigmoid(gate.value)
    silu = gate.value * sigmoid
    by_gate = (sigmoid * (1 + gate.value * (1 - sigmoid)) * up.value).abs()
    by_up = silu.abs()
    value = silu * up.value

    def spread(of_gate: Tensor, of_up: Tensor) -> Tensor:
        return by_gate.square() * of_gate + by_up.square() * of_up

    return Noisy(
        value=value,
        variance=spread(gate.variance, up.variance) + (value * FLOAT32_NOISE).square(),
        jumps=spread(gate.jumps, up.jumps),
        doubt=by_gate * gate.doubt + by_up * up.doubt,
    )


def quantize_noisy(h: Noisy, scale: Scale, fmt: Format) -> Noisy:
    """Quantize; where the scale itself is in doubt, everything under it shifts with it."""
    q = formats.quantize(h.value, scale.scale, fmt)
    shift = h.value.abs() * scale.doubt
    unsure = Noisy(
        value=h.value,
        variance=h.variance + (h.value * FLOAT32_NOISE).square(),
        jumps=h.jumps,
        doubt=h.doubt + shift,
    )
    settled = unsure.settled(q.values, q.step, q.tie)
    flipping = torch.minimum(shift * q.step, q.step.square())  # the share that crosses a tie
    return Noisy(
        value=settled.value,
        variance=settled.variance,
        jumps=settled.jumps + scale.chance * (shift.square() + flipping),
        doubt=settled.doubt + shift,
    )


def dynamic_scale(h: Noisy, fmt: Format) -> Scale:
    """The scale of the values that share one; it follows the largest, and that one's jumps."""
    size = h.value.abs()
    largest = formats.scope_amax(size, fmt)
    rival = (h.doubt > 0) & (size + h.doubt >= largest)
    jumped = torch.where(rival, h.jumps / h.doubt.square().clamp(min=1e-38), 0.0)
    relative = torch.where(rival, h.doubt / largest.clamp(min=1e-30), 0.0)
    return Scale(
        scale=formats.scale_for(largest, fmt),
        doubt=formats.scope_amax(relative, fmt),
        chance=formats.scope_amax(jumped, fmt),
    )
