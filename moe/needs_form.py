"""Check the form of what a row declares, when it is declared. Torch-free.

A string in place of a set would otherwise match by its letters, and a name in place of a pair would
raise in the middle of a plan.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from moe.need import DTYPE_BYTES, Anything, resolve

if TYPE_CHECKING:
    from moe.needs import Needs

# Fields of Needs that hold names -> one value, for the message.
_NAMES = {
    "features": "cuda",
    "dtypes": "bf16",
    "activation_functions": "silu",
    "layer_features": "expert_bias",
    "routers": "softmax",
    "routing_options": "bias",
}
_PAIR = ("fp8_block", "fp8_group")


def check_needs(needs: Needs) -> None:
    """Raise ValueError for a field of another type, an unknown dtype, or formats not in pairs."""
    for field, name in _NAMES.items():
        if getattr(needs, field) is not None:  # `routers`
            check_names(f"`{field}` of needs", getattr(needs, field), name)
    unknown = () if isinstance(needs.dtypes, Anything) else sorted(needs.dtypes - set(DTYPE_BYTES))
    if unknown:
        known = ", ".join(DTYPE_BYTES)
        raise ValueError(f"`dtypes` of needs names {unknown[0]!r}; choose from {known}")
    for formats in (needs.formats, *(on.formats for on in needs.formats_on)):
        _check_set("`formats` of needs", formats, _PAIR, "pairs (weights, activations)")


def check_names(owner: str, value: object, name: str, *, or_any: bool = True) -> None:
    """Raise ValueError for a value that is not a frozenset of names, or ANY where that will do.

    owner: which field it is. name: one name, for the message.
    """
    _check_set(owner, value, name, "names", or_any=or_any)


def _check_set(owner: str, value: object, like: object, kind: str, *, or_any: bool = True) -> None:
    """Raise ValueError for a value that is not a frozenset of values such as `like`."""
    if or_any and isinstance(value, Anything):
        return
    rule = f"it must be a frozenset of {kind}, such as {frozenset({like})!r}"
    rule += ", or ANY" if or_any else ""
    if not isinstance(value, frozenset):
        raise ValueError(f"{owner} is the {type(value).__name__} {value!r}; {rule}")
    odd = sorted((v for v in value if not _is_like(v, like)), key=repr)
    if odd:
        raise ValueError(f"{owner} contains {odd[0]!r}; {rule}")


def _is_like(value: object, like: object) -> bool:
    """Return whether both are names, or both are pairs."""
    if isinstance(value, tuple) and isinstance(like, tuple):
        return len(value) == len(like)
    return type(value) is type(like)


def unknown_format(pairs: frozenset[tuple[str, str]]) -> str:
    """Return a remark on the first weight format in `pairs` that no row has, or ""."""
    formats = resolve("moe.formats:FORMATS")  # imported on use: its rows are built from Needs
    names = sorted({weights for weights, _ in pairs})
    unknown = [name for name in names if ":" not in name and name not in formats.rows]
    if not unknown:
        return ""
    close = difflib.get_close_matches(unknown[0], formats.rows, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ""
    return f" (no format is called {unknown[0]!r}{hint})"
