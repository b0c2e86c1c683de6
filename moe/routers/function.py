"""Use a plain function as a router: `router:pkg.mod:function`. Torch-free.

The function is called as serving stacks call a custom routing function, `function(hidden_states,
logits, top_k, renormalize)`, and returns (weights, ids), both [T, k]. hidden_states is None: a
router of this project gets logits alone. What it computes is known to nobody, so its choice and its
weights are checked for their form only, and the experts are judged on them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe.errors import MoEError
from moe.registry import Registry
from moe.routers.base import RouterSpec
from moe.routing_method import LOGITS_DTYPE
from moe.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import Routing


@dataclass(frozen=True)
class FunctionRouter:
    """Call a function as a router."""

    function: Callable[..., tuple[Tensor, Tensor]]

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        """Return what the function returns, with ids in int32 and weights in float32.

        Raises MoEError for anything but a pair of tensors, weights first.
        """
        types: Any = resolve("moe.types:Routing")
        int32, float32 = (resolve(f"torch:{name}") for name in ("int32", "float32"))
        weights, ids = _pair(self.function(None, logits, top_k, renormalize), self.function)
        routing: Routing = types(topk_ids=ids.to(int32), topk_weights=weights.to(float32))
        return routing


def _pair(returned: Any, function: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Return (weights, ids). Raises MoEError for anything else than tensors of these kinds."""
    rule = "it must return (weights, ids), both [T, k]: floating point, and integers"
    kinds = [str(getattr(value, "dtype", type(value).__name__)) for value in _items(returned)]
    if len(kinds) != 2 or "float" not in kinds[0] or "int" not in kinds[1]:
        shown = ", ".join(kinds) or type(returned).__name__
        raise MoEError(f"router function {function.__name__} returned ({shown}); {rule}")
    weights, ids = returned
    return weights, ids


def _items(returned: Any) -> tuple[Any, ...]:
    return tuple(returned) if isinstance(returned, (tuple, list)) else ()


class RouterRegistry(Registry[RouterSpec]):
    """Look up routers; a plain function needs no row."""

    def row(self, name: str) -> RouterSpec:
        """Return `Registry.row`, or the row of a function without one."""
        if _function(name) is None:
            return super().row(name)
        return RouterSpec(
            name=name,
            target=name,
            truth="moe.routers.softmax.truth:SoftmaxTruth",  # only stands in, see `is_judged`
            sums_to_one=False,
            is_judged=False,
            takes=frozenset({LOGITS_DTYPE}),
        )

    def load(self, name: str) -> Any:
        """Return the class of a row, or what makes a router of a function."""
        function = _function(name)
        if function is None:
            return super().load(name)
        # A layer reports the class that routes: it has the function's name.
        named = type(function.__name__, (FunctionRouter,), {})
        return lambda: named(function)


def _function(name: str) -> Callable[..., Any] | None:
    """Return the function of `"package.module:function"` that has no row; None for other names."""
    if ":" not in name:
        return None
    try:
        value = resolve(name)
    except Exception:  # another package's import can raise anything; `row` says it
        return None
    return value if inspect.isfunction(value) and not hasattr(value, "row") else None
