"""Define the vocabulary that all families share: layers, platforms, numerics, rows. Torch-free.

Planning, listing and CI generation import this module and the tables of members, never torch. Rows
are matched on features and formats, never on names of other rows, so a new member of one family
needs no change in the others. `moe.needs` and `moe.layout` have the rest; import from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moe.layout import Layout
from moe.needs import ANY as ANY
from moe.needs import Need as Need
from moe.needs import Needs as Needs
from moe.needs import Package as Package
from moe.needs import Reason as Reason
from moe.needs import all2all_refusal as all2all_refusal
from moe.needs import experts_refusal as experts_refusal
from moe.needs import first_refusal as first_refusal
from moe.needs import reads as reads
from moe.needs import resolve as resolve
from moe.numerics import FLOAT32_LOSS as FLOAT32_LOSS
from moe.numerics import Numerics as Numerics
from moe.placement import linear
from moe.routing_method import RoutingMethod as RoutingMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moe.placement import Placement

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "f32": 4}  # dtype of a layer -> bytes per element
# Fields of a layer that `LayerSpec.routing_method` reads.
ROUTING_FIELDS = (
    *("router", "top_k", "renormalize", "router_bias", "router_groups", "chosen_groups"),
    *("router_scale", "logits_dtype", "weights_input"),
)
BLOCK = 128  # `fp8_block`: side of a weight block, and length of an activation group


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Name the formats that a quant method produces; experts rows are matched on the pair."""

    weights: str  # a key of FORMATS
    activations: str  # a key of FORMATS
    weight_bytes: int | None = None  # per element; None: as in the layer's dtype


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """Describe what a layer computes. Sizes are global, except `m`."""

    m: int  # tokens per DP rank
    hidden: int  # K
    intermediate: int  # N
    num_experts: int  # E
    top_k: int
    dtype: str = "bf16"  # of inputs, outputs and unquantized weights: a key of DTYPE_BYTES
    scheme: Scheme = Scheme(weights="model", activations="model")
    layout: Layout = field(default_factory=Layout)
    shared_experts: int = (
        0  # how many, each of a routed expert's size; every token uses all of them
    )
    renormalize: bool = True  # divide the top-k router weights by their sum
    activation: str = "silu"  # activation function of the gate: a row of `moe.activations`
    router: str = "softmax"  # a row of `moe.routers`
    # How the router chooses and weighs, see `moe.routing_method`.
    router_bias: bool = False
    router_groups: int = 1
    chosen_groups: int = 1
    router_scale: float = 1.0
    logits_dtype: str = "model"  # of the router logits: `model`, or a key of DTYPE_BYTES
    weights_input: bool = False  # router weights multiply the input of the experts
    gate: bool = False  # the composed layer computes its router logits from the hidden states
    padding: bool = False  # some rows of a call may be padding: all their `topk_ids` are -1

    @property
    def routing_method(self) -> RoutingMethod:
        """Return how tokens are routed, as one value."""
        return RoutingMethod(
            router=self.router,
            top_k=self.top_k,
            renormalize=self.renormalize,
            bias=self.router_bias,
            groups=self.router_groups,
            chosen_groups=self.chosen_groups,
            scale=self.router_scale,
            logits_dtype=self.logits_dtype,
            weights_input=self.weights_input,
        )

    @property
    def gated(self) -> bool:
        """Return whether experts have a gate; otherwise their first matrix is [N, K]."""
        table = resolve("moe.activations:ACTIVATIONS")  # imported on use: it is built from specs
        return bool(table.row(self.activation).gated)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Return the intermediate size on each rank."""
        world = range(self.layout.world_size)
        return tuple(len(self.layout.intermediate_of(r, self.intermediate)) for r in world)

    @property
    def placement(self) -> Placement:
        """Return which experts each EP rank holds."""
        return linear(self.layout, self.num_experts)

    def experts_of(self, rank: int) -> tuple[int, ...]:
        """Return the logical experts that `rank` holds, in the order of local ids."""
        return self.placement.experts_of(self.layout.ep_rank(rank))

    @property
    def experts_by_rank(self) -> tuple[tuple[int, ...], ...]:
        """Return `experts_of` each rank of the world."""
        return tuple(self.experts_of(rank) for rank in range(self.layout.world_size))


@dataclass(frozen=True, kw_only=True)
class TritonTarget:
    """Name a chip as Triton's compiler does: its backend, its architecture, threads of a warp."""

    backend: str  # cuda | hip
    arch: int | str  # 90 | "gfx942"
    warp: int


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Describe one kind of chip by its features; `moe.platforms` lists them."""

    name: str
    device: str  # torch device type: `cpu`, or `cuda` (ROCm's, too)
    features: frozenset[str]
    interpreted: bool = False  # whether Triton kernels run in the interpreter, which is slow
    shared_bytes: int | None = None  # shared memory (LDS) of a block of threads; None: no limit
    shared_source: str = ""  # where the vendor says so
    triton_target: TritonTarget | None = None  # for which kernels compile without the chip


# Kinds of experts backends. Both are called between an all2all backend's `prepare` and `finalize`.
# Modular: gets tokens with their routing. Monolithic: gets tokens with router logits and routes by
# itself, so that nobody else knows the ids.
MODULAR, MONOLITHIC = KINDS = ("modular", "monolithic")
# Dispatch formats, in which an all2all backend passes tokens to the experts. Standard: contiguous
# rows, each with its ids and router weights (`moe.types.Dispatched`). Batched: the rows of each
# expert in a block of its own, and their number (`moe.types.Batches`).
STANDARD, BATCHED = "standard", "batched"
# (produced, taken): pairs that differ, and that the experts' base class converts within a rank.
CONVERTED = frozenset({(STANDARD, BATCHED)})


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """Declare one member of a family: its name, its class, what it needs and where it rounds.

    Numerics that are not stated are assumed, see `moe.assumed_numerics`. Raises ValueError for a
    kind that is not one of KINDS.
    """

    name: str  # as in case ids
    target: str  # "package.module:Class", imported on use
    needs: Needs = field(default_factory=Needs)
    numerics: Numerics = field(default_factory=Numerics)
    # Activation format -> numerics, for formats with which the member rounds differently.
    numerics_of: Mapping[str, Numerics] = field(default_factory=dict)
    deterministic: bool = False  # equal calls on the same ranks give equal bits
    kind: str = MODULAR  # of an experts backend: one of KINDS
    dispatch_format: str = STANDARD  # of an experts or all2all backend
    # Whether an all2all backend brings each token to every rank whatever its ids, and so can carry
    # router logits in their place to a monolithic backend.
    carries_logits: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"row {self.name!r} is of kind {self.kind!r}; choose from {', '.join(KINDS)}"
            )
        if (self.kind == MONOLITHIC) == (self.needs.routers is None):
            rule = (
                "is monolithic: name the routers that it computes as `routers` of its needs"
                if self.kind == MONOLITHIC
                else "is given its routing: leave `routers` out of its needs, or say monolithic"
            )
            raise ValueError(f"row {self.name!r} {rule}")

    def numerics_for(self, scheme: Scheme, device: str) -> Numerics:
        """Return the stated numerics for this scheme on a device of this torch type.

        `aligned` describes tensor cores. On a CPU, kernels are interpreted and sum in float32.
        """
        declared = self.numerics_of.get(scheme.activations, self.numerics)
        if device != "cpu" or declared.aligned is None:
            return declared
        return replace(declared, accumulation=FLOAT32_LOSS, promoted=None, aligned=None)


def dispatch_refusal(experts: MemberSpec, all2all: MemberSpec) -> Reason | None:
    """Return the reason why these experts cannot take what this all2all backend hands out."""
    if experts.kind == MONOLITHIC and not all2all.carries_logits:
        text = (
            f"{experts.name} routes by itself (kind {MONOLITHIC}), and {all2all.name} does not say "
            "`carries_logits`; choose an all2all backend that brings every token to every rank"
        )
        return Reason(code="logits_not_carried", text=text)
    formats = (all2all.dispatch_format, experts.dispatch_format)
    if len(set(formats)) == 1 or formats in CONVERTED:
        return None
    text = (
        f"{experts.name} takes the dispatch_format {experts.dispatch_format}, but "
        f"{all2all.name} produces {all2all.dispatch_format}; choose two that name the same"
    )
    return Reason(code="dispatch_format_mismatch", text=text)


@reads("top_k", "num_experts")
def _too_few_experts(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a top_k that exceeds the number of experts."""
    if layer_spec.top_k <= layer_spec.num_experts:
        return None
    text = (
        f"top_k {layer_spec.top_k} is larger than the number of experts, {layer_spec.num_experts}"
    )
    return Reason(code="top_k_exceeds_experts", text=text)


@reads("layout")
def _sequence_parallel_alone(layer_spec: LayerSpec) -> Reason | None:
    """Refuse sequence parallelism without expert parallelism over more than one TP rank."""
    layout = layer_spec.layout
    if not layout.sequence_parallel or (layout.use_ep and layout.tp_size > 1):
        return None
    text = "sequence_parallel needs expert parallelism with tp_size > 1; set use_ep and tp_size"
    return Reason(code="sp_needs_ep_and_tp", text=text)


@reads("intermediate", "layout")
def _empty_shard(layer_spec: LayerSpec) -> Reason | None:
    """Refuse layouts in which a rank holds no intermediate columns."""
    if min(layer_spec.shard_sizes) > 0:
        return None
    world = layer_spec.layout.world_size
    text = f"intermediate size {layer_spec.intermediate} over {world} ranks leaves a rank empty"
    return Reason(code="empty_shard", text=text)


@reads("num_experts", "top_k", "router_groups", "chosen_groups")
def _impossible_groups(layer_spec: LayerSpec) -> Reason | None:
    """Refuse groups of unequal size, more of them than there are, and too few experts to choose."""
    experts, k = layer_spec.num_experts, layer_spec.top_k
    groups, chosen = layer_spec.router_groups, layer_spec.chosen_groups
    if experts % groups:
        text = f"{experts} experts do not divide into {groups} groups of equal size"
    elif chosen > groups:
        text = f"{chosen} chosen groups are more than the {groups} groups"
    elif groups > 1 and chosen * (experts // groups) < k:
        text = f"{chosen} groups of {experts // groups} have fewer experts than top_k {k}"
    else:
        return None
    return Reason(code="router_groups_impossible", text=text)


@reads("weights_input", "top_k")
def _several_weights(layer_spec: LayerSpec) -> Reason | None:
    """Refuse weights on the input where a token has several: each expert's input would differ."""
    if not layer_spec.weights_input or layer_spec.top_k == 1:
        return None
    text = f"router weights on the input need top_k 1, not {layer_spec.top_k}"
    return Reason(code="weights_input_needs_top_1", text=text)


@reads("gate", "num_experts", "hidden")
def _no_columns_for_gate(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a gate in the composed layer if it has more experts than hidden columns."""
    if not layer_spec.gate or layer_spec.num_experts <= layer_spec.hidden:
        return None
    text = (
        "a gate's logits are read from one hidden column per expert, and "
        f"{layer_spec.num_experts} experts are more than {layer_spec.hidden} columns"
    )
    return Reason(code="gate_not_realisable", text=text)


# Needs of every member.
_OF_EVERY_LAYER = (
    *(_too_few_experts, _sequence_parallel_alone, _empty_shard),
    *(_impossible_groups, _several_weights, _no_columns_for_gate),
)
LAYER_NEEDS = tuple(Need.of(f) for f in _OF_EVERY_LAYER)


def layer_refusal(layer_spec: LayerSpec) -> Reason | None:
    """Return the reason why no member can serve a layer, or None."""
    return first_refusal(LAYER_NEEDS, layer_spec)
