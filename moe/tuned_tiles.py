"""Name the tiles of a package's tuned configurations, so that a case can ask for each. Torch-free.

vLLM and SGLang choose the tile of their Triton kernel from files such as
`E=8,N=1792,device_name=NVIDIA_H200,dtype=fp8_w8a8.json`, one for each card and size that somebody
tuned; a machine and a few shapes reach few of them. `m16n64k128g1w4s5` is a tile of 16 rows, 64
columns and steps of 128, whose programs run in groups of 1 block of rows, with 4 warps and 5
stages. The interpreter knows neither warps nor stages: rows that it runs name `m16n64k128g1` once.
Where the package is not installed, there are no names.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from moe.package_source import source_file
from moe.spec import reads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moe.spec import LayerSpec

VLLM = "vllm.model_executor.layers.fused_moe.fused_moe"
SGLANG = "sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe_triton_config"
_FILE = re.compile(
    r"E=\d+,N=\d+,device_name=[^,]+?(,dtype=(?P<dtype>\w+?))?"
    r"(,block_shape=\[(?P<block>[\d, ]+)\])?(?P<channel>,per_channel_quant=True)?(_down)?\.json"
)
# Triton's own defaults stand in where a file names no warps or stages.
_SIZES: dict[str, tuple[str, int | None]] = {
    "m": ("BLOCK_SIZE_M", None),
    "n": ("BLOCK_SIZE_N", None),
    "k": ("BLOCK_SIZE_K", None),
    "g": ("GROUP_SIZE_M", None),
    "w": ("num_warps", 4),
    "s": ("num_stages", 3),
}
_INTERPRETED = 4  # of these, the sizes that the interpreter knows
_FP8 = ("fp8_w8a8", None, False)
_VLLM_KINDS = {
    "model": (None, None, False),
    "int8_token": (None, None, False),  # vLLM looks for no file of its own for int8
    "fp8_group": ("fp8_w8a8", (128, 128), False),
    **dict.fromkeys(("fp8_static", "fp8_dynamic", "fp8_token"), _FP8),
}
_SGLANG_KINDS = {
    **_VLLM_KINDS,
    "int8_token": ("int8_w8a8", None, False),
    "fp8_token": ("fp8_w8a8", None, True),
}


@reads("scheme")
def vllm_configurations(layer_spec: LayerSpec) -> tuple[str, ...]:
    """Return the names of vLLM's tuned tiles for the number formats of a layer, smallest first."""
    return tiles(VLLM, _VLLM_KINDS.get(layer_spec.scheme.activations), len(_SIZES))


@reads("scheme")
def vllm_tiles(layer_spec: LayerSpec) -> tuple[str, ...]:
    """Return the same without warps and stages."""
    return tiles(VLLM, _VLLM_KINDS.get(layer_spec.scheme.activations), _INTERPRETED)


@reads("scheme")
def sglang_tiles(layer_spec: LayerSpec) -> tuple[str, ...]:
    """Return the names of SGLang's tuned tiles for a layer, without warps and stages."""
    return tiles(SGLANG, _SGLANG_KINDS.get(layer_spec.scheme.activations), _INTERPRETED)


def config_of(name: str) -> dict[str, int]:
    """Return the configuration of a tile as both packages' kernels take it."""
    numbers = re.findall(r"([a-z])(\d+)", name)
    return {_SIZES[letter][0]: int(number) for letter, number in numbers}


@cache
def tiles(module: str, kind: tuple[Any, ...] | None, sizes: int) -> tuple[str, ...]:
    """Return the names of the tiles in the files of one kind in `configs` beside a module.

    kind: dtype, block and whether scales belong to channels, as in a file's name; None: no file.
    sizes: how many of m, n, k, g, w, s a name has.
    """
    path = source_file(module)
    if path is None or kind is None:
        return ()
    files = (path.parent / "configs").rglob("E=*.json")
    tiles = {tile[:sizes] for file in files if _kind(file) == kind for tile in _in_file(file)}
    return tuple("".join(f"{c}{n}" for c, n in zip(_SIZES, t, strict=False)) for t in sorted(tiles))


def _kind(file: Path) -> tuple[Any, ...] | None:
    """Return dtype, block and whether scales belong to channels; None for another name."""
    match = _FILE.fullmatch(file.name)
    if match is None:
        return None
    block = None if match["block"] is None else tuple(map(int, match["block"].split(",")))
    return match["dtype"], block, match["channel"] is not None


def _in_file(file: Path) -> Iterator[tuple[int, ...]]:
    """Yield the sizes of each configuration, in the order of `_SIZES`; skip other kernels'."""
    for value in json.loads(file.read_text(encoding="utf-8")).values():
        if isinstance(value, dict) and "GROUP_SIZE_M" in value:
            yield tuple(
                value[key] if d is None else value.get(key, d) for key, d in _SIZES.values()
            )
