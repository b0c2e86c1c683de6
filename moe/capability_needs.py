"""Refuse a layer or a platform where a field of a row's `Needs` does not hold.

`moe.needs` lists these checks with those of experts backends and of packages. Torch-free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import roundup
from moe.need import ANY, Anything, reads, resolve
from moe.needs_form import unknown_format
from moe.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe.needs import Needs
    from moe.spec import LayerSpec, Platform

    Check = Callable[[Needs, Platform, LayerSpec], Reason | None]


@reads()
def _features(needs: Needs, platform: Platform, _: LayerSpec) -> Reason | None:
    """Refuse a platform that lacks one of `features`."""
    missing = sorted(needs.features - platform.features)
    if missing:
        text = f"needs {', '.join(missing)}, which {platform.name} does not have"
        return Reason(code="platform_lacks_feature", text=text)
    return None


@reads("dtype")
def _dtype(needs: Needs, _: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a dtype that is not in `dtypes`."""
    if isinstance(needs.dtypes, Anything) or layer_spec.dtype in needs.dtypes:
        return None
    text = f"takes dtype {', '.join(sorted(needs.dtypes))}, not {layer_spec.dtype}"
    return Reason(code="dtype_unsupported", text=text)


@reads("scheme")
def _formats(needs: Needs, platform: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse the weight format if no pair has it, otherwise the activation format."""
    weights, activations = layer_spec.scheme.weights, layer_spec.scheme.activations
    pairs = needs.formats_for(platform)
    if isinstance(pairs, Anything) or (weights, activations) in pairs:
        return None
    where = f" on {platform.name}" if needs.formats_on else ""
    partners = sorted(a for w, a in pairs if w == weights)
    if partners:
        text = f"takes {weights} weights with activation_format {', '.join(partners)}{where}, "
        return Reason(code="activation_format_unsupported", text=f"{text}not {activations}")
    supported = ", ".join(sorted({w for w, _ in pairs}))
    text = f"takes weight_format {supported}{where}, not {weights}{unknown_format(pairs)}"
    return Reason(code="weight_format_unsupported", text=text)


@reads("scheme")
def _code_features(_: Needs, platform: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse formats whose codes this platform's matrix units do not take."""
    formats = resolve("moe.formats:FORMATS")  # imported on use: its rows are built from Needs
    for name in (layer_spec.scheme.weights, layer_spec.scheme.activations):
        missing = sorted(formats[name].needs.features - platform.features)
        if missing:
            text = (
                f"multiplies {name} codes, which needs {', '.join(missing)}; {platform.name} does "
                "not have it: choose another quant, or a backend whose needs say `dequantizes`"
            )
            return Reason(code="platform_lacks_feature", text=text)
    return None


@reads("padding")
def _padding(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse padding rows."""
    if not layer_spec.padding:
        return None
    text = "does not say that its rows may be padding (`padding` in its needs)"
    return Reason(code="padding_unsupported", text=text)


@reads("adapters")
def _adapters(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse low-rank adapters."""
    if not layer_spec.adapters:
        return None
    text = "does not say that tokens may have low-rank adapters (`adapters` in its needs)"
    return Reason(code="lora_unsupported", text=text)


@reads("eplb")
def _eplb(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse experts that are moved by load balancing."""
    if layer_spec.eplb == "none":
        return None
    text = "does not say that experts may be moved by load balancing (`eplb` in its needs)"
    return Reason(code="eplb_unsupported", text=text)


@reads("scheme")
def _spanning_scales(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse activations with a dynamic scale over all rows of a call."""
    formats = resolve("moe.formats:FORMATS")  # imported on use: its rows are built from Needs
    activations = layer_spec.scheme.activations
    if not formats[activations].spans_rows:
        return None
    text = (
        f"does not bring every row to every rank (`spanning_scales` in its needs), where the scale "
        f"of {activations} activations is taken over all of them"
    )
    return Reason(code="scale_spans_ranks", text=text)


@reads("capacity")
def _capacity(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a fixed capacity of experts."""
    if not layer_spec.capacity:
        return None
    text = "has no blocks with a fixed number of rows (`capacity` in its needs)"
    return Reason(code="capacity_unsupported", text=text)


@reads("layout")
def _moe_tp(_: Needs, __: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse experts that are spread over some ranks and split over others."""
    if layer_spec.layout.moe_tp_size == 1:
        return None
    text = "does not say that spread experts may be split, too (`moe_tp` in its needs)"
    return Reason(code="layout_unsupported", text=text)


@reads("layout")
def _world(needs: Needs, _: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse more ranks than `max_world`."""
    if needs.max_world is None or layer_spec.layout.world_size <= needs.max_world:
        return None
    text = f"serves at most {needs.max_world} rank(s), not {layer_spec.layout.world_size}"
    return Reason(code="too_many_ranks", text=text)


@reads("hidden", "latent", "scheme", "pads", "roundup")
def _hidden(needs: Needs, platform: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a hidden size that is not the needed multiple, after padding if the method pads."""
    multiple = roundup.hidden_multiple(needs, layer_spec, platform.features)
    if roundup.padded_hidden(needs, layer_spec, platform.features) % multiple == 0:
        return None
    text = f"hidden size {layer_spec.expert_hidden} is not a multiple of {multiple}"
    return Reason(code="size_not_multiple", text=text)


@reads("intermediate", "layout", "scheme", "pads", "roundup")
def _shard(needs: Needs, platform: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a rank's intermediate size in the same way."""
    multiple = roundup.shard_multiple(needs, layer_spec, platform.features)
    padded = roundup.padded_shards(needs, layer_spec, platform.features)
    odd = [size for size, p in zip(layer_spec.shard_sizes, padded, strict=True) if p % multiple]
    if not odd:
        return None
    text = f"a rank's intermediate size {odd[0]} is not a multiple of {multiple}"
    return Reason(code="size_not_multiple", text=text)


@reads("hidden", "latent", "intermediate", "layout", "scheme", "pads", "roundup")
def _aligned(needs: Needs, platform: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse sizes that are not the multiples of `alignments`, in the same way."""
    return _hidden(needs, platform, layer_spec) or _shard(needs, platform, layer_spec)


# Field of Needs, in the order of checking -> the value that restricts nothing, and the check.
CAPABILITY_CHECKS: dict[str, tuple[object, Check]] = {
    "features": (frozenset(), _features),
    "dtypes": (ANY, _dtype),
    "formats": (ANY, _formats),
    "dequantizes": (True, _code_features),
    "padding": (True, _padding),
    "adapters": (True, _adapters),
    "eplb": (True, _eplb),
    "spanning_scales": (True, _spanning_scales),
    "capacity": (True, _capacity),
    "moe_tp": (True, _moe_tp),
    "max_world": (None, _world),
    "hidden_multiple": (1, _hidden),
    "shard_multiple": (1, _shard),
    "alignments": ((), _aligned),
}
