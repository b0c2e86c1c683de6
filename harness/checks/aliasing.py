"""Whether a layer leaves alone the outputs that it has given: they are its caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.bits import bits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call


def lost_output(calls: Sequence[Call], latest: Tensor) -> str | None:
    """An output that a later call wrote on. latest: [T, K], of the call after all of these."""
    given = [call.given for call in calls if call.given is not None]
    rule = "which its caller may still hold; give each call an output of its own"
    places = _one_place([*given, latest])
    if places is not None:
        before, later = places
        return f"memory: the output of call {later} lies where that of call {before} does, {rule}"
    for call in calls:
        if call.given is not None and not _same_bits(call.given, call.output.out):
            return (
                f"memory: the output of call {call.number + 1} was changed by a later one, {rule}"
            )
    return None


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bits_of(a), bits_of(b))


def _one_place(outputs: Sequence[Tensor]) -> tuple[int, int] | None:
    """outputs: the earlier call first, all still alive; the first two that share an element."""
    for number, later in enumerate(outputs):
        for before, earlier in enumerate(outputs[:number]):
            if _overlap(earlier, later):
                return before + 1, number + 1
    return None


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether they share an element; parts of one pool may lie between each other."""
    if a.numel() == 0 or b.numel() == 0 or a.device != b.device:
        return False
    (start, end), (other, its_end) = _span(a), _span(b)
    if end <= other or its_end <= start:
        return False
    whole = a.is_contiguous() and b.is_contiguous()
    return whole or bool(torch.isin(_addresses(a), _addresses(b)).any())


def _span(x: Tensor) -> tuple[int, int]:
    """The first byte, and the one after the last."""
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _addresses(x: Tensor) -> Tensor:
    """[elements] int64: the first byte of each."""
    offsets = torch.zeros((), dtype=torch.int64, device=x.device)
    for n, step in zip(x.shape, x.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(n, device=x.device) * step
    return x.data_ptr() + offsets.flatten() * x.element_size()
