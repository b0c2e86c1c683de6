"""Name what is called of released packages that move tokens between ranks. Torch-free.

The adapters are `moe.all2all.flashinfer_nvlink`, the only one that has run so far, `deepep_ht`,
`deepep_ll`, `mori` and `nixl`; all of them number the experts of a group rank by rank, so that each
expert must be on one rank.
"""

from __future__ import annotations

from moe.packages import Package
from moe.reason import Reason
from moe.spec import LayerSpec, Platform, reads

_ALLTOALL = "flashinfer.comm.trtllm_moe_alltoall"
FLASHINFER = Package(
    distribution="flashinfer-python",
    module="flashinfer",
    at_least="0.6.13",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_ALLTOALL}:MoeAlltoAll(mapping, max_num_tokens, top_k, num_experts, "
        "workspace_size_per_rank, mnnvl_config)",
        f"{_ALLTOALL}:MoeAlltoAll.dispatch(token_selected_experts, input_payloads, "
        "runtime_max_tokens_per_rank, invalid_token_expert_id, expert_id_payload_index)",
        f"{_ALLTOALL}:MoeAlltoAll.combine(payload, runtime_max_tokens_per_rank)",
        f"{_ALLTOALL}:moe_a2a_get_workspace_size_per_rank(ep_size, max_num_tokens, "
        "total_dispatch_payload_size_per_token, combine_payload_size_per_token)",
        "flashinfer.comm.mapping:Mapping(world_size, rank, gpus_per_node, tp_size, moe_ep_size)",
        "flashinfer.comm.mnnvl:MnnvlConfig(comm_backend)",
        "flashinfer.comm.mnnvl:TorchDistBackend(group)",
    ),
    imports=("flashinfer.comm",),
)

_BUFFER = "deep_ep.buffer:Buffer"
# The name is also that of an empty package in the usual index, which lacks what is called.
DEEP_EP = Package(
    distribution="deep_ep",
    module="deep_ep",
    at_least="1.2",
    below="2",
    why="the versions whose arguments these adapters were written for",
    calls=(
        f"{_BUFFER}(group, num_nvl_bytes, num_rdma_bytes, low_latency_mode, num_qps_per_rank)",
        f"{_BUFFER}.get_dispatch_config(num_ranks)",
        f"{_BUFFER}.get_combine_config(num_ranks)",
        f"{_BUFFER}.get_dispatch_layout(topk_idx, num_experts)",
        f"{_BUFFER}.dispatch(x, num_tokens_per_rank, num_tokens_per_rdma_rank, is_token_in_rank, "
        "num_tokens_per_expert, topk_idx, topk_weights)",
        f"{_BUFFER}.combine(x, handle)",
        f"{_BUFFER}.get_low_latency_rdma_size_hint(num_max_dispatch_tokens_per_rank, hidden, "
        "num_ranks, num_experts)",
        f"{_BUFFER}.low_latency_dispatch(x, topk_idx, num_max_dispatch_tokens_per_rank, "
        "num_experts, use_fp8)",
        f"{_BUFFER}.low_latency_combine(x, topk_idx, topk_weights, handle)",
    ),
    imports=("deep_ep",),
)

_OPS = "mori.ops.dispatch_combine"
MORI = Package(
    distribution="amd-mori",
    module="mori",
    at_least="1.2",
    why="hidden sizes and dtypes are taken from the tensors since then",
    calls=(
        f"{_OPS}:EpDispatchCombineConfig.max_token_type_size",
        f"{_OPS}:EpDispatchCombineConfig.max_num_inp_token_per_rank",
        f"{_OPS}:EpDispatchCombineOp(config)",
        f"{_OPS}:EpDispatchCombineOp.dispatch(input, weights, scales, indices)",
        f"{_OPS}:EpDispatchCombineOp.combine(input, weights, indices)",
        f"{_OPS}:EpDispatchCombineOp.get_dispatch_src_token_pos()",
    ),
    imports=("mori",),
)

# `nixl_ep` fetches its names from `nixl_ep_cu12` or `nixl_ep_cu13` while it is imported, so that
# its source tells nothing: see the test of this module for the signatures.
NIXL = Package(
    distribution="nixl",
    module="nixl_ep",
    at_least="1.5",
    why="the methods are called low_latency_dispatch and low_latency_combine since then",
    imports=("nixl_ep",),
)
_NIXL_METHODS = (
    "(rank, low_latency_mode, group)",
    ".get_low_latency_buffer_size_hint(num_max_dispatch_tokens_per_rank, hidden, num_ranks, "
    "num_experts)",
    ".update_memory_buffers(num_ranks, num_experts_per_rank, num_rdma_bytes)",
    ".connect_ranks(remote_ranks)",
    ".low_latency_dispatch(x, topk_idx, num_max_dispatch_tokens_per_rank, num_experts, use_fp8)",
    ".low_latency_combine(x, topk_idx, topk_weights, handle)",
)


def nixl_calls(backend: str) -> tuple[str, ...]:
    """Return what is called of NIXL's module for one CUDA version, such as `nixl_ep_cu12`."""
    return tuple(f"{backend}.buffer:Buffer{method}" for method in _NIXL_METHODS)


# For which the kernels are compiled.
_FLASHINFER_TOP_K = frozenset({1, 2, 4, 6, 8, 10, 16, 22})
_LOW_LATENCY_HIDDEN = frozenset({2048, 2560, 4096, 5120, 6144, 7168, 8192})
_INTRANODE_RANKS = frozenset({2, 4, 8})


@reads("layout")
def experts_are_spread(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse ranks that share experts, or of which none exchanges tokens with another."""
    layout = layer_spec.layout
    ranks = len(layout.group("gather", 0))
    if layout.use_ep and ranks > 1:
        return None
    text = (
        "exchanges tokens between ranks of which each holds other experts: use expert parallelism "
        f"over more than one group of tokens, not {ranks} rank(s) "
        f"{'with' if layout.use_ep else 'without'} it"
    )
    return Reason(code="layout_unsupported", text=text)


@reads("layout", "top_k")
def fits_flashinfer(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse what `experts_are_spread` does, and a top-k without a compiled kernel."""
    if layer_spec.top_k in _FLASHINFER_TOP_K:
        return experts_are_spread(layer_spec, platform)
    return _no_kernel("top_k", layer_spec.top_k, _FLASHINFER_TOP_K)


@reads("layout")
def fits_one_host(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse what `experts_are_spread` does, and other numbers of ranks than DeepEP tunes for."""
    ranks = len(layer_spec.layout.group("gather", 0))
    if ranks in _INTRANODE_RANKS or ranks == 1:
        return experts_are_spread(layer_spec, platform)
    text = f"exchanges tokens within one host between {_words(_INTRANODE_RANKS)} ranks, not {ranks}"
    return Reason(code="layout_unsupported", text=text)


@reads("layout", "hidden", "latent")
def fits_low_latency(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse what `experts_are_spread` does, and a hidden size without a compiled kernel."""
    if layer_spec.expert_hidden in _LOW_LATENCY_HIDDEN:
        return experts_are_spread(layer_spec, platform)
    return _no_kernel("hidden size", layer_spec.expert_hidden, _LOW_LATENCY_HIDDEN)


def _no_kernel(what: str, value: int, compiled: frozenset[int]) -> Reason:
    text = f"has kernels for a {what} of {_words(compiled)}, not {value}"
    return Reason(code="size_not_compiled", text=text)


def _words(numbers: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
