"""State in which order members are tried, where the table's own order is not the best. Torch-free.

The table of a family is in order of preference for most layers. An entry says that for some weight
formats on some chips other rows come first. It changes an order only: rows are still matched on
their needs, a row that no entry names keeps its place behind the named ones, and a name without a
row is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from moe.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moe.need import Anything
    from moe.spec import MemberSpec, Platform, Scheme


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Put the rows called `first` before the others.

    features: all that the platform must have. grids: of the weights' format. weight_only: whether
    activations stay in the layer's dtype; None: either. reason: why, for people.
    """

    features: frozenset[str]
    grids: frozenset[str] | Anything
    weight_only: bool | None = None
    first: tuple[str, ...]
    reason: str

    def applies(self, scheme: Scheme, platform: Platform) -> bool:
        """Return whether the entry is for this scheme on this platform."""
        is_weight_only = scheme.activations == "model" and scheme.weights != "model"
        return (
            self.features <= platform.features
            and FORMATS[scheme.weights].grid in self.grids
            and self.weight_only in (None, is_weight_only)
        )


_4_BITS = frozenset({"e2m1"})
_FP8 = frozenset({"e4m3", "e4m3fnuz"})
_INTEGERS = frozenset({"int4", "uint4", "int8", "uint8"})

# The first entry that applies counts.
PREFERENCES: tuple[Preference, ...] = (
    Preference(
        features=frozenset({"rocm"}),
        grids=_4_BITS | _FP8,
        first=("aiter", "triton"),
        reason="serving stacks take AITER's kernels first on Instinct, where they are installed",
    ),
    Preference(
        features=frozenset({"cuda", "sm100"}),
        grids=_4_BITS | _FP8,
        first=("flashinfer_trtllm", "flashinfer_cutlass", "deep_gemm", "triton"),
        reason="TensorRT-LLM's kernels are made for B200's matrix units; Triton's come last",
    ),
    Preference(
        features=frozenset({"cuda"}),
        grids=_4_BITS | _INTEGERS,
        weight_only=True,
        first=("triton_kernels", "marlin", "triton"),
        reason="made for weights of few bits: repacked once, and dequantized in registers",
    ),
    Preference(
        features=frozenset({"cuda", "sm90"}),
        grids=_FP8,
        first=("deep_gemm", "triton"),
        reason="DeepGEMM's block-scaled products are made for Hopper",
    ),
)


@cache
def preference(scheme: Scheme, platform: Platform) -> Preference | None:
    """Return the entry for this scheme on this platform; None: the table's own order."""
    return next((entry for entry in PREFERENCES if entry.applies(scheme, platform)), None)


def ordered(
    rows: Iterable[MemberSpec], scheme: Scheme, platform: Platform
) -> tuple[MemberSpec, ...]:
    """Return rows of experts backends in the order in which they are tried."""
    entry = preference(scheme, platform)
    if entry is None:
        return tuple(rows)
    places = {name: place for place, name in enumerate(entry.first)}
    return tuple(sorted(rows, key=lambda row: places.get(row.name, len(places))))
