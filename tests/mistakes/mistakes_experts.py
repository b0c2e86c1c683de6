"""Mistakes inside the experts: order of gate and up, activation, tiles, buffers, the choice."""

from __future__ import annotations

import torch

from moe import batches, guarded_buffers, intermediates
from moe.activations.silu.member import SiluMul
from moe.experts import EXPERTS, sorted_rows, torch_grouped, triton_batched, triton_steps
from moe.experts import triton as triton_experts
from moe.experts.torch_grouped import TorchGroupedExperts
from moe.experts.torch_loop import TorchLoopExperts
from moe.types import Routing
from tests.mistakes.mistake import around, mistake

EP = {"dp_size": 2, "use_ep": True}


def prepared(patch, change, owner=TorchGroupedExperts):
    """Hand a backend other weights: `change(weights) -> weights`."""
    around(patch, owner, "prepare_weights", lambda real, self, w: real(self, change(w)))


def swapped(w):
    return w.replace(w13=w.w13.roll(w.w13.shape[1] // 2, 1))


@mistake("order of gate and up", "SGLang #32430", "gate_up_swapped")
def gate_and_up_swapped(patch):
    prepared(patch, swapped)


@mistake("order of gate and up", "vLLM #40082", "gate_up_swapped", experts="triton", m=4)
def gate_and_up_swapped_for_a_kernel(patch):
    prepared(patch, swapped, triton_experts.TritonExperts)


@mistake("interleaved gate and up", "vLLM #40082", "gate_up_interleaved")
def gate_and_up_read_as_interleaved(patch):
    def interleaved(w):
        return w.replace(w13=torch.cat([w.w13[:, 0::2], w.w13[:, 1::2]], dim=1))

    prepared(patch, interleaved)


def activated(patch, change, member=SiluMul):
    """Another function in place of the activation: `change(gate) * up`."""
    patch.setattr(member, "__call__", lambda self, gate, up: change(gate) * up)


@mistake("wrong activation", "vLLM #49747", "gelu", "gelu_tanh")
def gelu_instead_of_silu(patch):
    activated(patch, torch.nn.functional.gelu)


@mistake("wrong activation", "aiter #4482", "swiglu_oai", "which_function")
def silu_with_the_factor_of_another_model(patch):
    class PlusOne:
        def __init__(self, value):
            self.value = value

        def __mul__(self, up):
            return self.value * (up + 1)

    activated(patch, lambda gate: PlusOne(gate * torch.sigmoid(1.702 * gate)))


@mistake("wrong activation", "FI #2882", "silu_without_up")
def up_ignored(patch):
    """As for models without a gate: only the activation of one half."""

    class OnlyGate:
        def __init__(self, value):
            self.value = value

        def __mul__(self, up):
            return self.value

    activated(patch, lambda gate: OnlyGate(torch.nn.functional.silu(gate)))


@mistake("limit of the activation", "vLLM #41985", "gate_clamped", m=32)
def activation_clamped_though_not_asked(patch):
    """Gate and up at 7, as for models that ask for it."""

    class Clamped:
        def __init__(self, value):
            self.value = value

        def __mul__(self, up):
            return self.value * up.clamp(-7, 7)

    activated(patch, lambda gate: Clamped(torch.nn.functional.silu(gate.clamp(max=7))))


@mistake("tile drops the tail", "vLLM #49087", "last_block_zeroed", "zeros", k=320)
def hidden_beyond_the_last_whole_256_dropped(patch):
    """Kernel tiles of 256 columns without a tail."""

    def apply(real, self, x, routing):
        out = real(self, x, routing)
        out[:, out.shape[1] // 256 * 256 :] = 0
        return out

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake(
    "tile drops the tail",
    "DeepEP #413",
    "last_k_block_missing",
    "odd_k_blocks_missing",
    k=200,
    **EP,
)
def hidden_beyond_the_last_128_not_sent(patch):
    from moe.all2all.allgather_reducescatter import AllGatherReduceScatter

    def prepare(real, self, x, routing):
        codes = x.codes.clone()
        codes[:, codes.shape[1] // 128 * 128 :] = 0
        return real(self, x.replace(codes=codes), routing)

    around(patch, AllGatherReduceScatter, "prepare", prepare)


@mistake("layout of a warp", "aiter #4993", "rows_moved", "stage_moved", "swapped", m=16)
def rows_swapped_in_pairs(patch):
    def apply(real, self, x, routing):
        out = real(self, x, routing)
        order = torch.arange(len(out)) ^ 1
        return out[order.clamp(max=len(out) - 1)]

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("a tile returns zeros", "aiter #4451", "zeros")
def zeros_for_few_tokens(patch):
    def apply(real, self, x, routing):
        out = real(self, x, routing)
        return out.zero_() if len(out) <= 32 else out

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("one bucket of tokens", "aiter #3933", "expert_dropped", m=4)
def wrong_for_three_and_four_tokens_only(patch):
    """The last expert is left out, but only where that bucket's kernel runs."""

    def apply(real, self, x, routing):
        ids = routing.topk_ids
        if 3 <= len(ids) <= 4:
            ids = torch.where(ids == self.num_local - 1, -1, ids)
        return real(self, x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("unwritten rows summed", "vLLM #54083", "says:never written, or computed from NaN", **EP)
def slots_without_an_expert_not_left_out(patch):
    """NaN of an unwritten row times a weight of zero is NaN."""

    def plain(real, y, routing):
        used = (routing.topk_ids >= 0)[:, :, None]
        weighted = y.float() * (routing.topk_weights[:, :, None] * used)
        return weighted.sum(dim=1).to(y.dtype)

    def unwritten(real, x, w, ends):
        out = real(x, w, ends)
        out[int(ends[-1]) :] = float("nan")
        return out

    around(patch, sorted_rows, "weighted_sum", plain)
    around(patch, torch_grouped, "_grouped_mm", unwritten)


@mistake(
    "unwritten rows summed",
    "vLLM #46408",
    "says:never written, or computed from NaN",
    experts="triton",
    m=2,
    **EP,
)
def kernel_sums_the_rows_of_minus_one(patch):
    def all_rows(real, y, weights, ids):
        return real(y, weights, ids.clamp(min=0))

    around(patch, triton_experts, "combine", all_rows)


@mistake("stale workspace", "vLLM #54083", "stale_sum")
def sums_of_the_call_before_left_in_place(patch):
    left = []

    def apply(real, self, x, routing):
        out = real(self, x, routing)
        rows = min(len(out), len(left[0])) if left else 0
        if rows:
            out[:rows] += left[0][:rows]
        left.append(out.clone())
        return out

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("workspace of one chunk", "vLLM #20392", "rows_moved", "stage_moved", m=48)
def second_chunk_overwrites_the_first(patch):
    def apply(real, self, x, routing):
        out = real(self, x, routing)
        rest = len(out) - 32
        if rest > 0:
            out[:rest] = out[32:].clone()
        return out

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("index overflow", "vLLM #34279", "which_expert", num_experts=8)
def offsets_of_the_upper_experts_wrap(patch):
    def wrapped(w):
        half = len(w.w13) // 2
        return w.replace(w13=torch.cat([w.w13[:half], w.w13[:half]]))

    prepared(patch, wrapped)


@mistake("route map one short", "FI #4237", "row_zeroed", "zeros", "expert_dropped", top_k=1)
def last_token_never_routed(patch):
    def apply(real, self, x, routing):
        ids = routing.topk_ids.clone()
        ids[-1, -1] = -1
        return real(self, x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("write past the end", "FI #4186", "says:memory: .* after a buffer")
def tail_copy_writes_past_its_buffer(patch):
    def apply(real, self, x, routing):
        out = real(self, x, routing)
        y = guarded_buffers.empty(out.shape, dtype=out.dtype, device=out.device).copy_(out)
        y.as_strided((8,), (1,), y.storage_offset() + y.numel()).zero_()
        return y

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("uninitialised output", "SGLang #33106", "says:never written", m=5)
def last_row_never_written(patch):
    def apply(real, self, x, routing):
        out = real(self, x, routing)
        y = guarded_buffers.empty(out.shape, dtype=out.dtype, device=out.device)
        y[:-1] = out[:-1]
        return y

    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("weights moved, map not", "vLLM #28377", "ids_one_too_low", "ids_off_by_one")
def weights_of_two_experts_exchanged(patch):
    prepared(patch, lambda w: w.replace(w13=w.w13.roll(1, 0), w2=w.w2.roll(1, 0)))


@mistake("weights half loaded", "SGLang #39580", "w2_of_expert_before")
def second_matrix_of_the_expert_before(patch):
    prepared(patch, lambda w: w.replace(w2=w.w2.roll(1, 0)))


@mistake("weight layout", "FI #3334", "w2_blocks_transposed", n=128, k=128)
def second_matrix_transposed(patch):
    prepared(patch, lambda w: w.replace(w2=w.w2.transpose(1, 2).contiguous()))


@mistake(
    "cut off, not rounded",
    "aiter #5151",
    "says:truncation instead of rounding",
    experts="triton",
    m=32,
    k=512,
)
def output_cut_off_instead_of_rounded(patch):
    """By less than a step in each element, and always towards zero; no stage is handed out."""
    around(
        patch,
        intermediates,
        "keep",
        lambda real, stage, *a, **kw: stage in OUTSIDE and real(stage, *a),
    )
    around(patch, triton_experts, "combine", cut_off)


OUTSIDE = {*intermediates.EXPERT_INPUTS, "finalize", "out"}


def cut_off(real, *args):
    bits = real(*args, dtype=torch.float32).view(torch.int32) & -(1 << 16)
    return bits.view(torch.float32).to(torch.bfloat16)


@mistake("another backend ran", "vLLM #55232")
def asked_for_one_backend_and_ran_another(patch):
    around(patch, type(EXPERTS), "load", swap_backend)


def swap_backend(real, self, name):
    return TorchLoopExperts if name == "torch_grouped" else real(self, name)


BATCHED = {"experts": "triton_batched", "m": 6}


@mistake("last row of a batch lost", "vLLM #19515", **BATCHED)
def last_row_of_each_batch_not_computed(patch):
    around(
        patch,
        triton_batched,
        "batched_gemm",
        lambda real, x, w, counts, **options: real(x, w, (counts - 1).clamp(min=0), **options),
    )


@mistake("rows of the neighbour's batch", "vLLM #19515", "ids_one_too_low", **BATCHED)
def weights_of_the_next_batch(patch):
    def shifted(real, x, w, counts, **options):
        return real(x, w.replace(codes=w.codes.roll(1, 0)), counts, **options)

    around(patch, triton_batched, "batched_gemm", shifted)


@mistake(
    "padding rows of a batch",
    "aiter #3677",
    "says:NaN|Inf",
    experts="triton_batched",
    quant="fp8_tensor_dynamic",
)
def scale_taken_over_padding_rows_of_batches(patch):
    around(
        patch,
        triton_steps,
        "tensor_scale",
        lambda real, h, slots, kind: real(h, torch.zeros_like(slots), kind),
    )


@mistake("overflow of a batch", "vLLM #20392", **BATCHED)
def rows_beyond_the_capacity_are_dropped(patch):
    patch.setattr(batches, "_check_counts", lambda counts, capacity: None)
    patch.setattr(triton_batched.TritonBatchedExperts, "capacity", lambda self, tokens: 2)
