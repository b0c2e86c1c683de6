"""Define a row of a family's table: a member, what it needs, and how others can be joined to it.

What a row may say is here; the vocabulary of its needs is in `moe.needs`. Import from `moe.spec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moe.needs import Needs
from moe.numerics import FLOAT32_LOSS, Numerics
from moe.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moe.spec import Scheme

# Kinds of experts backends. Both are called between an all2all backend's `prepare` and `finalize`.
# Modular: gets tokens with their routing. Monolithic: gets tokens with router logits and routes by
# itself, so that nobody else knows the ids.
MODULAR, MONOLITHIC = KINDS = ("modular", "monolithic")
# Dispatch formats, in which an all2all backend passes tokens to the experts. Standard: contiguous
# rows, each with its ids and router weights (`moe.types.Dispatched`). Batched: the rows of each
# expert in a block of its own, and their number (`moe.types.Batches`).
STANDARD, BATCHED = "standard", "batched"
# (produced, taken): pairs that differ. Standard rows are sorted into blocks by the experts' base
# class; blocks are rows with one slot each, of which those that are not in use are padding.
CONVERTED = frozenset({(STANDARD, BATCHED), (BATCHED, STANDARD)})


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """Declare one member of a family: its name, its class, what it needs and where it rounds.

    Numerics that are not stated are assumed, see `moe.assumed_numerics`. Raises ValueError for a
    kind that is not one of KINDS.
    """

    name: str  # as in case ids
    target: str  # "package.module:Class", imported on use
    needs: Needs = field(default_factory=Needs)
    numerics: Numerics = field(default_factory=Numerics)
    # Activation format -> numerics, for formats with which the member rounds differently.
    numerics_of: Mapping[str, Numerics] = field(default_factory=dict)
    deterministic: bool = False  # equal calls on the same ranks give equal bits
    # The bits of a token's output depend on no other token of the call, nor on their number.
    batch_invariant: bool = False
    kind: str = MODULAR  # of an experts backend: one of KINDS
    dispatch_format: str = STANDARD  # of an experts or all2all backend
    # Whether an all2all backend brings each token to every rank whatever its ids, and so can carry
    # router logits in their place to a monolithic backend.
    carries_logits: bool = False
    # Names of Triton kernels, each of which a call with rows for this member must launch: a member
    # that falls back to something else gives the right numbers and tests nothing. Empty: any.
    launches: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"row {self.name!r} is of kind {self.kind!r}; choose from {', '.join(KINDS)}"
            )
        if (self.kind == MONOLITHIC) == (self.needs.routers is None):
            rule = (
                "is monolithic: name the routers that it computes as `routers` of its needs"
                if self.kind == MONOLITHIC
                else "is given its routing: leave `routers` out of its needs, or say monolithic"
            )
            raise ValueError(f"row {self.name!r} {rule}")

    def numerics_for(self, scheme: Scheme, device: str) -> Numerics:
        """Return the stated numerics for this scheme on a device of this torch type.

        `aligned` describes tensor cores. On a CPU, kernels are interpreted and sum in float32.
        """
        declared = self.numerics_of.get(scheme.activations, self.numerics)
        if device != "cpu" or declared.aligned is None:
            return declared
        return replace(declared, accumulation=FLOAT32_LOSS, promoted=None, aligned=None)


def dispatch_refusal(experts: MemberSpec, all2all: MemberSpec) -> Reason | None:
    """Return the reason why these experts cannot take what this all2all backend hands out."""
    if experts.kind == MONOLITHIC and not all2all.carries_logits:
        text = (
            f"{experts.name} routes by itself (kind {MONOLITHIC}), and {all2all.name} does not say "
            "`carries_logits`; choose an all2all backend that brings every token to every rank"
        )
        return Reason(code="logits_not_carried", text=text)
    formats = (all2all.dispatch_format, experts.dispatch_format)
    if formats == (BATCHED, STANDARD) and not experts.needs.padding:
        text = (
            f"{all2all.name} hands out blocks with rows that are not in use, and {experts.name} "
            "does not say that its rows may be padding (`padding` in its needs)"
        )
        return Reason(code="padding_unsupported", text=text)
    if len(set(formats)) == 1 or formats in CONVERTED:
        return None
    text = (
        f"{experts.name} takes the dispatch_format {experts.dispatch_format}, but "
        f"{all2all.name} produces {all2all.dispatch_format}; choose two that name the same"
    )
    return Reason(code="dispatch_format_mismatch", text=text)
