"""Estimate what a case needs before it runs: bytes of memory and interpreted seconds.

Estimates are rough and on the safe side: a plan refuses what would not fit, so that no case is
killed for memory or waits minutes for an interpreter. No torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.matrix.call_modes import CALL_MODES
from moe.formats import FORMATS
from moe.spec import BLOCK, DTYPE_BYTES

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from moe.spec import LayerSpec

# Fields of the layer that the estimates read.
SIZES = (
    *("m", "hidden", "intermediate", "num_experts", "top_k", "layout"),
    *("shared_experts", "shared_width", "shared_fused"),
    "activation",  # whether there is a gate
    *("latent", "adapters", "lora_rank", "roundup", "pads"),
    *("redundant", "placed"),  # how many experts a rank has
)
_MB = 10**6
RANK_BYTES = {"cpu": 150 * _MB, "cuda": 1500 * _MB}  # a process by itself; with a GPU its context
CACHE_BYTES = {"cpu": 1 << 30, "cuda": 12 << 30}  # harness.fixtures.cache.BUDGET_BYTES
# Measured, for each weight of an expert while fixtures make it; malloc keeps some of what is freed.
_EXPERT_BYTES = {"cpu": 120, "cuda": 80}
SHARE = 0.8  # fraction of a memory that a plan may fill

# Interpreted Triton: seconds of a core, fitted to 376 recorded durations of whole cases (90 of
# `smoke`, 254 of `cpu`, 32 of one rank with up to 2048 x 2048 weights) on two cores with some other
# load. Nine of ten estimates lie between half and twice what was recorded.
_ALONE_SECONDS = 0.4  # of a case with one rank
_RANK_SECONDS = 0.9  # of each of several ranks, which also exchange and compare
_GROUP_SECONDS = 0.5  # more for each rank, if weights have groups
_ADAPTER_SECONDS = 0.9  # more for each rank, if experts have adapters
_BLOCK_SECONDS = 0.03  # for each block of one expert's tokens
_WEIGHT_SECONDS = 0.45e-6  # for each weight that a block meets
_ROW_SECONDS = 2e-6  # for each column of the hidden and the intermediate size of a row
_PRODUCT_SECONDS = 4e-9  # for each weight by which a row is multiplied
_BLOCK_TOKENS = 512
# With few tokens the layer is called about three times as often: harness.fixtures.call_sizes.
FEW_TOKENS, _MORE_CALLS = 4, 3
# Inside `moe.kernels.tiles.small_tiles`, fitted to 14 cases of the same runs.
_SMALL_ROWS, _SMALL_SIDE = 16, 32
_STEP_SECONDS = 0.016
# Largest multiple to which a method pads for a row that runs there: see moe.alignments.
_MULTIPLES = {"cpu": 8, "cuda": 256}
# A case that is expected to take longer is refused: a third of the time limit that most suites give
# a case, since estimates are off by a factor of two, and machines by another one.
INTERPRETER_SECONDS = 20.0


def rank_bytes(layer_spec: LayerSpec, device: str) -> int:
    """Return the bytes that one rank holds at its peak.

    Every rank judges its own tokens against the whole layer: it has all weights in the layer's
    dtype, and in float32, as far as its cache takes them; its own share; and the global tokens with
    both intermediates in float32, three times. While one expert is made, its weights take many
    times their size.
    """
    element = DTYPE_BYTES[layer_spec.dtype]
    expert = _matrices(layer_spec) * layer_spec.intermediate * layer_spec.expert_hidden
    total = layer_spec.held_experts * expert
    share, cache = _share_bytes(layer_spec, device), CACHE_BYTES[device]
    cached = max(share, min(total * element + share, cache))  # one value may be larger than a cache
    weights = cached + min(total * 4, cache // 4) + expert * _EXPERT_BYTES[device] + 2 * share
    shared = _matrices(layer_spec) * layer_spec.shared_columns * layer_spec.hidden
    weights += 2 * element * (shared + _added_weights(layer_spec))
    hidden, intermediate = padded_sizes(layer_spec, _MULTIPLES[device])
    tokens = layer_spec.m * layer_spec.layout.dp_size
    columns = (
        layer_spec.slots * (_matrices(layer_spec) * intermediate + hidden) + 6 * layer_spec.hidden
    )
    return RANK_BYTES[device] + weights + 3 * 4 * tokens * columns


def _share_bytes(layer_spec: LayerSpec, device: str) -> int:
    """Return the bytes that the largest share of the experts takes, padded, as its members hold it.

    It is there three times: in the cache, in the layer, and in the layer that repeats a call; or,
    while it is made, in parts and joined.
    """
    element, matrices = DTYPE_BYTES[layer_spec.dtype], _matrices(layer_spec)
    hidden, _ = padded_sizes(layer_spec, _MULTIPLES[device])
    multiple = _multiple(layer_spec, _MULTIPLES[device])
    columns = -(-max(layer_spec.shard_sizes) // multiple) * multiple
    expert_bytes = matrices * columns * hidden * (layer_spec.scheme.weight_bytes or element)
    if FORMATS[layer_spec.scheme.weights].group is not None:
        expert_bytes *= 2  # as they are stored, and as our kernels read them
    return max(len(experts) for experts in layer_spec.experts_by_rank) * expert_bytes


def padded_sizes(layer_spec: LayerSpec, largest: int = 1) -> tuple[int, int]:
    """Return the experts' hidden and intermediate size after padding, at most.

    largest: the largest multiple that a backend may need, if the method pads.
    """
    multiple = _multiple(layer_spec, largest)
    hidden = -(-layer_spec.expert_hidden // multiple) * multiple
    return hidden, sum(-(-size // multiple) * multiple for size in _shards(layer_spec))


def _multiple(layer_spec: LayerSpec, largest: int) -> int:
    return math.lcm(layer_spec.roundup, largest if layer_spec.pads else 1)


def _shards(layer_spec: LayerSpec) -> tuple[int, ...]:
    """Return the intermediate sizes of the ranks that share an expert."""
    return layer_spec.shard_sizes[: layer_spec.layout.size("moe_tp")]


def _matrices(layer_spec: LayerSpec) -> int:
    return 3 if layer_spec.gated else 2


def _added_weights(layer_spec: LayerSpec) -> int:
    """Return the number of weights of projections and adapters."""
    by_rank = _matrices(layer_spec) * (layer_spec.intermediate + layer_spec.expert_hidden)
    of_adapters = layer_spec.adapters * layer_spec.num_experts * layer_spec.lora_rank * by_rank
    return 2 * layer_spec.latent * layer_spec.hidden + of_adapters


def shortage(layer_spec: LayerSpec, machine: Machine) -> str | None:
    """Return why the ranks of this layer do not fit into the machine, or None."""
    per_rank = rank_bytes(layer_spec, machine.platform.device)
    ranks, memory, memory_name = _ranks_and_memory(layer_spec, machine)
    if ranks * per_rank <= SHARE * memory:
        return None
    return (
        f"{ranks} rank(s) with {per_rank / 1e9:.1f} GB each do not fit into {SHARE:.0%} "
        f"of {memory_name}'s {memory / 1e9:.1f} GB: {ranks * per_rank / 1e9:.1f} GB needed, "
        f"{SHARE * memory / 1e9:.1f} GB available"
    )


def memory_share(layer_spec: LayerSpec, machine: Machine) -> float:
    """Return the share of the memory that a plan may fill which the ranks of this layer take."""
    ranks, memory, _ = _ranks_and_memory(layer_spec, machine)
    return ranks * rank_bytes(layer_spec, machine.platform.device) / max(SHARE * memory, 1)


def _ranks_and_memory(layer_spec: LayerSpec, machine: Machine) -> tuple[int, int, str]:
    """Return how many ranks share a memory, its bytes, and what it is called."""
    world = layer_spec.layout.world_size
    if machine.platform.device == "cpu":
        return world, machine.memory_bytes, "main memory"
    return -(-world // max(1, machine.devices)), machine.device_bytes, "a device"


def interpreted_seconds(layer_spec: LayerSpec, cores: int) -> float:
    """Return the expected seconds of a case whose Triton kernels are interpreted, checks included.

    However it is sharded, each block of an expert's tokens meets all of that expert's weights.
    """
    world = layer_spec.layout.world_size
    rows = layer_spec.m * layer_spec.layout.dp_size * layer_spec.slots
    hidden, intermediate = padded_sizes(layer_spec)  # our kernels need no multiple
    blocks = _blocks(rows, layer_spec.held_experts) + layer_spec.shared_experts
    expert = _matrices(layer_spec) * intermediate * hidden
    met = blocks * expert
    if layer_spec.adapters:  # further kernels, and blocks of each pair of adapter and expert
        pairs = _blocks(rows, layer_spec.adapters * layer_spec.held_experts)
        met += pairs * layer_spec.lora_rank * _matrices(layer_spec) * (intermediate + hidden)
    launched = blocks * layer_spec.layout.size("moe_tp")  # each rank has its part of the expert
    calls = _MORE_CALLS if layer_spec.m <= FEW_TOKENS else 1
    kernels = calls * (launched * _BLOCK_SECONDS + met * _WEIGHT_SECONDS)
    of_row = (hidden + intermediate) * _ROW_SECONDS + expert * _PRODUCT_SECONDS
    return (_rank_seconds(layer_spec) + kernels + rows * of_row) / min(cores, world)


def case_seconds(case: MoETestConfig) -> float:
    """Return a measure of how long a case takes on one core, to compare with that of others.

    As if every kernel were interpreted, plus what its call mode adds.
    """
    return interpreted_seconds(case.layer_spec, 1) + CALL_MODES[case.call].seconds


def _blocks(rows: int, owners: int) -> int:
    """Return the blocks of rows, each of one expert or of one pair of an adapter and an expert."""
    return min(rows, owners) + rows // _BLOCK_TOKENS


def _rank_seconds(layer_spec: LayerSpec) -> float:
    """Return the seconds of all ranks that do not depend on sizes."""
    world = layer_spec.layout.world_size
    seconds = _ALONE_SECONDS if world == 1 else _RANK_SECONDS
    seconds += _GROUP_SECONDS * (FORMATS[layer_spec.scheme.weights].group is not None)
    return world * (seconds + _ADAPTER_SECONDS * (layer_spec.adapters > 0))


def small_tile_seconds(layer_spec: LayerSpec, cores: int) -> float:
    """Return the expected seconds of one case with interpreted kernels in small tiles.

    A program's step multiplies 16 rows of one expert by 32 x 32 weights, or by a block of scales.
    """
    tokens = layer_spec.m * layer_spec.layout.dp_size
    rows = tokens * layer_spec.slots
    blocks = min(rows, layer_spec.held_experts) + rows // _SMALL_ROWS
    has_blocks = FORMATS[layer_spec.scheme.weights].block == (BLOCK, BLOCK)
    side = BLOCK if has_blocks else _SMALL_SIDE
    tiles = -(-layer_spec.intermediate // side) * -(-layer_spec.hidden // side)
    steps = blocks * _matrices(layer_spec) * tiles
    work = _rank_seconds(layer_spec) + steps * _STEP_SECONDS
    return work / min(cores, layer_spec.layout.world_size)
