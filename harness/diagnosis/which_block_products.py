"""Find by which other scales the sums of a product's blocks were multiplied before they were added.

A product of codes is a sum over blocks of its inner dimension, each times a scale of its row and
one of its column. Those of other blocks, or of blocks that are summed already, give other values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import input_rows
from harness.diagnosis.input_readings import other_groups
from harness.diagnosis.other_input_rows import Numbering
from harness.diagnosis.stage_terms import of_product, row_factors
from harness.diagnosis.which_weights import multiplied
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from harness.diagnosis.which_weights import Multiplied

NAME = "which_block_products"
WRONG_ROWS, RIGHT_ROWS = 32, 16  # at most
STEPS = (2, 4, 8)  # blocks that a kernel may sum in one turn of its loop
SIZES = (256, 128, 64, 32, 16)  # of blocks, the largest first
MOST_TERMS = 2**22  # elements of all blocks' products
MOST_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The blocks of an expert's product. rows: [n] of the stage's. products: [n, C, B] of codes.

    x: [n, B] and w: [C, B], the scales of each block. factor: [n, 1], of the whole rows.
    """

    rows: Tensor
    products: Tensor
    x: Tensor
    w: Tensor
    factor: Tensor

    @property
    def scales(self) -> Tensor:
        """Return [n, C, B], by what each block's product is to be multiplied."""
        return self.x[:, None] * self.w

    def total(self, scales: Tensor) -> Tensor:
        """Return [n, C], the sums of the blocks times these scales [n, C, B]."""
        return (self.products * scales).sum(dim=2) * self.factor


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield by which other scales the blocks' products were multiplied."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    both, experts = input_rows(handed, errors.stage), multiplied(handed, errors)
    if both is None or not experts:
        return
    own = Numbering.of(handed, errors).own
    codes, scale = (part[own] for part in both)
    blocks = list(blocks_of(experts, codes, scale, row_factors(handed, errors)))
    yield from which_block_products(errors, blocks)


def blocks_of(
    experts: Sequence[Multiplied], codes: Tensor, scale: Tensor, factor: Tensor
) -> Iterator[Blocks]:
    """Yield the blocks of each expert's product; nothing unless scales are constant in blocks.

    codes, scale: [R, I] of the input. factor: [R, 1].
    """
    inner = codes.shape[1]
    sizes = [size for size in SIZES if size < inner]
    size = next((size for size in sizes if _is_constant(scale, size)), None)
    while size is not None and size >= SIZES[-1]:
        if all(_is_constant(one.codes.scale, size) for one in experts):
            break
        size //= 2
    if size is None or size < SIZES[-1] or -(-inner // size) * len(codes) > MOST_TERMS:
        return
    for one in experts:
        w = one.codes.codes - one.codes.zero
        products = torch.einsum(
            "nbi,cbi->ncb", _in_blocks(codes[one.rows], size), _in_blocks(w, size)
        )
        yield Blocks(
            rows=one.rows,
            products=products,
            x=scale[one.rows][:, ::size],
            w=one.codes.scale[:, ::size],
            factor=factor[one.rows],
        )


def _in_blocks(matrix: Tensor, size: int) -> Tensor:
    """Return [R, C] as [R, blocks, size], with zeros after the last column."""
    missing = -matrix.shape[1] % size
    return torch.nn.functional.pad(matrix, (0, missing)).view(len(matrix), -1, size)


def _is_constant(scale: Tensor, size: int) -> bool:
    """Tell whether scales [R, I] are the same in each block of `size` columns."""
    first = scale[:, ::size].repeat_interleave(size, dim=1)[:, : scale.shape[1]]
    return torch.equal(first, scale)


def which_block_products(errors: StageErrors, experts: Sequence[Blocks]) -> list[NamedCause]:
    """Return at most MOST_NAMED statements."""
    if not experts or not bool(errors.actual.isfinite().all()):
        return []
    products: dict[str, Tensor] = {}  # by text, with what is otherwise
    for one in experts:
        right = one.total(one.scales)
        for text, scales in others(one):
            predicted = products.setdefault(text, errors.expected.clone())
            predicted[one.rows] += one.total(scales) - right
    causes: list[NamedCause] = []
    for text, predicted in products.items():
        fit = errors.fitting(predicted)
        if fit is not None:
            residual, where = fit
            causes.append(
                NamedCause(
                    name=NAME, cause=f"{errors.place} {text}", residual=residual, where=where
                )
            )
    full = [cause for cause in causes if not cause.where] or causes
    return full[:MOST_NAMED]


def others(blocks: Blocks) -> list[tuple[str, Tensor]]:
    """Return other scales [n, C, B] of the blocks in words; always the same ones in order."""
    scales, x, w = blocks.scales, blocks.x, blocks.w
    options = [
        *_not_reset(scales),
        (
            "the sum so far is multiplied by the scales of each later block, too",
            scales.flip(2).cumprod(dim=2).flip(2),
        ),
        ("only the last block's product is multiplied by scales", _of_last(scales)),
        ("blocks' products are multiplied by the weights' scales alone", w.expand_as(scales)),
        (
            "blocks' products are multiplied by the input's scales alone",
            x[:, None].expand_as(scales),
        ),
        ("the input's scales multiply each block's product twice", scales * x[:, None]),
        ("the weights' scales multiply each block's product twice", scales * w),
    ]
    for text, other in other_groups(x):
        options.append(
            (f"the input's scales of each block are those of {text}", other[:, None] * w)
        )
    for text, other in other_groups(w):
        options.append(
            (f"the weights' scales of each block are those of {text}", x[:, None] * other)
        )
    for step, side in ((1, "before"), (-1, "after")):
        both = f"both scales of each block are those of the block {side} it, in a circle"
        options.append((both, scales.roll(step, 2)))
    return options


def _not_reset(scales: Tensor) -> list[tuple[str, Tensor]]:
    """Return the scales if sums go on from block to block, in all of a row or within a step.

    A step that is not full goes on with blocks of zeros, whose scales are 1, or 0.
    """
    blocks, text = scales.shape[2], "each block's sum is added again with each later one"
    why = "it is not set to zero between blocks that have scales"
    options = [(f"{text}: {why}", _sums_from(scales))]
    for step, filler in itertools.product(STEPS, (0.0, 1.0)):
        missing = -blocks % step
        if (step >= blocks and not filler) or (filler and not missing):
            continue  # as in all of a row, or as with zeros
        padded = torch.nn.functional.pad(scales, (0, missing), value=filler)
        sums = _sums_from(torch.unflatten(padded, 2, (-1, step))).flatten(2)[:, :, :blocks]
        options.append((f"{text} of its step of {step}: {why}", sums))
    return options


def _sums_from(scales: Tensor) -> Tensor:
    """Return the sums of each of these [..., B] and all after it."""
    return scales.flip(-1).cumsum(dim=-1).flip(-1)


def _of_last(scales: Tensor) -> Tensor:
    """Return the scales, 1 in all blocks but the last."""
    last = torch.ones_like(scales)
    last[:, :, -1] = scales[:, :, -1]
    return last
