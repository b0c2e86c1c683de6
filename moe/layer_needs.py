"""Define what every member needs of a layer: sizes and options that fit each other. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.need import Need, first_refusal, reads, resolve
from moe.reason import Reason
from moe.shared_experts_needs import SHARED_EXPERTS_NEEDS

if TYPE_CHECKING:
    from moe.layout import Layout
    from moe.spec import LayerSpec


@reads("top_k", "num_experts", "zero_experts")
def _too_few_experts(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a top_k that exceeds the number of experts."""
    count = layer_spec.router_experts
    if layer_spec.top_k <= count:
        return None
    text = f"top_k {layer_spec.top_k} is larger than the number of experts, {count}"
    return Reason(code="top_k_exceeds_experts", text=text)


@reads("layout")
def _impossible_moe_tp(layer_spec: LayerSpec) -> Reason | None:
    return layout_refusal(layer_spec.layout)


def layout_refusal(layout: Layout) -> Reason | None:
    """Return why experts cannot be placed as `expert_dp_size` and `moe_tp_size` say, or None.

    The groups of a refused layout do not exist.
    """
    return _expert_dp_refusal(layout) or _moe_tp_refusal(layout)


def _expert_dp_refusal(layout: Layout) -> Reason | None:
    parts, dp = layout.expert_dp_size, layout.dp_size
    if parts == 1:
        return None
    if not layout.use_ep:
        rule = "without expert parallelism every rank has a part of all experts; set use_ep"
    elif dp % parts:
        rule = f"a part has whole DP ranks, and {parts} does not divide {dp}; choose a divisor"
    elif layout.world_size == parts:
        rule = "this leaves one EP rank in each part; leave use_ep and expert_dp_size out"
    else:
        return None
    return Reason(code="expert_dp_impossible", text=f"expert_dp_size {parts}: {rule}")


def _moe_tp_refusal(layout: Layout) -> Reason | None:
    size, world = layout.moe_tp_size, layout.world_size // layout.expert_dp_size
    if size == 1 or (layout.use_ep and size < world and world % size == 0):
        return None
    if not layout.use_ep:
        rule = "without expert parallelism every expert is split over all ranks; set use_ep"
    elif world % size:
        rule = f"groups of {size} do not divide {world} ranks; choose a divisor"
    else:
        rule = f"of {world} ranks this leaves one EP rank; leave use_ep and moe_tp_size out"
    return Reason(code="moe_tp_impossible", text=f"moe_tp_size {size}: {rule}")


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
    ranks = layer_spec.layout.size("moe_tp")
    text = f"intermediate size {layer_spec.intermediate} over {ranks} ranks leaves a rank empty"
    return Reason(code="empty_shard", text=text)


@reads("num_experts", "zero_experts", "top_k", "router_groups", "chosen_groups")
def _impossible_groups(layer_spec: LayerSpec) -> Reason | None:
    """Refuse groups of unequal size, more of them than there are, and too few experts to choose."""
    experts, k = layer_spec.router_experts, layer_spec.top_k
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


@reads("gate", "num_experts", "zero_experts", "hidden")
def _no_columns_for_gate(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a gate in the composed layer if it has more experts than hidden columns."""
    if not layer_spec.gate or layer_spec.router_experts <= layer_spec.hidden:
        return None
    text = (
        "a gate's logits are read from one hidden column per expert, and "
        f"{layer_spec.router_experts} experts are more than {layer_spec.hidden} columns"
    )
    return Reason(code="gate_not_realisable", text=text)


@reads("zero_experts", "weights_input")
def _weighted_zero_experts(layer_spec: LayerSpec) -> Reason | None:
    """Refuse zero experts with weights on the input, which has no product to come into."""
    if not (layer_spec.zero_experts and layer_spec.weights_input):
        return None
    text = "zero_experts return the token itself, weighted once; leave weights_input out"
    return Reason(code="zero_experts_unsupported", text=text)


@reads("eplb", "redundant", "layout", "num_experts", "shared_fused", "adapters", "chunk")
def _not_balanced(layer_spec: LayerSpec) -> Reason | None:
    """Refuse load balancing that has nothing to do, or slots and groups that do not divide."""
    if layer_spec.eplb == "none":
        if layer_spec.redundant == 0:
            return None
        text = f"redundant {layer_spec.redundant} without eplb; name a policy, or leave it out"
        return Reason(code="redundant_needs_eplb", text=text)
    layout, slots = layer_spec.layout, layer_spec.num_experts + layer_spec.redundant
    ranks = len(layout.group("ep", 0))
    if ranks == 1:
        text = "eplb spreads experts over EP ranks, and there is one; set use_ep, or leave it out"
        return Reason(code="eplb_needs_ep", text=text)
    if slots % ranks:
        text = (
            f"eplb: {layer_spec.num_experts} experts and {layer_spec.redundant} redundant ones are "
            f"{slots} slots, which {ranks} ranks do not divide; choose another redundant"
        )
        return Reason(code="eplb_slots_uneven", text=text)
    if slots // ranks >= layer_spec.num_experts:
        text = (
            f"eplb: each of {ranks} ranks has {slots // ranks} slots for {layer_spec.num_experts} "
            "experts, so that all ranks can hold all of them; choose a smaller redundant"
        )
        return Reason(code="eplb_nothing_to_move", text=text)
    moved = {
        "shared_fused": layer_spec.shared_fused,
        "adapters": layer_spec.adapters > 0,
        "expert_dp": layout.expert_dp_size > 1,
        "chunk": layer_spec.chunk > 0,  # its parts would count as calls
    }
    names = ", ".join(name for name, is_there in moved.items() if is_there)
    if names:
        text = f"eplb moves the weights of routed experts and counts calls, without {names}"
        return Reason(code="eplb_unsupported", text=text)
    return None


@reads("eplb", "layout", "num_experts", "router_groups")
def _groups_on_nodes(layer_spec: LayerSpec) -> Reason | None:
    """Refuse groups of experts that nodes, one for each DP rank, do not divide."""
    layout, groups, experts = layer_spec.layout, layer_spec.router_groups, layer_spec.num_experts
    nodes, ranks = layout.dp_size, len(layout.group("ep", 0))
    uneven = (groups % nodes, experts % groups, ranks % nodes)
    if layer_spec.eplb != "hierarchical" or not any(uneven):
        return None
    text = (
        f"eplb hierarchical keeps each group of experts on a node: {experts} experts in {groups} "
        f"router groups on {nodes} nodes (one for each DP rank) of {ranks} ranks do not divide; "
        "choose eplb global"
    )
    return Reason(code="eplb_groups_uneven", text=text)


@reads("chunk", "scheme")
def _chunked_scale(layer_spec: LayerSpec) -> Reason | None:
    """Refuse chunks of tokens if a dynamic scale is taken over all of them."""
    activations = layer_spec.scheme.activations
    formats = resolve("moe.formats:FORMATS")  # on use: its rows have Needs
    if not layer_spec.chunk or not formats.row(activations).spans_rows:
        return None
    text = (
        f"{activations} activations have a scale over all tokens of a call, and tokens in chunks "
        "would have others; leave `chunk` out"
    )
    return Reason(code="scale_spans_chunks", text=text)


# Needs of every member.
LAYER_NEEDS = tuple(
    Need.of(need)
    for need in (
        *(_impossible_moe_tp, _too_few_experts, _sequence_parallel_alone, _empty_shard),
        *(_impossible_groups, _several_weights, _no_columns_for_gate),
        *SHARED_EXPERTS_NEEDS,
        _weighted_zero_experts,
        _chunked_scale,
        *(_not_balanced, _groups_on_nodes),
    )
)


def layer_refusal(layer_spec: LayerSpec) -> Reason | None:
    """Return the reason why no member can serve a layer, or None."""
    return first_refusal(LAYER_NEEDS, layer_spec)
