"""Whether the same call gives the same bits again, where every member says that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe import memory
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.case import MoETestConfig
    from harness.scene import Call
    from harness.subject import Subject


def is_claimed(case: MoETestConfig) -> bool:
    """Whether all members of the case that compute or move tokens say so in their rows."""
    return EXPERTS.row(case.experts).deterministic and ALL2ALL.row(case.all2all).deterministic


def complaint(subject: Subject, call: Call) -> str | None:
    """Collective where determinism is claimed: the call again, compared bit for bit."""
    if not is_claimed(subject.case):
        return None
    with memory.poisoned():
        again = subject.layer.forward(call.tokens.x.clone(), call.tokens.logits.clone())
    return difference(call.output.out, again.out)


def difference(first: Tensor, again: Tensor) -> str | None:
    """[T, K] twice. Equal are equal bits: NaN equals the same NaN, and 0 is not -0."""
    if first.shape != again.shape or first.dtype != again.dtype:
        was, now = (f"{list(t.shape)} {t.dtype}" for t in (first, again))
        return f"not deterministic: the output was {was} and is {now} when repeated"
    other = (_bits(first) != _bits(again)).nonzero()
    if len(other) == 0:
        return None
    row, column = (int(i) for i in other[0])
    values = float(first[row, column]), float(again[row, column])
    return (
        f"not deterministic: {len(other)} of {first.numel()} elements differ when the same call is "
        f"repeated, first [{row}, {column}]: {values[0]:.9g}, then {values[1]:.9g}; its members' "
        "rows claim the same bits (`deterministic`)"
    )


def _bits(x: Tensor) -> Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(kinds[x.element_size()])
