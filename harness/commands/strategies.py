"""Whole cases drawn by hypothesis: every field, feasible where they are to run, simplest first.

What fits together is not written down a second time: members' rows narrow the choices, and the
plan is asked for its refusals before a case is handed out. Within each choice the simple values
come first, so that hypothesis shrinks towards one rank, few experts and small sizes. No torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.control import reject

from harness.matrix.case import AXES, TOKEN_COUNTS, MoETestConfig
from harness.matrix.exactness import is_bitwise
from harness.plan.plan import make_plan
from moe import families
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN, LayerRow, layout_words
from moe.layout import Layout
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.matrix.axis import Axis
    from harness.plan.machine import Machine
    from moe.spec import Row

WORLDS = (1, 2, 3, 4, 8)
SIZES = AXES["n"].simpler_values
EXPERT_COUNTS = AXES["num_experts"].simpler_values
TOP_KS = AXES["top_k"].simpler_values
_EDGES = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65)  # of kernels' token buckets
_WIDE_EDGES = (127, 128, 129, 255, 256, 257, 1023, 1024, 1025)
SEEDS = 2**16
_EXACT = (False,) * 7 + (True,)  # where bits can be compared; elsewhere never


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where cases are drawn for. weights: the most experts * n * k; tokens: the most m * dp.

    batch: cases that are planned together; a gang serves those of one batch.
    """

    machine: Machine
    experts: tuple[str, ...]
    layer: str = COMPOSED
    most_world: int = 4
    weights: int = 2**20
    tokens: int = 160
    batch: int = 64

    @property
    def under_test(self) -> str:
        """For people: the backends, or the layer that has its own."""
        return ", ".join(self.experts) if self.layer == COMPOSED else self.layer

    def allowed_weights(self, row: Row) -> int:
        """Interpreted kernels are slow: a quarter keeps such a case near a second."""
        slow = self.machine.platform.interpreted and "triton" in row.needs.features
        return self.weights // 4 if slow else self.weights


def space_for(machine: Machine, experts: str | None = None, layer: str | None = None) -> Space:
    """The space of a machine; experts: one backend for all, a name or "package.module:Class".

    layer: a whole layer instead. Raises UnknownMemberError for a backend that nobody knows.
    """
    if layer is not None and layer != COMPOSED:
        LAYERS.row(layer)
        space = space_for(machine, next(reversed(EXPERTS.rows)))
        return replace(space, experts=(OWN,), layer=layer)
    names = (experts,) if experts else tuple(reversed(EXPERTS.rows))
    served = tuple(n for n in names if EXPERTS.row(n).needs.features <= machine.platform.features)
    if machine.devices:
        return Space(
            machine=machine,
            experts=served or names,
            most_world=8,
            weights=2**24,
            tokens=2048,
            batch=256,  # a gang takes seconds to start there
        )
    return Space(machine=machine, experts=served or names)


def simpler(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    """The case with one field made simpler, as far as that runs; simplest values first.

    Axes with few values come first, the last of them before the others: switches before sizes.
    """
    last_first = [*AXES.values()][::-1]
    for axis in sorted(last_first, key=lambda axis: len(axis.simpler_values)):
        now, values = getattr(case, axis.name), axis.simpler_values
        for value in values[: values.index(now)] if now in values else values:
            changed = case.replace(**{axis.name: value})
            if changed.exact == is_bitwise(changed) and _runs(changed, space.machine):
                yield changed


@st.composite
def configs(draw: Callable[[Any], Any], space: Space) -> MoETestConfig:
    """One case of the space that its plan does not refuse."""
    experts = draw(st.sampled_from(space.experts))
    row = EXPERTS.row(experts) if space.layer == COMPOSED else LAYERS.row(space.layer)
    layout = draw(st.sampled_from(_layouts(space.most_world, row)))
    quant = draw(st.sampled_from(_quants(row)))
    top_k = draw(st.sampled_from(TOP_KS))
    small = MoETestConfig(
        m=draw(_tokens(space, layout.dp_size)),
        n=1,
        k=draw(st.sampled_from(_hidden(row))),
        num_experts=max(EXPERT_COUNTS),
        top_k=top_k,
        experts=experts,
        all2all=draw(st.sampled_from(_all2alls(layout, row))),
        quant=quant,
        layer=space.layer,
        dtype=draw(st.sampled_from(_dtypes(row))),
        dp_size=layout.dp_size,
        tp_size=layout.tp_size,
        use_ep=layout.use_ep,
        sequence_parallel=layout.sequence_parallel,
        **{name: draw(st.sampled_from(_alone(AXES[name], row))) for name in _ALONE},
        tokens=draw(st.sampled_from(TOKEN_COUNTS if layout.dp_size > 1 else TOKEN_COUNTS[:1])),
        seed=draw(st.integers(0, SEEDS - 1)),
    )
    sized = _sized(draw, space, small, space.allowed_weights(row))
    exact = sized.replace(exact=True)
    if isinstance(row, LayerRow):  # whose hidden states carry logits
        return sized
    drawn = exact if draw(st.sampled_from(_EXACT)) and is_bitwise(exact) else sized
    return _with_families(row, drawn)


def _with_families(row: Row, case: MoETestConfig) -> MoETestConfig:
    """With a router and an activation that the seed picks, so that no draw moves."""
    pick = random.Random(case.seed)  # noqa: S311  # no secret
    router = pick.choice([MoETestConfig.router, *ROUTERS.rows])
    changed = case.replace(activation=pick.choice(_activations(row)), router=router)
    return changed if changed.exact == is_bitwise(changed) else case


# Fields whose values must fit each other, the machine or the backend: drawn one by one above.
TOGETHER = (
    *("m", "n", "k", "num_experts", "top_k", "experts", "all2all", "quant", "dtype", "layer"),
    *("dp_size", "tp_size", "use_ep", "sequence_parallel", "tokens", "seed", "exact"),
    *("router", "activation"),  # by the seed, so that no draw moves
)
_ALONE = tuple(name for name in AXES if name not in TOGETHER)
_WORDS = {"shared_experts": "shared", "renormalize": "no_renorm"}  # what a layer has to take


def _alone(axis: Axis, row: Row) -> Sequence[Any]:
    """Values of an axis that goes with everything, each as often as it is to be drawn."""
    if axis.name in _WORDS and not _takes(row, _WORDS[axis.name]):
        return (axis.default,)
    rows = tuple(families.table(axis.family).rows) if axis.family else ()
    return axis.drawn or axis.choices or rows or axis.simpler_values


def _sized(
    draw: Callable[[Any], Any], space: Space, case: MoETestConfig, weights: int
) -> MoETestConfig:
    """With an intermediate size and a number of experts that fit the rest and each other."""
    least = case.replace(num_experts=case.top_k)
    fitting = [n for n in SIZES if n * case.k * case.top_k <= weights]
    n = _one_of(draw, [n for n in fitting if _runs(least.replace(n=n), space.machine)])
    counts = [e for e in EXPERT_COUNTS if case.top_k <= e and e * n * case.k <= weights]
    sized = case.replace(n=n, num_experts=_one_of(draw, counts))
    return sized if _runs(sized, space.machine) else reject()


def _one_of(draw: Callable[[Any], Any], values: Sequence[int]) -> int:
    """One of the values; where there is none the whole draw is given up."""
    return int(draw(st.sampled_from(values))) if values else reject()


def _runs(case: MoETestConfig, machine: Machine) -> bool:
    return bool(make_plan([case], machine).jobs)


def _takes(row: Row, *words: str) -> bool:
    """Whether a layer names all of these words of `moe.layers.TAKES`; a member is asked for all."""
    return not isinstance(row, LayerRow) or set(words) <= row.takes


def _layouts(most_world: int, row: Row) -> list[Layout]:
    """Every layout of every world, small worlds first and about as often as large ones."""
    worlds = [_layouts_of(world) for world in WORLDS if world <= most_world]
    taken = [[layout for layout in some if _takes(row, *layout_words(layout))] for some in worlds]
    each = [some for some in taken if some]
    most = max(map(len, each))
    return [layout for some in each for layout in some for _ in range(most // len(some))]


def _layouts_of(world: int) -> list[Layout]:
    found = []
    for tp in (t for t in range(1, world + 1) if world % t == 0):
        plain = Layout(dp_size=world // tp, tp_size=tp)
        found.append(plain)
        if world > 1:
            found.append(replace(plain, use_ep=True))
        if tp > 1:
            found.append(replace(plain, use_ep=True, sequence_parallel=True))
    return found


def _tokens(space: Space, dp_size: int) -> st.SearchStrategy[int]:
    """Tokens per DP rank: small ones, and both sides of where kernels change their tiles."""
    most = max(1, space.tokens // dp_size)
    edges = [m for m in (*_EDGES, *_WIDE_EDGES) if m <= most]
    return st.one_of(st.integers(1, min(most, 40)), st.sampled_from(edges))


def _quants(row: Row) -> list[str]:
    """Methods whose formats the backend takes."""
    taken = row.needs.formats
    return [m.name for m in QUANT if (m.scheme.weights, m.scheme.activations) in taken]


def _activations(row: Row) -> list[str]:
    """Functions that the backend computes, the default first and most often."""
    default = MoETestConfig.activation
    taken = row.needs.activation_functions
    others = [a.name for a in ACTIVATIONS if a.name != default and a.name in taken]
    return [default, default, *others] if default in taken else others


def _dtypes(row: Row) -> list[str]:
    return [d for d in DTYPE_BYTES if d in row.needs.dtypes]


def _hidden(row: Row) -> list[int]:
    return [k for k in SIZES if k % row.needs.hidden_multiple == 0]


def _all2alls(layout: Layout, experts: Row) -> list[str]:
    """Members wide enough; which of them really serve a case is the plan's to say."""
    if isinstance(experts, LayerRow):
        return [MoETestConfig.all2all]
    return [
        row.name
        for row in ALL2ALL
        if row.needs.max_world is None or layout.world_size <= row.needs.max_world
    ]
