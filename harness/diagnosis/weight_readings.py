"""List other ways to round, store and read a matrix: its codes, scales and zero points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.diagnosis import scale_readings
from harness.diagnosis.weight_codes import Codes, changed
from moe.reference.formats import on_grid, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.weight_codes import Reading

AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
ORDERS = {  # within as many neighbours
    "the two of each pair exchanged": (1, 0),
    "each eight in AWQ's order": AWQ,
    "each eight read in AWQ's order": tuple(AWQ.index(i) for i in range(8)),
    "each eight in reverse order": tuple(range(7, -1, -1)),
    "each four in reverse order": (3, 2, 1, 0),
    "the pairs of each four exchanged": (2, 3, 0, 1),
    "the halves of each eight exchanged": (4, 5, 6, 7, 0, 1, 2, 3),
    "the halves of each sixteen interleaved": tuple(i // 2 + 8 * (i % 2) for i in range(16)),
}


# Other rules for e8m0 scales: the exponent, from the largest value of each group and the top code.
POWERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "the next power of two above": lambda amax, top: (amax / top).log2().ceil(),
    "the next power of two below": lambda amax, top: (amax / top).log2().floor(),
    "the nearest power of two": lambda amax, top: (amax / top).log2().round(),
    "the largest value's power of two over that of the top code": (
        lambda amax, top: amax.log2().floor() - math.floor(math.log2(top))
    ),
}


def readings(group: int | None) -> Iterator[Reading]:
    """Yield what is done otherwise, as the end of "the weights ...", and the codes it gives.

    A function returns None for a matrix to which it does not apply. group: columns that share a
    scale, if they are fewer than all.
    """
    yield from _roundings()
    for axis, name in ((1, "inputs"), (0, "outputs")):
        for text, order in ORDERS.items():
            moved = _permuted("codes", axis, order)
            yield f"have the codes of the {name} permuted, {text}, but not their scales", moved
    for step in (1, -1):
        side = "before" if step > 0 else "after"
        yield f"have the code of the input {side} each", _rolled("codes", 1, step)
        yield f"have the code of the output {side} each", _rolled("codes", 0, step)
        for what in ("scale", "zero"):
            noun = "scale" if what == "scale" else "zero point"
            yield f"have the {noun} of the output {side} each", _rolled(what, 0, step)
            if group is not None:
                text = f"have the {noun} of the group of inputs {side} each"
                yield text, _rolled(what, 1, step * group)
    for amount, place in ((1.0, "high"), (-1.0, "low")):
        yield f"have codes that are one too {place}", _with_integers("codes", amount)
        yield f"have zero points that are one too {place}", _with_integers("zero", amount)
    for what, noun in (("scale", "scales"), ("zero", "zero points")):
        yield f"have the {noun} of the outputs in reverse order", _flipped(what, 0)
        yield f"have the {noun} of the other half of the outputs", _half_exchanged(what)
        if group is not None:
            yield f"have the {noun} of the groups of inputs in reverse order", _flipped(what, 1)
            yield f"have the {noun} of the first group of inputs only", _of_first(what)
        yield f"have the {noun} of the first output only", _of_first_output(what)
    if group is not None:
        yield from _of_groups(group)
    yield from scale_readings.readings(group)


def _of_groups(group: int) -> Iterator[Reading]:
    """Yield other scales of groups: by another rule, and of other groups."""
    for text, exponent in POWERS.items():
        yield f"have scales that are {text}", _by_powers(exponent, group)
    for text, rule in rules().items():
        end = "also where their codes were made"
        yield f"have zero points that are {text}, {end}", _of_other_zeros(rule, group)
    for what, noun in (("scale", "scales"), ("zero", "zero points")):
        for text, order in ORDERS.items():
            read = _permuted_groups(what, group, order)
            yield f"have the {noun} of the groups of inputs permuted, {text}", read
    for made, end in ((False, ""), (True, ", also where their codes were made")):
        tiled = "have, in column c, the scale of the group c % groups"
        yield f"{tiled}{end}", _of_other_columns(_tiled, group, made=made)
    for step, side in ((1, "before"), (-1, "after")):
        text = f"have the scale of the group of inputs {side} each, also where codes were made"
        yield text, _of_other_columns(_shifted_groups(step), group, made=True)


def rules() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return other rules by which numbers of steps may be rounded than to the nearest even one."""
    return {
        "rounded toward zero": torch.trunc,
        "rounded down": torch.floor,
        "rounded up": torch.ceil,
        "rounded half away from zero": lambda x: (x.abs() + 0.5).floor() * x.sign(),
        "rounded half toward zero": lambda x: (x.abs() - 0.5).ceil() * x.sign(),
        "rounded half up": lambda x: (x + 0.5).floor(),
        "rounded half down": lambda x: (x - 0.5).ceil(),
        "cut off after a half was added": lambda x: (x + 0.5).trunc(),
    }


def _roundings() -> Iterator[Reading]:
    def reading(rule: Callable[[Tensor], Tensor]) -> Callable[[Codes], Codes | None]:
        def read(codes: Codes) -> Codes | None:
            if codes.fmt is None:
                return None
            clamped = codes.ratio.clamp(codes.fmt.lowest, codes.fmt.top)
            step = torch.ones_like(clamped)
            if not (codes.fmt.zero_point or codes.fmt.is_integer):
                step = step_of(clamped, codes.fmt)
            return changed(codes, "codes", rule(clamped / step) * step)

        return read

    for text, rule in rules().items():
        yield f"have codes that are {text}", reading(rule)


def _by_powers(
    exponent: Callable[[Tensor, float], Tensor], group: int
) -> Callable[[Codes], Codes | None]:
    """Quantize again with a power of two for each group, if that is what scales are."""

    def read(codes: Codes) -> Codes | None:
        fmt = codes.fmt
        if fmt is None or fmt.scale_dtype != "e8m0":
            return None
        w = (codes.ratio * codes.scale).reshape(len(codes.scale), -1, group)
        amax = w.abs().amax(dim=2, keepdim=True)
        scale = torch.where(amax > 0, 2.0 ** exponent(amax, fmt.top), 1.0).expand_as(w)
        ratio, scale = (w / scale).flatten(1), scale.flatten(1)
        if torch.equal(scale, codes.scale):
            return None
        rounded = on_grid(ratio.clamp(fmt.lowest, fmt.top), fmt)
        return Codes(ratio=ratio, codes=rounded, scale=scale, zero=codes.zero, fmt=fmt)

    return read


def _of_other_zeros(
    rule: Callable[[Tensor], Tensor], group: int
) -> Callable[[Codes], Codes | None]:
    """Quantize again with zero points that are rounded by another rule from the lowest values."""

    def read(codes: Codes) -> Codes | None:
        fmt, count = codes.fmt, codes.scale.shape[1]
        if fmt is None or not fmt.zero_point or count % group:
            return None
        lowest = (codes.ratio - codes.zero).view(len(codes.zero), -1, group).amin(dim=2)
        zero = rule((-lowest).clamp(0, fmt.top)).repeat_interleave(group, dim=1)
        ratio = codes.ratio - codes.zero + zero
        other = ratio.clamp(fmt.lowest, fmt.top).round()
        return Codes(ratio=ratio, codes=other, scale=codes.scale, zero=zero, fmt=fmt)

    return read


def _permuted_groups(
    what: str, group: int, order: tuple[int, ...]
) -> Callable[[Codes], Codes | None]:
    """Exchange the scales or zero points of whole groups of inputs."""

    def read(codes: Codes) -> Codes | None:
        part: Tensor = getattr(codes, what)
        count = part.shape[1]
        if count % (group * len(order)):
            return None
        places = torch.arange(count, device=part.device).view(-1, len(order), group)
        at = places[:, torch.tensor(order, device=part.device)].flatten()
        return changed(codes, what, part[:, at])

    return read


def _tiled(count: int, group: int) -> Tensor:
    """Return [I], for each column one that has the scale of the group c % groups."""
    return torch.arange(count) % -(-count // group) * group


def _shifted_groups(step: int) -> Callable[[int, int], Tensor]:
    return lambda count, group: (torch.arange(count) - step * group) % count


def _of_other_columns(
    places: Callable[[int, int], Tensor], group: int, *, made: bool
) -> Callable[[Codes], Codes | None]:
    """Read codes with the scales of other columns; made: the codes are made with these, too."""

    def read(codes: Codes) -> Codes | None:
        fmt, count = codes.fmt, codes.scale.shape[1]
        if fmt is None or fmt.zero_point or count <= group or count % group:
            return None
        scale = codes.scale[:, places(count, group).to(codes.scale.device)]
        if torch.equal(scale, codes.scale):
            return None
        ratio = codes.ratio * codes.scale / scale if made else codes.ratio
        rounded = on_grid(ratio.clamp(fmt.lowest, fmt.top), fmt) if made else codes.codes
        return Codes(ratio=ratio, codes=rounded, scale=scale, zero=codes.zero, fmt=fmt)

    return read


def _permuted(what: str, axis: int, order: tuple[int, ...]) -> Callable[[Codes], Codes | None]:
    def read(codes: Codes) -> Codes | None:
        part: Tensor = getattr(codes, what)
        count = part.shape[axis]
        if count % len(order):
            return None
        places = torch.arange(count, device=part.device).view(-1, len(order))
        at = places[:, torch.tensor(order, device=part.device)].flatten()
        return changed(codes, what, part.index_select(axis, at))

    return read


def _with_integers(what: str, amount: float) -> Callable[[Codes], Codes | None]:
    """Add an amount to codes of integers, or to zero points of formats that have them."""

    def read(codes: Codes) -> Codes | None:
        fmt = codes.fmt
        if fmt is None or not (fmt.zero_point or (what == "codes" and fmt.is_integer)):
            return None
        return changed(codes, what, getattr(codes, what) + amount)

    return read


def _rolled(what: str, axis: int, step: int) -> Callable[[Codes], Codes | None]:
    return lambda codes: changed(codes, what, getattr(codes, what).roll(step, axis))


def _flipped(what: str, axis: int) -> Callable[[Codes], Codes | None]:
    return lambda codes: changed(codes, what, getattr(codes, what).flip(axis))


def _half_exchanged(what: str) -> Callable[[Codes], Codes | None]:
    def read(codes: Codes) -> Codes | None:
        part: Tensor = getattr(codes, what)
        return changed(codes, what, part.roll(len(part) // 2, 0))

    return read


def _of_first(what: str) -> Callable[[Codes], Codes | None]:
    def read(codes: Codes) -> Codes | None:
        part: Tensor = getattr(codes, what)
        return changed(codes, what, part[:, :1].expand_as(part))

    return read


def _of_first_output(what: str) -> Callable[[Codes], Codes | None]:
    def read(codes: Codes) -> Codes | None:
        part: Tensor = getattr(codes, what)
        return changed(codes, what, part[:1].expand_as(part))

    return read
