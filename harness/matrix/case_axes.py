"""Declare the axes of a case that say how tokens are routed, and what the layer has.

They are fields of `MoETestConfig`, which derives from this class; ids and the matrix file have them
in this order, after those of `harness.matrix.main_axes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.matrix.axis import axis
from harness.matrix.main_axes import SIZES, MainAxes
from moe.eplb import AT_ONCE, MOVES, NO_BALANCING, POLICIES
from moe.spec import DEFAULT_TACTIC

NO_PADDING = "none"
NO_TOKENS = "none"
PADDING = (NO_PADDING, "end", "middle", "all")  # see harness.fixtures.padding_rows
# Distributions of the router logits, see harness.fixtures.logit_rows.
LOGITS = (
    *("spread", "uniform", "skewed", "hot", "empty", "ties", "negative", "large", "nan"),
    *("first", "last"),
)


@dataclass(frozen=True, kw_only=True)
class FeatureAxes(MainAxes):
    """Say how tokens are routed, and what the layer has besides routed experts."""

    shared_experts: int = axis(
        "shared",
        "always-on experts of the routed experts' size",
        default=0,
        minimum=0,
        simplest=(0, 1, 2),
        random_values=(0, 0, 1, 2),
    )
    renormalize: bool = axis(
        "renorm",
        "a token's chosen router weights sum to one",
        default=True,
        random_values=(True, True, False),
    )
    router: str = axis(
        "router",
        "router: a name or 'pkg.mod:Class'",
        default="softmax",
        family="router",
    )
    activation: str = axis(
        "act",
        "activation function of the gate: a name or 'pkg.mod:Class'",
        default="silu",
        family="activation",
    )
    tokens: str = axis(
        "tokens",
        "how tokens are spread over DP ranks; `none`: a call between two others has no tokens",
        default="even",
        choices=("even", "ragged", "idle", "alone", NO_TOKENS),  # see `counts`
        outputs_agree=True,
    )
    router_bias: bool = axis(
        "bias",
        "a correction bias is added to the router's scores when it chooses, and does not weigh",
        default=False,
    )
    router_groups: int = axis("groups", "groups of experts, from which some are chosen", default=1)
    chosen_groups: int = axis("chosen_groups", "groups whose experts can be chosen", default=1)
    router_scale: float = axis("scale", "factor of the router's weights", default=1.0)
    logits: str = axis(
        "logits",
        "how router logits are distributed; `nan`: some rows hold a NaN",
        default="spread",
        choices=LOGITS,
    )
    logits_dtype: str = axis(
        "logits_dtype",
        "dtype of the router logits; `model`: the layer's",
        default="model",
        choices=("model", "bf16", "f32"),
    )
    weights_input: bool = axis(
        "weights_input",
        "router weights multiply the input of the experts, not their output; needs topk 1",
        default=False,
    )
    gate: bool = axis(
        "gate",
        "the composed layer computes its router logits from the hidden states",
        default=False,
    )
    padding: str = axis(
        "padding",
        "rows that are padding: their topk_ids are -1, and their output is undefined",
        default=NO_PADDING,
        choices=PADDING,
    )
    expert_bias: bool = axis(
        "expert_bias",
        "both products of the routed experts have biases",
        default=False,
        random_values=(False, False, True),
    )
    shared_width: int = axis(
        "sharedn",
        "intermediate size of all shared experts together; 0: that of as many routed experts",
        default=0,
        minimum=0,
    )
    shared_quant: str = axis(
        "sharedquant",
        "quantization method of shared experts that are not fused",
        default="none",
        family="quant",
        random_values=("none",),
    )
    shared_gate: bool = axis(
        "sharedgate",
        "the shared experts' output is multiplied by a gate, the sigmoid of a product",
        default=False,
        random_values=(False,),
    )
    shared_fused: bool = axis(
        "fused",
        "the shared experts are further experts of the experts backend",
        default=False,
        outputs_agree=True,
        random_values=(False,),
    )
    zero_experts: int = axis(
        "zero",
        "experts that return the token itself; the router chooses them by the ids after the routed",
        default=0,
        minimum=0,
        random_values=(0,),
    )
    roundup: int = axis(
        "roundup",
        "the quantization method pads the hidden size and each shard to a multiple of this",
        default=1,
        outputs_agree=True,
        simplest=(1,),
        random_values=(1, 1, 1, 64),
    )
    adapters: int = axis(
        "lora",
        "low-rank adapters of the routed experts; each token has one of them, or none",
        default=0,
        minimum=0,
        simplest=(0, 1, 2),
        random_values=(0,),
    )
    lora_rank: int = axis(
        "lorarank",
        "rank of the adapters",
        default=8,
        simplest=(8,),
        random_values=(8,),
    )
    latent: int = axis(
        "latent",
        "width on which the routed experts work, to which tokens are projected; 0: the hidden size",
        default=0,
        minimum=0,
        simplest=(0, *SIZES),
        random_values=(0,),
    )
    eplb: str = axis(
        "eplb",
        "policy that places replicas of loaded experts on EP ranks; the case rebalances in between",
        default=NO_BALANCING,
        choices=(NO_BALANCING, *POLICIES),
        outputs_agree=True,
        random_values=(NO_BALANCING,),
    )
    redundant: int = axis(
        "redundant",
        "physical experts beyond one for each routed expert; needs eplb",
        default=0,
        minimum=0,
        outputs_agree=True,
        simplest=(0, 1, 2),
        random_values=(0,),
    )
    eplb_window: int = axis(
        "window",
        "calls of the layer whose loads a rebalance goes by",
        default=1,
        outputs_agree=True,
        simplest=(1,),
        random_values=(1,),
    )
    eplb_move: str = axis(
        "move",
        "how a rebalance moves weights; `overlapped`: while a call runs on the placement before",
        default=AT_ONCE,
        choices=MOVES,
        outputs_agree=True,
        random_values=(AT_ONCE,),
    )
    pcp_size: int = axis(
        "pcp",
        "context ranks, over which each DP rank's tokens are split",
        default=1,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    moe_tp_size: int = axis(
        "moe_tp",
        "ranks over which each expert is split where ep spreads the experts; needs ep",
        default=1,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    chunk: int = axis(
        "chunk",
        "tokens of a rank that pass through the routed experts at a time; 0: all",
        default=0,
        minimum=0,
        outputs_agree=True,
        simplest=(0, 1, 2, 4, 16),
        random_values=(0, 0, 0, 3),
    )
    capacity: int = axis(
        "capacity",
        "rows that each expert has room for, in an all2all with blocks; 0: for all tokens",
        default=0,
        minimum=0,
        outputs_agree=True,
        simplest=(0,),
        random_values=(0,),
    )
    tactic: str = axis(
        "tactic",
        "how the experts backend computes: a name from its tactics; `all` in a block: each of them",
        default=DEFAULT_TACTIC,
        outputs_agree=True,
        random_values=(DEFAULT_TACTIC,),
    )
    expert_dp_size: int = axis(
        "expert_dp",
        "parts of the ranks that each hold all experts, for their own DP ranks' tokens; needs ep",
        default=1,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
