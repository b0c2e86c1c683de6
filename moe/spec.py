"""The torch-free vocabulary: layouts, problems, needs, numerics, reasons.

Planning, listing and CI generation import this and the member tables, never torch. A row is
matched on features and formats, never on another row's name, so that a new member of one
family needs no change in the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moe.layout import Layout
from moe.needs import ANY as ANY
from moe.needs import Need as Need
from moe.needs import Needs as Needs
from moe.needs import Reason as Reason
from moe.needs import experts_refusal as experts_refusal
from moe.needs import first_refusal as first_refusal
from moe.needs import reads as reads
from moe.needs import resolve as resolve
from moe.placement import linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moe.placement import Placement

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "f32": 4}  # activation dtypes of a layer -> bytes an element
BLOCK = 128  # side of a weight block and length of an activation block in `fp8_block`


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What a quant method stores and sends: names of formats, on which experts rows are matched."""

    weights: str
    activations: str
    weight_bytes: int | None = None  # bytes a weight element takes; None: the layer dtype's


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a layer is asked to compute. Sizes are global; `m` counts tokens per DP rank."""

    m: int
    hidden: int  # K
    intermediate: int  # N
    num_experts: int  # E
    top_k: int
    dtype: str = "bf16"  # a key of DTYPE_BYTES: activations, weights before quantization, output
    scheme: Scheme = Scheme(weights="model", activations="model")
    layout: Layout = field(default_factory=Layout)
    shared_experts: int = 0  # how many always-on experts of the routed experts' size
    renormalize: bool = True  # divide the chosen router weights by their sum
    activation: str = "silu"  # of the gate: a row of `moe.activations`
    router: str = "softmax"  # a row of `moe.routers`

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """The intermediate size on each rank."""
        world = range(self.layout.world_size)
        return tuple(len(self.layout.intermediate_of(r, self.intermediate)) for r in world)

    @property
    def placement(self) -> Placement:
        """Which experts are where."""
        return linear(self.layout, self.num_experts)

    def experts_of(self, rank: int) -> tuple[int, ...]:
        """The experts whose weights live on `rank`, in the order of their local ids."""
        return self.placement.experts_of(self.layout.ep_rank(rank))

    @property
    def experts_by_rank(self) -> tuple[tuple[int, ...], ...]:
        """`experts_of` each rank of the world."""
        return tuple(self.experts_of(rank) for rank in range(self.layout.world_size))


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One kind of chip, as a list of features; see `moe.platforms`."""

    name: str
    device: str  # torch device type: `cpu` or `cuda` (ROCm's too)
    features: frozenset[str]
    interpreted: bool = False  # Triton kernels run in the interpreter: right, but slow


# How a backend computes experts. Modular: tokens in and expert output out, between the two halves
# of an all2all backend.
KINDS = ("modular",)
# The form in which an all2all backend hands tokens to the experts: `moe.types.Dispatched`, which is
# contiguous rows, each with its ids and router weights.
STANDARD = "standard"

BF16_LOSS = 2.0**-8  # no sum is kept in less than bf16, of which this is a step
FLOAT32_LOSS = 2.0**-22  # the most that an addition in float32 is taken to lose, in any order


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """What a member declares about its rounding; the reference rounds in the same places.

    Each of the dtype fields names what a value is rounded to at that point: `f32`, or `model`
    for the layer's dtype. Raises ValueError for what the reference could not follow.
    """

    gemm1: str = "f32"  # the first product, before the activation function
    activation: str = "f32"  # SiLU(gate) * up, before any second quantization
    expert: str = "f32"  # each expert's output, before its router weight
    combine: str = "f32"  # the weighted sum over the k experts, while it accumulates
    # What each addition of a product's sum loses, relative to the root of the sum of squares of
    # its terms; over K terms sqrt(K) of it gathers. float32's own is about 2**-24.
    accumulation: float = 2.0**-23
    # After how many terms a short accumulator is added to a float32 one, so that no more of its
    # loss gathers; None: never.
    promoted: int | None = None
    # (terms, bits) where the loss of a single sum is known better: so many products at a time are
    # aligned with the sum so far to the largest of them, and cut off so many bits below it.
    aligned: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for place in ("gemm1", "activation", "expert", "combine"):
            if getattr(self, place) not in ("f32", "model"):
                raise ValueError(f"{place} is {getattr(self, place)!r}; it must be f32 or model")
        if not 0 <= self.accumulation <= BF16_LOSS:
            rule = "what one addition loses, relative: at least 0 and at most bf16's own 2**-8"
            raise ValueError(f"accumulation is {self.accumulation}; it is {rule}")
        if self.promoted is not None and self.promoted < 1:
            raise ValueError(f"promoted is {self.promoted}; it counts terms: at least 1, or None")
        if self.aligned is not None and min(self.aligned) < 1:
            raise ValueError(f"aligned is {self.aligned}; it is (terms, bits), each at least 1")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One member of a family: what it is called, what it needs, where its class is.

    Raises ValueError for a kind that is not one of KINDS.
    """

    name: str
    target: str  # "package.module:Class", imported on use
    needs: Needs = field(default_factory=Needs)
    numerics: Numerics = field(default_factory=Numerics)
    # Where a member rounds elsewhere for some activation formats, by name.
    numerics_of: Mapping[str, Numerics] = field(default_factory=dict)
    deterministic: bool = False  # the same call on the same ranks gives the same bits
    kind: str = "modular"  # of an experts backend
    dispatch_format: str = STANDARD  # that an experts or all2all backend speaks

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"row {self.name!r} is of kind {self.kind!r}; choose from {', '.join(KINDS)}"
            )

    def numerics_for(self, scheme: Scheme, device: str) -> Numerics:
        """What the member declares for this scheme on a device of this torch type.

        What is `aligned` is a tensor core's doing, and a CPU has none: kernels that are
        interpreted there lose what float32 does.
        """
        declared = self.numerics_of.get(scheme.activations, self.numerics)
        if device != "cpu" or declared.aligned is None:
            return declared
        return replace(declared, accumulation=FLOAT32_LOSS, promoted=None, aligned=None)


def dispatch_refusal(experts: Row, all2all: Row) -> Reason | None:
    """Return why the experts cannot take what the all2all backend hands out, or None."""
    if experts.dispatch_format == all2all.dispatch_format:
        return None
    text = (
        f"{experts.name} takes the dispatch_format {experts.dispatch_format}, and "
        f"{all2all.name} hands out {all2all.dispatch_format}; choose two that name the same"
    )
    return Reason(code="dispatch_format_mismatch", text=text)


@reads("top_k", "num_experts")
def _too_few_experts(problem: Problem) -> Reason | None:
    if problem.top_k <= problem.num_experts:
        return None
    text = f"top-k {problem.top_k} of only {problem.num_experts} experts"
    return Reason(code="top_k_exceeds_experts", text=text)


@reads("layout")
def _sequence_parallel_alone(problem: Problem) -> Reason | None:
    layout = problem.layout
    if not layout.sequence_parallel or (layout.use_ep and layout.tp_size > 1):
        return None
    text = "sequence parallel is expert parallel with tp_size > 1; set use_ep and tp_size"
    return Reason(code="sp_needs_ep_and_tp", text=text)


@reads("intermediate", "layout")
def _empty_shard(problem: Problem) -> Reason | None:
    if min(problem.shard_sizes) > 0:
        return None
    world = problem.layout.world_size
    text = f"intermediate size {problem.intermediate} over {world} ranks: one is empty"
    return Reason(code="empty_shard", text=text)


# What makes a problem impossible for every member.
PROBLEM_NEEDS = tuple(
    Need.of(f) for f in (_too_few_experts, _sequence_parallel_alone, _empty_shard)
)


def problem_refusal(problem: Problem) -> Reason | None:
    """What makes a problem impossible for every member."""
    return first_refusal(PROBLEM_NEEDS, problem)
