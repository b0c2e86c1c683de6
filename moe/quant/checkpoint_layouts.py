"""Store four-bit weights as GPTQ's and AWQ's checkpoints do, and load them.

Both keep a matrix [O, I] transposed, eight codes in an int32, in its bits from low to high:

    GPTQ   qweight [I/8, O]: the codes of eight inputs, in order
    AWQ    qweight [I, O/8]: the codes of eight outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7
    both   scales [I/group, O], and qzeros [I/group, O/8]: zero points of eight outputs, in the
           order of AWQ, or in order and one less than they are (GPTQ)

Symmetric codes are stored plus 8, with 8 as their zero point. All have experts in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError
from moe.formats.nibbles import pack, unpack
from moe.formats.quant_tensor import QuantTensor

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

_SHIFTS = tuple(range(0, 32, 4))
IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """Hold the tensors of a checkpoint: see the legend above. scales: float32."""

    qweight: Tensor
    scales: Tensor
    qzeros: Tensor


@dataclass(frozen=True, kw_only=True)
class CheckpointLayout:
    """Describe where a code is in the words of a checkpoint.

    order: which of eight codes is in the bits 0 to 3, 4 to 7, ... packs_inputs: whether a word has
    eight inputs of an output, or eight outputs of an input. less: subtracted from zero points.
    """

    order: tuple[int, ...]
    packs_inputs: bool
    less: int = 0

    def store(self, w: QuantTensor) -> StoredWeights:
        """Return the checkpoint of w, [e, O, I]. Raises MoEError for sizes that are no words."""
        for axis, size in zip(("outputs", "inputs"), w.shape[-2:], strict=True):
            if size % 8:
                raise MoEError(
                    f"{size} {axis} of a matrix do not fill words of 8 codes; pad them to "
                    "a multiple of 8"
                )
        assert w.scale is not None
        nibbles = unpack(w.codes).mT
        if self.packs_inputs:
            qweight = words(nibbles.mT, self.order).mT
        else:
            qweight = words(nibbles, self.order)
        zeros = torch.full_like(w.scale, 8) if w.zero_point is None else w.zero_point
        qzeros = words(((zeros.int() - self.less) & 15).mT, self.order)
        return StoredWeights(qweight=qweight, scales=w.scale.mT.contiguous(), qzeros=qzeros)

    def load(self, stored: StoredWeights, fmt: Format) -> QuantTensor:
        """Return the weights of a checkpoint, [e, O, I], in a format of four-bit integers."""
        if self.packs_inputs:
            nibbles = codes_of(stored.qweight.mT, self.order)
        else:
            nibbles = codes_of(stored.qweight, self.order).mT
        zero = None
        if fmt.zero_point:
            zero = ((codes_of(stored.qzeros, self.order) + self.less) & 15).mT
            zero = zero.to(torch.uint8).contiguous()
        scale = stored.scales.mT.contiguous()
        return QuantTensor(codes=pack(nibbles), scale=scale, zero_point=zero, format=fmt)


GPTQ = CheckpointLayout(order=IN_ORDER, packs_inputs=True, less=1)
AWQ = CheckpointLayout(order=AWQ_ORDER, packs_inputs=False)


def words(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return int32 [..., C / 8] of codes 0 to 15, [..., C], in this order from the low bits on."""
    eights = codes.to(torch.int64).reshape(*codes.shape[:-1], codes.shape[-1] // 8, 8)
    total = sum(eights[..., place] << shift for place, shift in zip(order, _SHIFTS, strict=True))
    assert isinstance(total, torch.Tensor)
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)


def codes_of(packed: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return int32 codes [..., C] of the words [..., C / 8] that `words` makes."""
    fields = torch.stack([(packed >> shift) & 15 for shift in _SHIFTS], dim=-1)
    places = torch.tensor([order.index(i) for i in range(8)], device=packed.device)
    return fields[..., places].flatten(-2)
