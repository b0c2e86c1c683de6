"""List other formulas than the layer's by which an activation may have been computed.

A formula is `f(gate) * u(up)`, perhaps rounded. What is right is the empty text.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from moe.activations import ACTIVATIONS
from moe.reference.formats import on_grid
from moe.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from moe.activations.base import ActivationTruth
    from moe.reference.activation import TrueActivation

NARROW = ("bf16", "fp16")
Function = tuple[str, "Callable[[Tensor], Tensor]"]


def formulas(
    activation: TrueActivation, gate: Tensor, up: Tensor | None, max_parts: int = 2
) -> Iterator[tuple[str, Tensor]]:
    """Yield other formulas in words and their values [R, n], those that differ least first.

    gate, up: [R, n]; up is None if the activation is not gated. max_parts: that differ at once.
    """
    parts = [functions(activation), *([] if up is None else [factors(activation)]), roundings()]
    if up is not None:
        right = parts[0][0][1], parts[1][0][1]
        yield "gate and up have changed places", right[0](up) * right[1](gate)
        pairs = torch.cat([gate, up], dim=1).view(len(gate), -1, 2)
        in_pairs = right[0](pairs[:, :, 0]) * right[1](pairs[:, :, 1])
        yield "gate and up are taken from alternate columns", in_pairs
    for dtype in NARROW:
        value = in_steps(activation, gate, up, dtype)
        if value is not None:
            yield f"the result of each step is rounded to {dtype}", value
    choices = itertools.product(*(range(len(part)) for part in parts))
    for chosen in sorted(choices, key=lambda c: sum(number > 0 for number in c)):
        if not 0 < sum(number > 0 for number in chosen) <= max_parts:
            continue
        named = [part[number] for part, number in zip(parts, chosen, strict=True)]
        value = named[0][1](gate)
        value = value if up is None else value * named[1][1](up)
        yield " and ".join(text for text, _ in named if text), named[-1][1](value)


def in_steps(
    activation: TrueActivation, gate: Tensor, up: Tensor | None, dtype: str
) -> Tensor | None:
    """Return an activation by a sigmoid with each step rounded to a dtype; None for others.

    The steps: alpha times the gate, its sigmoid, that times the gate, up and beta, the product.
    """
    row = next((r for r in ACTIVATIONS if resolve(r.truth) is activation.function), None)
    if row is None or row.function != "swish":
        return None
    limited = gate if activation.limit is None else gate.clamp(max=activation.limit)
    inner = limited if row.alpha == 1 else on_grid(row.alpha * limited, dtype)
    value = on_grid(limited * on_grid(torch.sigmoid(inner), dtype), dtype)
    if up is None:
        return value
    return on_grid(value * on_grid(activation.of_up(up).value, dtype), dtype)


def functions(activation: TrueActivation) -> list[Function]:
    """Return what may be computed of the gate, the right function first."""
    own: Callable[[Tensor], Tensor] = lambda gate: activation.of_gate(gate).value  # noqa: E731
    unlimited: Callable[[Tensor], Tensor] = lambda g: activation.function(g).value  # noqa: E731
    options: list[Function] = [("", own)]
    limit = activation.limit
    options += [
        (f"the function of the gate is that of activation {name}", _limited(_of(truth), limit))
        for name, truth in _other_truths(activation).items()
    ]
    if limit is not None:
        options.append((f"the gate is not clamped at {limit:g}", unlimited))
        low = _limited(lambda gate: unlimited(gate.clamp(min=-limit)), limit)
        options.append((f"the gate is clamped at -{limit:g}, too", low))
    for dtype in NARROW:
        options.append((f"the function of the gate is rounded to {dtype}", _then(own, dtype)))
        options.append((f"the gate is rounded to {dtype}", _before(own, dtype)))
    options += [
        ("the gate is not passed through a function", lambda gate: gate),
        ("the function of the gate is relu", lambda gate: gate.clamp(min=0)),
        ("the function of the gate is sigmoid alone", torch.sigmoid),
        ("the gate is multiplied by 1.702 in the sigmoid", lambda g: g * torch.sigmoid(1.702 * g)),
        ("the function of the gate is tanh", torch.tanh),
        ("the gate is negated", lambda gate: own(-gate)),
        ("the absolute value of the gate is taken", lambda gate: own(gate.abs())),
        ("the function of the gate is applied twice", lambda gate: own(own(gate))),
    ]
    return options


def _other_truths(activation: TrueActivation) -> dict[str, ActivationTruth]:
    """Return the functions of the other activations, by the first name of each."""
    truths: dict[str, ActivationTruth] = {}
    for row in ACTIVATIONS:
        function: ActivationTruth = resolve(row.truth)
        if function is not activation.function and function not in truths.values():
            truths[row.name] = function
    return truths


def _of(truth: ActivationTruth) -> Callable[[Tensor], Tensor]:
    return lambda gate: truth(gate).value


def _limited(
    function: Callable[[Tensor], Tensor], limit: float | None
) -> Callable[[Tensor], Tensor]:
    return function if limit is None else lambda gate: function(gate.clamp(max=limit))


def _then(function: Callable[[Tensor], Tensor], dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda values: on_grid(function(values), dtype)


def _before(function: Callable[[Tensor], Tensor], dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda values: function(on_grid(values, dtype))


def factors(activation: TrueActivation) -> list[Function]:
    """Return what up may be turned into, the right factor first."""
    beta, limit = activation.beta, activation.limit
    own: Callable[[Tensor], Tensor] = lambda up: activation.of_up(up).value  # noqa: E731
    options: list[Function] = [("", own)]
    if limit is not None:
        options.append((f"up is not clamped at +-{limit:g}", lambda up: up + beta))
        options.append((f"up is clamped from above only, at {limit:g}", _clamped(limit, beta)))
    if beta:
        options.append((f"{beta:g} is not added to up", lambda up: own(up) - beta))
        options.append(
            (f"{beta:g} is added to up before the clamp", lambda up: own(up + beta) - beta)
        )
    else:
        options.append(("1 is added to up", lambda up: up + 1))
    options += [(f"up is rounded to {dtype}", _before(own, dtype)) for dtype in NARROW]
    options.append(("up is left out", torch.ones_like))
    options.append(("the absolute value of up is taken", lambda up: own(up).abs()))
    options.append(("up is negated", lambda up: own(-up)))
    options.append(("up is squared", lambda up: own(up).square()))
    options.append(("up is passed through the function of the gate, too", _gated(activation)))
    return options


def _clamped(limit: float, beta: float) -> Callable[[Tensor], Tensor]:
    return lambda up: up.clamp(max=limit) + beta


def _gated(activation: TrueActivation) -> Callable[[Tensor], Tensor]:
    return lambda up: activation.of_gate(up).value


def roundings() -> list[Function]:
    """Return what the product of both may be turned into."""
    return [("", lambda value: value)] + [
        (f"the product is rounded to {dtype}", _rounder(dtype)) for dtype in NARROW
    ]


def _rounder(dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda value: on_grid(value, dtype)
