"""Define hypothesis strategies for cases that a machine can run, simple values first.

Members' rows narrow the choices, and the plan decides about the rest: a case that it refuses is not
drawn. Simple values come first, so that hypothesis shrinks towards one rank, few experts and small
sizes. No torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.control import reject

from harness.commands import row_choices
from harness.matrix.case import AXES, ONE_RANK_TOKENS, TOKEN_COUNTS, MoETestConfig
from harness.matrix.exactness import is_bitwise
from harness.plan.refusals import Judge
from moe import families
from moe.eplb import MOVES
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN
from moe.layers.layer_row import OwnLayerSpec
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import MONOLITHIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.matrix.axis import Axis
    from harness.plan.machine import Machine
    from moe.spec import MemberSpec

SIZES = row_choices.SIZES
EXPERT_COUNTS = AXES["num_experts"].simpler_values
TOP_KS = AXES["top_k"].simpler_values
_EDGES = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65)  # of kernels' token buckets
_LARGE_EDGES = (127, 128, 129, 255, 256, 257, 1023, 1024, 1025)
SEEDS = 2**16
_EXACT = (False,) * 7 + (True,)  # odds of an exact case, if its bits can be compared


@dataclass(frozen=True, kw_only=True)
class Space:
    """Describe what cases are drawn from.

    weights: largest experts * n * k. tokens: largest m * dp. batch: cases that are planned
    together; a gang runs cases of one batch only. bases: a real model's cases, to vary instead.
    """

    machine: Machine
    experts: tuple[str, ...]
    layer: str = COMPOSED
    max_world: int = 4
    weights: int = 2**20
    tokens: int = 160
    batch: int = 64
    bases: tuple[MoETestConfig, ...] = ()

    @cached_property
    def judge(self) -> Judge:
        """Return what judges cases for the machine, and remembers the answers of needs."""
        return Judge(self.machine)

    @property
    def under_test(self) -> str:
        """Return the names of the backends, or of the layer that has its own experts."""
        return ", ".join(self.experts) if self.layer == COMPOSED else self.layer

    def allowed_weights(self, row: MemberSpec) -> int:
        """Return the limit for a backend: a quarter for interpreted kernels (a few seconds)."""
        slow = self.machine.platform.interpreted and "triton" in row.needs.features
        return self.weights // 4 if slow else self.weights


def space_for(machine: Machine, experts: str | None = None, layer: str | None = None) -> Space:
    """Return the space of a machine.

    experts: one backend for all cases, a name or "package.module:Class". layer: a layer under test
    instead, named in the same way. Raises UnknownMemberError for a name that no table has.
    """
    if layer is not None and layer != COMPOSED:
        LAYERS.row(layer)
        space = space_for(machine, next(reversed(list(EXPERTS.rows))))
        return replace(space, experts=(OWN,), layer=layer)
    names = (experts,) if experts else tuple(reversed(list(EXPERTS.rows)))
    served = tuple(n for n in names if EXPERTS.row(n).needs.are_met_by(machine.platform))
    if machine.devices:
        return Space(
            machine=machine,
            experts=served or names,
            max_world=8,
            weights=2**24,
            tokens=2048,
            batch=256,  # a gang takes seconds to start there
        )
    return Space(machine=machine, experts=served or names)


def simpler(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    """Yield the case with one field made simpler, if that runs; simplest values first.

    Axes with few values come first, and of equally many the last declared: switches before sizes.
    Layouts of smaller worlds come last.
    """
    for changed in chain(_simpler_fields(case), _smaller_worlds(space, case)):
        if changed.exact == is_bitwise(changed) and runs(changed, space):
            yield changed


def _simpler_fields(case: MoETestConfig) -> Iterator[MoETestConfig]:
    last_first = [*AXES.values()][::-1]
    for axis in sorted(last_first, key=lambda axis: len(axis.simpler_values)):
        now, values = getattr(case, axis.name), axis.simpler_values
        for value in values[: values.index(now)] if now in values else values:
            yield case.replace(**{axis.name: value})


def _smaller_worlds(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    row = EXPERTS.row(case.experts) if case.layer == COMPOSED else LAYERS.row(case.layer)
    for layout in dict.fromkeys(row_choices.layouts_of(space.max_world, row)):
        if layout.world_size < case.world_size:
            yield case.replace(**vars(layout))


@st.composite
def configs(draw: Callable[[Any], Any], space: Space) -> MoETestConfig:
    """Draw one case of the space that the plan does not refuse."""
    experts = draw(st.sampled_from(space.experts))
    row = EXPERTS.row(experts) if space.layer == COMPOSED else LAYERS.row(space.layer)
    layout = draw(st.sampled_from(row_choices.layouts_of(space.max_world, row)))
    quant = draw(st.sampled_from(row_choices.quants(row)))
    top_k = draw(st.sampled_from(TOP_KS))
    small = MoETestConfig(
        m=draw(token_counts(space, layout.dp_size)),
        n=1,
        k=draw(st.sampled_from(row_choices.hidden_sizes(row))),
        num_experts=max(EXPERT_COUNTS),
        top_k=top_k,
        experts=experts,
        all2all=draw(st.sampled_from(row_choices.all2alls(layout, row))),
        quant=quant,
        router=row_choices.router_of(row),
        layer=space.layer,
        dtype=draw(st.sampled_from(row_choices.dtypes(row))),
        **vars(layout),
        **{name: draw(st.sampled_from(_alone(AXES[name], row))) for name in _ALONE},
        tokens=draw(st.sampled_from(TOKEN_COUNTS if layout.dp_size > 1 else ONE_RANK_TOKENS)),
        seed=draw(st.integers(0, SEEDS - 1)),
    )
    sized = _sized(draw, space, small, space.allowed_weights(row))
    exact = sized.replace(exact=True)
    if isinstance(row, OwnLayerSpec):  # whose hidden states carry logits
        return sized
    is_exact = draw(st.sampled_from(_EXACT)) and is_bitwise(exact)
    case = _with_families(space, row, exact if is_exact else sized)
    return _with_features(space, case)


def _with_features(space: Space, case: MoETestConfig) -> MoETestConfig:
    """Return the case with some further features of a layer, picked by its seed, if that runs."""
    pick = random.Random(f"features {case.seed}")  # noqa: S311  # no secret
    changes: list[dict[str, Any]] = [
        {"shared_gate": True},
        {"zero_experts": pick.choice((1, 2, 3, case.num_experts))},
        {"shared_fused": True},
        {"shared_width": pick.choice([n for n in SIZES if n * 2 <= case.n * 3])},
        {"shared_quant": pick.choice(list(QUANT.rows))},
        {"latent": pick.choice([n for n in SIZES if n <= 2 * case.k])},
        {"adapters": pick.choice((1, 2, 3)), "lora_rank": pick.choice((1, 8, 16, 24))},
    ]
    for change in pick.sample(changes, pick.choice((0, 0, 1, 2))):
        changed = case.replace(**change)
        if changed.exact == is_bitwise(changed) and runs(changed, space):
            case = changed
    return _balanced(space, case)


def _balanced(space: Space, case: MoETestConfig) -> MoETestConfig:
    """Return the case with load balancing, for every third seed, if there is enough to balance."""
    pick = random.Random(f"eplb {case.seed}")  # noqa: S311  # no secret
    if not case.use_ep or case.m * case.top_k < 4 * case.num_experts or pick.random() > 1 / 3:
        return case
    ranks = case.layout.size("ep")
    fields = {"redundant": -case.num_experts % ranks + ranks * pick.choice((0, 1))}
    fields |= {"eplb_window": pick.choice((1, 2))}
    changed = case.replace(eplb="global", eplb_move=pick.choice(MOVES), **fields)
    return changed if runs(changed, space) else case


def _with_families(space: Space, row: MemberSpec, case: MoETestConfig) -> MoETestConfig:
    """Return the case with a router and an activation picked by its seed: no draw shifts others."""
    pick = random.Random(case.seed)  # noqa: S311  # no secret
    served = [router.name for router in ROUTERS if router.needs.are_met_by(space.machine.platform)]
    router = pick.choice([MoETestConfig.router, *served])
    changed = case.replace(activation=pick.choice(row_choices.activations(row)), router=router)
    optional = changed.replace(**_routing_options(pick, changed))
    for fields in dict.fromkeys((optional, changed)):
        asks_router = row.kind == MONOLITHIC or fields.call != MoETestConfig.call
        is_sure = fields == changed and not asks_router  # plans take time
        if fields.exact == is_bitwise(fields) and (is_sure or runs(fields, space)):
            return fields
    return case


def _routing_options(pick: random.Random, case: MoETestConfig) -> dict[str, Any]:
    """Return at most one of the ways in which routing or its inputs may be special."""
    groups = {"router_groups": 2, "chosen_groups": 1} if case.num_experts % 2 == 0 else {}
    ways: list[dict[str, Any]] = [
        {"router_bias": True, "router_scale": 2.5, **groups},
        {"router_scale": 2.0},
        {"logits": pick.choice(AXES["logits"].choices)},
        {"padding": pick.choice(AXES["padding"].choices)},
        {"gate": True, "logits_dtype": "f32"},
        {"weights_input": True},
    ]
    return pick.choice([{}, {}, {}, *ways])


# Fields whose values must fit each other, the machine or the backend: `configs` draws them.
TOGETHER = (
    *("m", "n", "k", "num_experts", "top_k", "experts", "all2all", "quant", "dtype", "layer"),
    *("dp_size", "tp_size", "use_ep", "sequence_parallel", "pcp_size", "moe_tp_size"),
    "expert_dp_size",
    *("tokens", "seed", "exact"),
    *("router", "activation", "total_experts", "missing"),  # by the seed; only of real models
    "trace",  # only of recorded workloads
    *("router_bias", "router_groups", "chosen_groups", "router_scale", "weights_input"),
    *("logits", "logits_dtype", "gate", "padding"),
    *("shared_width", "shared_quant", "shared_gate", "shared_fused"),  # by the seed
    *("zero_experts", "latent", "adapters", "lora_rank"),
    *("eplb", "redundant", "eplb_window", "eplb_move"),
)
_ALONE = tuple(name for name in AXES if name not in TOGETHER)
_WORDS = {"shared_experts": "shared", "renormalize": "no_renorm"}  # a layer must take these
_FEATURES = ("expert_bias",)  # axes that are features of a layer, which the needs must name


def _alone(axis: Axis, row: MemberSpec) -> Sequence[Any]:
    """Return the values of an axis that fits every other, each as often as it is to be drawn."""
    if axis.name in _WORDS and not row_choices.takes(row, _WORDS[axis.name]):
        return (axis.default,)
    if axis.name in _FEATURES and axis.name not in row.needs.layer_features:
        return (axis.default,)
    rows = tuple(families.table(axis.family).rows) if axis.family else ()
    return axis.random_values or axis.choices or rows or axis.simpler_values


def _sized(
    draw: Callable[[Any], Any], space: Space, case: MoETestConfig, weights: int
) -> MoETestConfig:
    """Return the case with an n and a number of experts that fit all its fields."""
    least = case.replace(num_experts=case.top_k)
    fitting = [n for n in SIZES if n * case.k * case.top_k <= weights]
    n = _one_of(draw, [n for n in fitting if runs(least.replace(n=n), space)])
    counts = [e for e in EXPERT_COUNTS if case.top_k <= e and e * n * case.k <= weights]
    sized = case.replace(n=n, num_experts=_one_of(draw, counts))
    return sized if runs(sized, space) else reject()


def _one_of(draw: Callable[[Any], Any], values: Sequence[int]) -> int:
    """Draw one of the values; reject the draw if there is none."""
    return int(draw(st.sampled_from(values))) if values else reject()


def runs(case: MoETestConfig, space: Space) -> bool:
    """Return whether a plan on the space's machine does not refuse a case."""
    return space.judge(case)[1] is None


def token_counts(space: Space, dp_size: int) -> st.SearchStrategy[int]:
    """Draw the tokens per DP rank: few, or next to a size at which kernels change their tiles."""
    limit = max(1, space.tokens // dp_size)
    edges = [m for m in (*_EDGES, *_LARGE_EDGES) if m <= limit]
    return st.one_of(st.integers(1, min(limit, 40)), st.sampled_from(edges))
