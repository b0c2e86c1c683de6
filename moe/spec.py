"""Define the vocabulary that all families share: layers, platforms, numerics, rows. Torch-free.

Planning, listing and CI generation import this module and the tables of members, never torch. Rows
are matched on features and formats, never on names of other rows, so a new member of one family
needs no change in the others. `moe.member_spec`, `moe.need`, `moe.needs` and `moe.layout` have the
rest; import from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from moe.experts_needs import ALL_TACTICS as ALL_TACTICS
from moe.experts_needs import DEFAULT_TACTIC as DEFAULT_TACTIC
from moe.experts_needs import tactics_of as tactics_of
from moe.layer_needs import LAYER_NEEDS as LAYER_NEEDS
from moe.layer_needs import layer_refusal as layer_refusal
from moe.layout import Layout
from moe.member_spec import BATCHED as BATCHED
from moe.member_spec import CONVERTED as CONVERTED
from moe.member_spec import KINDS as KINDS
from moe.member_spec import MODULAR as MODULAR
from moe.member_spec import MONOLITHIC as MONOLITHIC
from moe.member_spec import STANDARD as STANDARD
from moe.member_spec import MemberSpec as MemberSpec
from moe.member_spec import dispatch_refusal as dispatch_refusal
from moe.need import ANY as ANY
from moe.need import DTYPE_BYTES as DTYPE_BYTES
from moe.need import FormatsOn as FormatsOn
from moe.need import Need as Need
from moe.need import first_refusal as first_refusal
from moe.need import reads as reads
from moe.need import resolve as resolve
from moe.needs import Needs as Needs
from moe.needs import all2all_refusal as all2all_refusal
from moe.needs import experts_refusal as experts_refusal
from moe.numerics import FLOAT32_LOSS as FLOAT32_LOSS
from moe.numerics import Numerics as Numerics
from moe.packages import Package as Package
from moe.placement import initial, placed
from moe.reason import Reason as Reason
from moe.routing_method import RoutingMethod as RoutingMethod

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe.placement import Placement
    from moe.roundup import Padded

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
    shared_experts: int = 0  # how many; every token uses all of them
    shared_width: int = 0  # columns of all of them together; 0: each is as wide as a routed expert
    shared_scheme: Scheme = Scheme(weights="model", activations="model")  # unless they are fused
    shared_gate: bool = False  # their output is multiplied by sigmoid(x @ gate)
    shared_fused: bool = False  # they are further experts of the experts backend, in every top-k
    zero_experts: int = 0  # further ids that the router may choose, which return the token itself
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
    expert_bias: bool = False  # both products of the routed experts have biases
    padding: bool = False  # some rows of a call may be padding: all their `topk_ids` are -1
    # Sizes are rounded up by the quant method, see `moe.roundup`; those above are never padded.
    pads: bool = False  # to multiples that the experts backend needs
    roundup: int = 1  # to a multiple of this
    padded: Padded | None = None  # the sizes that result, if any differs
    adapters: int = 0  # low-rank adapters of the routed experts, of which a token has one or none
    lora_rank: int = 8  # their rank
    latent: int = 0  # L, width on which the routed experts work, see `moe.latent`; 0: that of K
    chunk: int = 0  # tokens of a rank that pass through the routed experts at a time; 0: all
    capacity: int = 0  # rows of each expert's block, of a batched all2all; 0: for all tokens
    tactic: str = DEFAULT_TACTIC  # how the experts compute, of the member's `Needs.tactics`
    # Expert-parallel load balancing, see `moe.eplb`.
    eplb: str = "none"  # its policy
    redundant: int = 0  # further physical experts
    eplb_window: int = 1  # calls whose loads a rebalance goes by
    # [P] logical expert of each physical one after a rebalance; None: before the first.
    placed: tuple[int, ...] | None = None

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
        return self.layout.shard_sizes(self.intermediate)

    @property
    def expert_hidden(self) -> int:
        """Return the hidden size of the routed experts: L of a latent layer, else K."""
        return self.latent or self.hidden

    def for_experts(self) -> LayerSpec:
        """Return the layer as an experts backend sees it: with the latent width as its hidden
        size, and with padded sizes, if there are any.
        """
        inner = replace(self, hidden=self.expert_hidden, latent=0) if self.latent else self
        if self.padded is None:
            return inner
        values = {field.name: getattr(inner, field.name) for field in fields(LayerSpec)}
        return PaddedSpec(**(values | {"hidden": self.padded.hidden}), unpadded_hidden=inner.hidden)

    @property
    def shared_columns(self) -> int:
        """Return the intermediate size of all shared experts together, as one MLP."""
        return self.shared_width or self.shared_experts * self.intermediate

    @property
    def router_experts(self) -> int:
        """Return how many experts the router chooses from: each token has a logit for each."""
        return self.num_experts + self.zero_experts

    @property
    def held_experts(self) -> int:
        """Return how many experts the ranks hold: routed ones, then fused shared ones."""
        return self.num_experts + (self.shared_experts if self.shared_fused else 0)

    @property
    def slots(self) -> int:
        """Return the number of experts of a token: the router's top-k, then fused shared ones."""
        return self.top_k + self.held_experts - self.num_experts

    @property
    def layer_features(self) -> frozenset[str]:
        """Return what this layer asks of its members beyond routed experts, see FEATURES."""
        return frozenset(name for name, is_asked in FEATURES.items() if is_asked(self))

    @property
    def is_balanced(self) -> bool:
        """Return whether experts may have replicas, and are moved between calls."""
        return self.eplb != "none"

    @property
    def placement(self) -> Placement:
        """Return which experts each EP rank holds; the ids of fused shared ones come last."""
        if self.placed is not None:
            return placed(self.layout, self.held_experts, self.placed)
        return initial(self.layout, self.held_experts, self.redundant)

    def experts_of(self, rank: int) -> tuple[int, ...]:
        """Return the logical experts that `rank` holds, in the order of local ids."""
        return self.placement.experts_of(self.layout.ep_rank(rank))

    @property
    def experts_by_rank(self) -> tuple[tuple[int, ...], ...]:
        """Return `experts_of` each rank of the world."""
        placement, layout = self.placement, self.layout
        return tuple(placement.experts_of(layout.ep_rank(r)) for r in range(layout.world_size))


# Features of a layer that a member's row must name in `Needs.layer_features` -> whether a layer has
# the feature.
FEATURES: dict[str, Callable[[LayerSpec], bool]] = {
    "fused_shared": lambda layer_spec: layer_spec.shared_fused,
    "zero_experts": lambda layer_spec: layer_spec.zero_experts > 0,
    "expert_bias": lambda layer_spec: layer_spec.expert_bias,
    "latent": lambda layer_spec: layer_spec.latent > 0,
}


@dataclass(frozen=True, kw_only=True)
class PaddedSpec(LayerSpec):
    """Describe a padded layer to its experts: `hidden` and `shard_sizes` are the padded sizes."""

    unpadded_hidden: int

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Return the padded intermediate size on each rank."""
        assert self.padded is not None
        return self.padded.shards


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
