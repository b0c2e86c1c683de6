"""Check that later calls of a layer do not overwrite earlier outputs, which the caller owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.bits import bits_of
from harness.fixtures.undefined_rows import judged_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call


def aliased_output(calls: Sequence[Call], latest: Tensor) -> str | None:
    """Return a message about an output that a later call overwrote, or None.

    latest: [T, K], the output of the call after all of `calls`.
    """
    outputs = [call.returned for call in calls if call.returned is not None]
    reason = "which its caller may still use; return a new output from each call"
    overlapping = _first_overlap([*outputs, latest])
    if overlapping is not None:
        earlier_call, later_call = overlapping
        return (
            f"memory: the output of call {later_call} shares memory with that of call "
            f"{earlier_call}, {reason}"
        )
    for call in calls:
        if call.returned is not None and not _same_bits(
            judged_output(call.tokens, call.returned), call.output.out
        ):
            return (
                f"memory: the output of call {call.number + 1} was changed by a later one, {reason}"
            )
    return None


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bits_of(a), bits_of(b))


def _first_overlap(outputs: Sequence[Tensor]) -> tuple[int, int] | None:
    """Return the numbers (from 1) of the first two calls whose outputs share memory, or None.

    outputs: in the order of the calls, all still alive.
    """
    for later_index, later in enumerate(outputs):
        for earlier_index, earlier in enumerate(outputs[:later_index]):
            if _overlap(earlier, later):
                return earlier_index + 1, later_index + 1
    return None


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors share an element; slices of one pool may interleave."""
    if a.numel() == 0 or b.numel() == 0 or a.device != b.device:
        return False
    (start, end), (other_start, other_end) = _span(a), _span(b)
    if end <= other_start or other_end <= start:
        return False
    both_contiguous = a.is_contiguous() and b.is_contiguous()
    return both_contiguous or bool(torch.isin(_addresses(a), _addresses(b)).any())


def _span(x: Tensor) -> tuple[int, int]:
    """Return the address of the first byte and the one past the last."""
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _addresses(x: Tensor) -> Tensor:
    """Return [elements] int64, the address of each element."""
    offsets = torch.zeros((), dtype=torch.int64, device=x.device)
    for n, step in zip(x.shape, x.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(n, device=x.device) * step
    return x.data_ptr() + offsets.flatten() * x.element_size()
