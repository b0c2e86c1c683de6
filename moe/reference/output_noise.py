"""Add up the error that a correct member may have from the second product to the output.

All of it is noise: no later code depends on these values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.numerics import EITHER
from moe.reference import formats
from moe.reference.error_propagation import by_rank, rounding_variance
from moe.reference.parallel_error import along_itself
from moe.reference.sum_noise import gathered, rounds_nothing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.layout import Layout
    from moe.numerics import Numerics
    from moe.reference.error_propagation import Noisy
    from moe.reference.joined_pairs import JoinedPairs
    from moe.reference.result import Sums
    from moe.reference.row_matrices import RowMatrices
    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class Term:
    """Hold what experts add on the w ranks that hold columns of them: weight * h @ w2."""

    pairs: JoinedPairs  # R pairs of tokens and slots
    weight: Tensor  # [R] factor of the output: the router weight, or 1 if it came in earlier
    h: Noisy  # [w, R, c]
    w2: RowMatrices  # each [K, N], of which each rank has its columns
    y: Tensor  # [w, R, K], the product

    @property
    def power(self) -> Tensor:
        """Return [w, R, c] or [w, 1, c], the squared length of y's change per unit of h."""
        columns = self.pairs.columns
        power = self.w2.of_rows(
            ("power", columns), lambda w2: by_rank(w2, columns).square().sum(dim=1)
        )
        return power.transpose(0, 1)


def add_noise(sums: Sums, term: Term, numerics: Numerics, layer_spec: LayerSpec) -> None:
    """Add the allowed error of a term to the sums of its tokens."""
    h, y, weight, model = term.h, term.y, term.weight, layer_spec.dtype
    terms, length, power = h.value.shape[2], y.square().sum(dim=2), term.power
    noise = ((h.variance + h.jumps) * power).sum(dim=2) + gathered(numerics, terms) * length
    if numerics.expert == "model":
        noise = noise + _expert_rounding(term, numerics, model).sum(dim=2)
    variance = weight.square() * noise.sum(dim=0)
    if numerics.weighted == "model" and numerics.weight_on == "output":
        weighted = y * weight[:, None]
        variance = variance + rounding_variance(weighted, model).sum(dim=(0, 2))
    flips = weight.square() * (h.doubt.square() * power).sum(dim=(0, 2))
    along = along_itself(h, power, length, _lost(numerics, layer_spec, terms)) * weight.square()
    along[:2] *= weight.square()
    of_pairs = torch.cat([variance[None], flips[None], along])
    of_tokens = term.pairs.by_slot(of_pairs, len(sums.variance), sums.parts.shape[2])
    sums.variance += of_tokens[0]
    sums.flips += of_tokens[1]
    sums.along += of_tokens[2:]
    if numerics.weight_dtype == EITHER:
        error = formats.on_grid(weight, model) - weight
        term.pairs.add_rows(sums.unsure[None], error[:, None] * y.sum(dim=0, keepdim=True))


def _expert_rounding(term: Term, numerics: Numerics, model: str) -> Tensor:
    """Return the mean square [w, R, K] of the error of rounding each expert's output.

    It is a twelfth of a step squared, unless the sums are exact: these have few bits, and may even
    be numbers of the layer's dtype, so that their own error is taken.
    """
    squares = rounding_variance(term.y, model)
    own = (formats.on_grid(term.y, model) - term.y).square()
    for rank, part in enumerate(term.pairs.columns):
        if not part:
            continue  # a rank without columns adds zeros
        is_exact = rounds_nothing(term.h.value[rank], term.w2, numerics, part)
        squares[rank] = torch.where(is_exact, own[rank], squares[rank])
    return squares


def _lost(numerics: Numerics, layer_spec: LayerSpec, terms: int) -> float:
    """Return the relative error of truncated sums, which all lose in the same direction."""
    first = gathered(numerics, layer_spec.expert_hidden)
    return 2 * math.sqrt(first) + math.sqrt(gathered(numerics, terms))


def sum_roundings(
    partial: Tensor, out: Tensor, numerics: Numerics, layer_spec: LayerSpec, has_shared: bool
) -> Tensor:
    """Return the variance [T] of rounding the partial sums and each addition of them.

    partial: [world, T, K]. out: [T, K]. A sum over ranks in float32 is rounded once, at the end;
    the TP ranks' sums are added in the layer's dtype after what was sent is summed.
    """
    model, reduction = layer_spec.dtype, numerics.reduction
    once = rounding_variance(out, model)
    sent = 0 if reduction == "f32" else rounding_variance(partial, model).sum(dim=0)
    variance = once + sent if reduction == "wire" else (once if reduction == "f32" else sent)
    if numerics.combine == "model":
        added = rounding_variance(partial, model).sum(dim=0)
        variance = variance + (layer_spec.slots - 1) * added
    adds = has_shared + _sums_in_model(reduction, layer_spec.layout)
    largest = out.abs().maximum(partial.abs().amax(dim=0))
    return (variance + adds * rounding_variance(largest, model)).sum(dim=1)


def _sums_in_model(reduction: str | None, layout: Layout) -> int:
    """Return how many roundings the additions over ranks make, beyond the last one.

    Of sums that are exact until they are rounded (`wire`), each TP rank has one, and adds it.
    """
    if reduction == "f32":
        return 0
    if reduction == "wire":
        return 2 * (len(layout.same_tokens(0)) - 1)
    return layout.world_size // layout.expert_dp_size - 1


def weight_error(unsure: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared norm [T] of the error of rounded router weights, and its part along out.

    unsure: [T, K], the change of out [T, K] if all router weights were rounded. A member rounds
    them or not, so the error is none or all of it.
    """
    return unsure.square().sum(dim=1), (unsure * out).sum(dim=1)
