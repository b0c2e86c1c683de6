"""Define hypothesis strategies for cases that a machine can run, simple values first.

Members' rows narrow the choices, and the plan decides about the rest: a case that it refuses is not
drawn. Simple values come first, so that hypothesis shrinks towards one rank, few experts and small
sizes. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.control import reject

from harness.commands import row_choices
from harness.commands.fuzz_features import with_families, with_features
from harness.matrix.case import AXES, ONE_RANK_TOKENS, TOKEN_COUNTS, MoETestConfig
from harness.matrix.exactness import is_bitwise
from moe import families
from moe.layers.layer_row import OwnLayerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.commands.fuzz_space import Space
    from harness.matrix.axis import Axis
    from moe.spec import MemberSpec

SIZES = row_choices.SIZES
EXPERT_COUNTS = AXES["num_experts"].simpler_values
TOP_KS = AXES["top_k"].simpler_values
_EDGES = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65)  # of kernels' token buckets
_LARGE_EDGES = (127, 128, 129, 255, 256, 257, 1023, 1024, 1025)
SEEDS = 2**16
_EXACT = (False,) * 7 + (True,)  # odds of an exact case, if its bits can be compared


@st.composite
def configs(draw: Callable[[Any], Any], space: Space) -> MoETestConfig:
    """Draw one case of the space that the plan does not refuse."""
    experts = draw(st.sampled_from(space.experts))
    row = space.row_of(experts)
    sized = _sized(draw, space, _small(draw, space, row, experts), space.allowed_weights(row))
    exact = sized.replace(exact=True)
    is_exact = (
        not isinstance(row, OwnLayerSpec)  # whose hidden states carry logits
        and draw(st.sampled_from(space.choices("exact", _EXACT)))
        and is_bitwise(exact)
    )
    case = with_features(space, with_families(space, row, exact if is_exact else sized))
    return case if case.replace(**space.fixed) == case else reject()


def _small(
    draw: Callable[[Any], Any], space: Space, row: MemberSpec, experts: str
) -> MoETestConfig:
    """Draw a case without an intermediate size and a number of experts."""
    layout = draw(st.sampled_from(row_choices.layouts_of(space.max_world, row, space.fixed)))
    values: dict[str, Sequence[Any]] = {
        "k": row_choices.hidden_sizes(row),
        "all2all": row_choices.all2alls(layout, row),
        "dtype": row_choices.dtypes(row),
        **{name: _alone(AXES[name], row) for name in _ALONE},
        "tokens": TOKEN_COUNTS if layout.dp_size > 1 else ONE_RANK_TOKENS,
    }
    small = MoETestConfig(
        quant=draw(st.sampled_from(space.choices("quant", row_choices.quants(row)))),
        top_k=draw(st.sampled_from(space.choices("top_k", TOP_KS))),
        m=draw(token_counts(space, layout.dp_size)),
        n=1,
        num_experts=max(EXPERT_COUNTS),
        experts=experts,
        router=row_choices.routers(row)[0],  # others are picked later, as activations are
        activation=row_choices.activations(row)[0],
        layer=space.layer,
        **vars(layout),
        **{name: draw(st.sampled_from(space.choices(name, of))) for name, of in values.items()},
        seed=draw(st.integers(0, SEEDS - 1)),
    )
    if isinstance(row, OwnLayerSpec) and draw(st.sampled_from(row_choices.weighings(row))):
        small = small.replace(weights_input=True, top_k=1, renormalize=False)
    return small.replace(**space.fixed)


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
    least = case.replace(num_experts=space.fixed.get("num_experts", case.top_k))
    fitting = [n for n in SIZES if n * case.k * case.top_k <= weights]
    sizes = space.choices("n", fitting)
    n = _one_of(draw, [n for n in sizes if space.runs(least.replace(n=n))])
    counts = [e for e in EXPERT_COUNTS if case.top_k <= e and e * n * case.k <= weights]
    sized = case.replace(n=n, num_experts=_one_of(draw, space.choices("num_experts", counts)))
    return sized if space.runs(sized) else reject()


def _one_of(draw: Callable[[Any], Any], values: Sequence[int]) -> int:
    """Draw one of the values; reject the draw if there is none."""
    return int(draw(st.sampled_from(values))) if values else reject()


def token_counts(space: Space, dp_size: int) -> st.SearchStrategy[int]:
    """Draw the tokens per DP rank: few, or next to a size at which kernels change their tiles."""
    limit = max(1, space.tokens // dp_size)
    edges = [m for m in (*_EDGES, *_LARGE_EDGES) if m <= limit]
    return st.one_of(st.integers(1, min(limit, 40)), st.sampled_from(edges))
