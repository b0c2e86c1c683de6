"""Whether an output is its caller's own, and the same bits again where every member says so.

The case is called once more with the first call's tokens: a buffer that a member keeps for each
size is met again only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.compare import judge
from harness.result import Verdict
from moe import memory
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.case import MoETestConfig
    from harness.scene import Call
    from harness.subject import Subject


def is_claimed(case: MoETestConfig) -> bool:
    """Whether all members of the case that compute or move tokens say so in their rows."""
    return EXPERTS.row(case.experts).deterministic and ALL2ALL.row(case.all2all).deterministic


def complaints(subject: Subject, calls: Sequence[Call]) -> Iterator[str]:
    """Collective: the first call again.

    Its bits are compared where determinism is claimed; elsewhere it must be as right as it was.
    """
    first = calls[0]
    with memory.poisoned():
        again = subject.layer.forward(first.tokens.x.clone(), first.tokens.logits.clone()).out
    given = [call.given for call in calls if call.given is not None]
    shared = _shared([*given, again])
    if shared is not None:
        yield shared
    claimed = is_claimed(subject.case)
    found = difference(first.output.out, again) if claimed else _no_longer_right(first, again)
    if found is not None:
        yield found


def _no_longer_right(first: Call, again: Tensor) -> str | None:
    """What only a later call shows; where the first was wrong itself, that is told elsewhere."""
    if not bool(first.answer.out.isfinite().all()):
        return None
    before, now = (judge(out, first.answer) for out in (first.output.out, again))
    if before.verdict is Verdict.FAILED or now.verdict is not Verdict.FAILED:
        return None
    return f"right at first, wrong when the same call is repeated: {now.messages[0]}"


def _shared(outputs: Sequence[Tensor]) -> str | None:
    """outputs: [T, K] as the layer gave them, the earlier call first; all of them still alive."""
    for number, later in enumerate(outputs):
        for before, earlier in enumerate(outputs[:number]):
            if _overlap(earlier, later):
                return (
                    f"memory: the output of call {number + 1} lies where that of call {before + 1} "
                    "does, which its caller may still hold; give each call an output of its own"
                )
    return None


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the bytes from the first to the last element of one meet those of the other."""
    if a.numel() == 0 or b.numel() == 0 or a.device != b.device:
        return False
    (start, end), (other, its_end) = _span(a), _span(b)
    return start < its_end and other < end


def _span(x: Tensor) -> tuple[int, int]:
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


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
