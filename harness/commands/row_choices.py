"""List what a row takes: layouts, methods, functions and sizes to draw cases from. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.matrix.case import AXES, LAYOUT_AXES, MoETestConfig
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.layer_needs import layout_refusal
from moe.layers.layer_row import OwnLayerSpec, layout_words
from moe.layout import Layout
from moe.need import Anything
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moe.spec import MemberSpec

WORLDS = (1, 2, 3, 4, 8)
SIZES = AXES["n"].simpler_values


def _splits(row: MemberSpec, layout: Layout) -> bool:
    """Return whether a layout has no spread experts that are split, or the row takes them."""
    return layout.moe_tp_size == 1 or isinstance(row, OwnLayerSpec) or row.needs.moe_tp


def takes(row: MemberSpec, *words: str) -> bool:
    """Return whether a layer lists all of these words of TAKES; members take all."""
    return not isinstance(row, OwnLayerSpec) or set(words) <= row.takes


def routers(row: MemberSpec) -> list[str]:
    """Return the routers that a whole layer has, the default first; all for experts."""
    if isinstance(row, OwnLayerSpec) and not isinstance(row.routers, Anything):
        names = sorted(row.routers)
    else:
        names = list(ROUTERS.rows)
    return sorted(names, key=lambda name: name != MoETestConfig.router)


def weighings(row: OwnLayerSpec) -> tuple[bool, ...]:
    """Return whether router weights multiply the input of a whole layer's experts: what to draw."""
    return (False, True) if "weights_input" in row.takes else (False,)


def layouts_of(
    max_world: int, row: MemberSpec, fixed: Mapping[str, Any] | None = None
) -> list[Layout]:
    """Return every layout of every world, small worlds first and about as often as large ones.

    fixed: values that a layout must have, by field name; names of other axes do not matter. If no
    such layout is among the usual ones, return the simplest one.
    """
    layout = {name: value for name, value in (fixed or {}).items() if name in LAYOUT_AXES}
    usual = [x for x in _usual_layouts(max_world, row) if layout.items() <= vars(x).items()]
    return usual or [Layout(**{"dp_size": 1, "tp_size": 1, **layout})]


def _usual_layouts(max_world: int, row: MemberSpec) -> list[Layout]:
    worlds = [_layouts_in(world) for world in WORLDS if world <= max_world]
    layouts = [
        [x for x in of_world if takes(row, *layout_words(x)) and _splits(row, x)]
        for of_world in worlds
    ]
    largest = max(map(len, layouts))
    return [
        layout
        for of_world in layouts
        for layout in of_world
        for _ in range(largest // max(1, len(of_world)))
    ]


def _layouts_in(world: int) -> list[Layout]:
    """Return layouts without context ranks, split experts and parts that each have all experts,
    then one more of each with these.
    """
    layouts = []
    for tp in _divisors(world):
        plain = Layout(dp_size=world // tp, tp_size=tp)
        layouts.append(plain)
        if world > 1:
            layouts.append(replace(plain, use_ep=True))
        if tp > 1:
            layouts.append(replace(plain, use_ep=True, sequence_parallel=True))
    split = [
        replace(x, moe_tp_size=size) for x in layouts for size in _divisors(world)[1:-1] if x.use_ep
    ]
    in_context = [
        replace(x, dp_size=x.dp_size // size, pcp_size=size)
        for x in (*layouts, *split)
        for size in _divisors(x.dp_size)[1:2]
    ]
    in_parts = [
        replace(x, expert_dp_size=size)
        for x in (*layouts, *split, *in_context)
        for size in _divisors(x.dp_size)[1:2]
        if x.use_ep
    ]
    possible = [x for x in in_parts if layout_refusal(x) is None]
    return [*layouts, *split, *in_context, *possible]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def quants(row: MemberSpec) -> list[str]:
    """Return the quantization methods whose pair of formats the row names."""
    formats = row.needs.formats
    return [m.name for m in QUANT if (m.scheme.weights, m.scheme.activations) in formats]


def activations(row: MemberSpec) -> list[str]:
    """Return the functions that the backend computes, the default first and twice."""
    default = MoETestConfig.activation
    supported = row.needs.activation_functions
    further = [a.name for a in ACTIVATIONS if a.name != default and a.name in supported]
    return [default, default, *further] if default in supported else further


def dtypes(row: MemberSpec) -> list[str]:
    """Return the dtypes that the row names, as in case ids."""
    return [d for d in DTYPE_BYTES if d in row.needs.dtypes]


def hidden_sizes(row: MemberSpec) -> list[int]:
    """Return the hidden sizes to draw that are multiples of what the row asks for."""
    return [k for k in SIZES if k % row.needs.hidden_multiple == 0]


def all2alls(layout: Layout, experts: MemberSpec) -> list[str]:
    """Return the members that support this many ranks; the plan refuses other misfits."""
    if isinstance(experts, OwnLayerSpec):
        return [MoETestConfig.all2all]
    return [
        row.name
        for row in ALL2ALL
        if row.needs.max_world is None or layout.world_size <= row.needs.max_world
    ]
