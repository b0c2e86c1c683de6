"""Define what every layer with shared experts needs: options that fit each other. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.layout import chunk
from moe.need import reads, resolve
from moe.reason import Reason

if TYPE_CHECKING:
    from moe.formats.format import Format
    from moe.registry import Registry
    from moe.spec import LayerSpec


@reads("shared_experts", "shared_width", "shared_scheme", "shared_gate", "shared_fused")
def _no_shared_experts(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a description of shared experts that a layer does not have."""
    described = {
        "shared_width": layer_spec.shared_width > 0,
        "shared_scheme": layer_spec.shared_scheme.weights != "model",
        "shared_gate": layer_spec.shared_gate,
        "shared_fused": layer_spec.shared_fused,
    }
    names = ", ".join(name for name, is_described in described.items() if is_described)
    if layer_spec.shared_experts or not names:
        return None
    text = f"the layer has no shared experts, but {names}; leave it out, or set shared_experts"
    return Reason(code="no_shared_experts", text=text)


@reads(
    *("shared_fused", "shared_width", "shared_scheme", "zero_experts"),
    *("weights_input", "latent", "adapters"),
)
def _fused_differently(layer_spec: LayerSpec) -> Reason | None:
    """Refuse fused shared experts that are not like the routed ones, or join another feature."""
    if not layer_spec.shared_fused:
        return None
    differs = {
        "shared_width": layer_spec.shared_width > 0,
        "shared_scheme": layer_spec.shared_scheme.weights != "model",
        "zero_experts": layer_spec.zero_experts > 0,
        "weights_input": layer_spec.weights_input,
        "latent": layer_spec.latent > 0,
        "adapters": layer_spec.adapters > 0,
    }
    names = ", ".join(name for name, is_different in differs.items() if is_different)
    if not names:
        return None
    text = f"fused shared experts are as the routed ones, without {names}; leave shared_fused out"
    return Reason(code="fused_shared_unsupported", text=text)


@reads("layout", "shared_experts", "shared_width", "shared_fused", "intermediate")
def _empty_shared_shard(layer_spec: LayerSpec) -> Reason | None:
    """Refuse shared experts with fewer columns than TP ranks that split them."""
    layout, columns = layer_spec.layout, layer_spec.shared_columns
    if layer_spec.shared_fused or columns == 0 or layout.sequence_parallel:
        return None
    if columns >= layout.tp_size:
        return None
    text = f"{columns} columns of shared experts over {layout.tp_size} ranks leave a rank empty"
    return Reason(code="empty_shard", text=text)


@reads("shared_scheme")
def _shared_scale(layer_spec: LayerSpec) -> Reason | None:
    """Refuse calibrated scales, and one that all tokens of the shared experts would share."""
    fmt = _formats().row(layer_spec.shared_scheme.activations)
    if not (fmt.has_one_scale or fmt.static):
        return None
    text = (
        f"shared experts take dynamic scales of tokens or groups, not {fmt.name}; "
        "choose another shared_quant"
    )
    return Reason(code="shared_experts_unsupported", text=text)


@reads("shared_scheme", "hidden")
def _shared_groups(layer_spec: LayerSpec) -> Reason | None:
    """Refuse a hidden size that ends inside a group: codes are packed in whole groups."""
    group = _formats().row(layer_spec.shared_scheme.weights).group
    if group is None or layer_spec.hidden % group == 0:
        return None
    text = (
        f"shared experts: the hidden size {layer_spec.hidden} is not a multiple of a group, {group}"
        "; choose another size or shared_quant"
    )
    return Reason(code="group_does_not_divide", text=text)


@reads("layout", "shared_experts", "shared_width", "shared_scheme", "intermediate")
def _shared_blocks(layer_spec: LayerSpec) -> Reason | None:
    """Refuse shards of the shared experts, and a gate/up seam, that cut a block of scales."""
    layout, width = layer_spec.layout, layer_spec.shared_columns
    fmt = _formats().row(layer_spec.shared_scheme.weights)
    shards = 1 if layout.sequence_parallel else layout.tp_size
    edges = [chunk(width, shards, tp_rank).stop for tp_rank in range(shards)]
    for block in (fmt.packing, *(side for side in fmt.block or () if side)):
        cut = next((edge for edge in edges if edge % block), None)
        if cut is not None:
            text = f"shared experts: a rank's columns end at {cut}, inside a block of {block}"
            return Reason(code="block_straddles_shard", text=text)
    return None


def _formats() -> Registry[Format]:
    formats: Registry[Format] = resolve("moe.formats:FORMATS")  # on use: its rows have Needs
    return formats


# In the order of checking.
SHARED_EXPERTS_NEEDS = (
    *(_no_shared_experts, _fused_differently, _empty_shared_shard),
    *(_shared_scale, _shared_groups, _shared_blocks),
)
