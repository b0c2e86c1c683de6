"""Define `Need`, one condition of a row, and what a condition is made of. Torch-free."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moe.reason import Reason
    from moe.spec import LayerSpec

F = TypeVar("F", bound=Callable[..., object])
_READS = "reads"  # the attribute that holds a function's declaration


def reads(*fields: str) -> Callable[[F], F]:
    """Declare the fields of the layer that a need, a probe or an estimate reads.

    A property such as `shard_sizes` is declared by the fields that it is computed from.
    """

    def declared(function: F) -> F:
        function.__dict__[_READS] = frozenset(fields)
        return function

    return declared


def fields_read(function: Callable[..., object]) -> frozenset[str] | None:
    """Return the fields that `reads` declares for a function; None (any field) without it."""
    declared: frozenset[str] | None = getattr(function, _READS, None)
    return declared


@dataclass(frozen=True, kw_only=True)
class Need:
    """Check one condition of a row. reads: fields of the layer; None: any of them."""

    reads: frozenset[str] | None
    refuse: Callable[[LayerSpec], Reason | None]

    @classmethod
    def of(cls, function: Callable[..., Reason | None], *bound: Any) -> Need:
        """Return the need that calls `function(*bound, layer_spec)` and reads what it declares."""
        return cls(reads=fields_read(function), refuse=partial(function, *bound))


@dataclass(frozen=True)
class Anything:
    """Stand in for a set of values; contain every value, including those of other packages."""

    def __contains__(self, value: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "ANY"


ANY = Anything()
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "f32": 4}  # dtype of a layer -> bytes per element


@dataclass(frozen=True, kw_only=True)
class FormatsOn:
    """State pairs (weights, activations) that a member supports where a platform has `features`."""

    features: frozenset[str]
    formats: frozenset[tuple[str, str]]


def first_refusal(needs: Iterable[Need], layer_spec: LayerSpec) -> Reason | None:
    """Return the reason of the first need that does not hold, or None."""
    for need in needs:
        reason = need.refuse(layer_spec)
        if reason is not None:
            return reason
    return None


def resolve(target: str):  # type: ignore[no-untyped-def]  # an object of any type
    """Import `"package.module:Name"` and return the object."""
    module, _, name = target.partition(":")
    loaded = sys.modules.get(module) or importlib.import_module(module)
    return getattr(loaded, name)
