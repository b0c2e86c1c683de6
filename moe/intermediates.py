"""Handing out intermediates to whoever asks: off, and free, unless somebody records.

Inside `recording()` each stage that calls `keep` leaves a copy of what it made, so that a member
may reuse its buffers. Stages, in order (G gathered
tokens, in any order of ranks or rows: which token a row holds is seen from what is in it;
R = G * k flat (token, slot) rows; rows of slots without an expert here are undefined):

    router [T, k] weights as chosen
    ids [G, k] local ids, -1 = none     weights [G, k]         input, input_scale: Activations
    gemm1 [R, 2n] gate, up              activation [R, n]      second, second_scale: Activations
    gemm2 [R, K]                        combine [G, K]         finalize [T, K] over the gather group
    shared [T, K] this rank's share     out [T, K] over the TP group, too

Whatever is not kept, or gathered otherwise (one row a slot, say), is judged by the output alone;
codes without their scale, too, unless it is a calibrated one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

GIVEN = ("router", "ids", "weights", "input", "input_scale")  # to the experts, by the layer
STAGES = (
    *(*GIVEN, "gemm1", "activation", "second", "second_scale", "gemm2"),
    *("combine", "finalize", "shared", "out"),
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """value: the stage's tensor. rows: value[i] belongs to flat row rows[i]; None: in order."""

    value: Tensor
    rows: Tensor | None = None


_kept: dict[str, Kept] | None = None


@contextmanager
def recording() -> Iterator[dict[str, Kept]]:
    """Stages kept inside, by name. Not for two threads at once."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield _kept
    finally:
        _kept = before


def keep(
    stage: str, value: Tensor | None, rows: Tensor | None = None, *, copy: bool = True
) -> None:
    """Leave a stage's value, if somebody records; the last one of a name wins.

    But of what experts are given the first one does: the layer's, whatever they say of it.
    copy: False saves the copy of a value that was made for this call and is never written again.
    """
    if _kept is not None and value is not None:
        assert stage in STAGES, f"no stage is called {stage!r}"
        if stage in GIVEN and stage in _kept:
            return
        if copy:
            value, rows = value.clone(), None if rows is None else rows.clone()
        _kept[stage] = Kept(value=value, rows=rows)
