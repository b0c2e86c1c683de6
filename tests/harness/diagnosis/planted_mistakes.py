"""Mistakes as people make them in a stack like ours, to plant into the real one.

Each entry of MISTAKES replaces one thing while a case runs; the case must then fail, and say
something that fits. `plant` gets a `pytest.MonkeyPatch`, in the rank's own process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from moe import expert_shards, guarded_buffers, layer, moe_kernel
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.all2all.local import Local
from moe.collectives import Group
from moe.experts import torch_loop, triton, triton_steps
from moe.experts.torch_loop import TorchLoopExperts
from moe.kernels import rounding
from moe.quant import base as quant_base
from moe.quant.base import QuantMethod
from moe.quant.fp8_tensor import Fp8TensorDynamic
from moe.routers.softmax.member import SoftmaxTopK
from moe.shared import SharedExperts
from moe.types import Activations, Routing
from tests.harness.execute_ranks import case
from tests.mistakes.expert_maps import first, moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.matrix.case import MoETestConfig

ROWS = r"rows wrong"


@dataclass(frozen=True)
class Mistake:
    plant: Callable
    case: MoETestConfig
    says: str = ROWS  # searched in the messages


MISTAKES: dict[str, Mistake] = {}


def mistake(says: str = ROWS, **fields):
    """Register a function of a MonkeyPatch as a mistake, to be planted into this case."""

    def register(plant):
        one_rank = (
            {"all2all": "local"} if "dp_size" not in fields and "tp_size" not in fields else {}
        )
        MISTAKES[plant.__name__] = Mistake(plant, case(**one_rank, **fields), says)
        return plant

    return register


def around(patch, owner, name, change):
    """Replace `owner.name` by `change(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kw: change(original, *args, **kw))


def prepared_with(patch, change, owner=TorchLoopExperts):
    """Hand a backend other weights than it should get."""
    around(patch, owner, "prepare_weights", lambda real, self, w: real(self, change(w)))


# --- weights


@mistake()
def gate_and_up_swapped(patch):
    prepared_with(patch, lambda w: w.replace(w13=w.w13.roll(w.w13.shape[1] // 2, 1)))


@mistake(experts="triton")
def gate_and_up_swapped_in_triton(patch):
    swap = lambda w: w.replace(w13=w.w13.roll(w.w13.shape[1] // 2, 1))  # noqa: E731
    prepared_with(patch, swap, triton.TritonExperts)


@mistake(quant="int8_channel")
def w2_scale_dropped(patch):
    prepared_with(patch, lambda w: w.replace(w2_scale=torch.ones_like(w.w2_scale)))


@mistake(quant="fp8_tensor")
def scales_of_the_neighbouring_expert(patch):
    prepared_with(patch, lambda w: w.replace(w13_scale=w.w13_scale.roll(1)))


@mistake(quant="fp8_block", n=256, k=256)
def one_expert_s_block_scales_shifted(patch):
    def shift(w):
        scale = w.w2_scale.clone()
        scale[1] = scale[1].roll(1, dims=0)
        return w.replace(w2_scale=scale)

    prepared_with(patch, shift)


@mistake(quant="fp8_block", n=256, k=256)
def block_scales_transposed(patch):
    prepared_with(patch, lambda w: w.replace(w2_scale=w.w2_scale.transpose(1, 2).contiguous()))


@mistake()
def last_expert_never_loaded(patch):
    prepared_with(patch, lambda w: w.replace(w2=torch.cat([w.w2[:-1], w.w2[-1:] * 0])))


# --- quantization


def skipped(real, self, x, scale):
    return Activations(codes=x)


@mistake(quant="int8_channel")
def second_quantization_skipped_int8(patch):
    patch.setattr(QuantMethod, "quantize_intermediate", lambda *a: skipped(None, *a))


@mistake(quant="fp8_block")
def second_quantization_skipped_fp8_block(patch):
    patch.setattr(QuantMethod, "quantize_intermediate", lambda *a: skipped(None, *a))


@mistake(quant="fp8_tensor")
def second_quantization_skipped_fp8_tensor(patch):
    patch.setattr(QuantMethod, "quantize_intermediate", lambda *a: skipped(None, *a))


@mistake(quant="int8_channel", experts="triton")
def one_scale_for_all_tokens_in_triton(patch):
    def together(real, h, kind, group):
        scale = h.float().abs().amax() / 127
        codes = (h.float() / scale).round().to(torch.int8)
        return codes, scale.expand(len(h), 1).contiguous()

    around(patch, triton_steps, "quantize_rows", together)


@mistake(quant="fp8_block")
def first_quantization_skipped(patch):
    from moe.quant.fp8_block import Fp8Block

    real = Fp8Block.quantize_input
    patch.setattr(Fp8Block, "quantize_input", lambda *a: skipped(None, *a))
    patch.setattr(Fp8Block, "quantize_intermediate", real)


@mistake(quant="fp8_tensor")
def static_scale_one_step_too_large(patch):
    """By one step of e4m3: codes and values still fit together, but are other ones."""
    prepared_with(patch, lambda w: w.replace(a2_scale=w.a2_scale * 1.125))


@mistake(quant="fp8_tensor")
def static_scale_of_the_other_product(patch):
    prepared_with(patch, lambda w: w.replace(a2_scale=w.a1_scale))


@mistake(quant="fp8_tensor")
def codes_read_with_a_scale_off_by_a_step(patch):
    around(
        patch,
        torch_loop,
        "dequantize_activations",
        lambda real, x: real(x.replace(scale=x.scale * 1.0078125)),
    )


@mistake(quant="int8_channel")
def token_scales_shifted_by_a_row(patch):
    around(
        patch,
        torch_loop,
        "dequantize_activations",
        lambda real, x: real(x.replace(scale=x.scale.roll(1, 0))),
    )


@mistake(quant="int8_channel")
def codes_truncated_instead_of_rounded(patch):
    around(patch, rounding, "int8_codes_torch", lambda real, x: real(x.trunc()))


@mistake(quant="fp8_tensor_dynamic", dp_size=2)
def dynamic_scale_of_each_rank_alone(patch):
    patch.setattr(Fp8TensorDynamic, "input_scale_is_local", True)


@mistake(quant="int8_channel", tp_size=2, n=256)
def weights_quantized_after_sharding_int8(patch):
    patch.setattr(expert_shards, "shard_weights", quantized_shard)


@mistake(quant="fp8_tensor", tp_size=2, n=256)
def weights_quantized_after_sharding_fp8(patch):
    patch.setattr(expert_shards, "shard_weights", quantized_shard)


def quantized_shard(layer_spec, rank, quant, w13, w2, biases):
    from moe.quant.none import NoQuant

    assert biases is None
    columns = layer_spec.layout.intermediate_of(rank, layer_spec.intermediate)
    plain = NoQuant()
    part = plain.shard(plain.quantize_weights(w13, w2), columns, layer_spec.intermediate)
    return quant.quantize_weights(part.w13, part.w2)


# --- routing


@mistake()
def router_weights_ignored(patch):
    def even(real, self, x, routing):
        weights = torch.full_like(routing.topk_weights, 1 / routing.topk_weights.shape[1])
        return real(self, x, Routing(topk_ids=routing.topk_ids, topk_weights=weights))

    around(patch, TorchLoopExperts, "apply", even)


@mistake()
def last_slot_dropped(patch):
    def drop(real, self, x, routing):
        ids = routing.topk_ids.clone()
        ids[:, -1] = -1
        return real(self, x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))

    around(patch, TorchLoopExperts, "apply", drop)


@mistake(says="routing: .* tokens have wrong weights")
def weights_not_renormalised(patch):
    around(
        patch,
        SoftmaxTopK,
        "__call__",
        lambda real, self, logits, k, renormalize: real(self, logits, k, renormalize=False),
    )


@mistake(says="routing: .* leave out a better expert")
def lowest_experts_chosen(patch):
    around(patch, SoftmaxTopK, "__call__", lambda real, self, x, k, **kw: real(self, -x, k, **kw))


@mistake(says="routing: .* tokens have wrong weights")
def router_weights_nan(patch):
    def broken(real, *args, **kw):
        found = real(*args, **kw)
        return Routing(topk_ids=found.topk_ids, topk_weights=found.topk_weights * float("nan"))

    around(patch, SoftmaxTopK, "__call__", broken)


@mistake(says="routing: token 0 is sent to")
def ids_beyond_the_last_expert(patch):
    def broken(real, *args, **kw):
        found = real(*args, **kw)
        return Routing(topk_ids=found.topk_ids + 2, topk_weights=found.topk_weights)

    around(patch, SoftmaxTopK, "__call__", broken)


@mistake(dp_size=2, use_ep=True)
def expert_offset_off_by_one(patch):
    around(
        patch,
        moe_kernel,
        "to_local_ids",
        lambda real, ids, its: real(ids, moved(its, to=first(its) + 1)),
    )


@mistake(dp_size=2, use_ep=True)
def every_rank_computes_experts_from_zero(patch):
    around(patch, moe_kernel, "to_local_ids", lambda real, ids, its: real(ids, moved(its, to=0)))


# --- between ranks


@mistake(tp_size=2)
def all_reduce_skipped(patch):
    patch.setattr(Group, "all_reduce", lambda self, x: x)


@mistake(tp_size=2)
def one_rank_s_share_missing(patch):
    around(
        patch,
        Group,
        "all_reduce",
        lambda real, self, x: real(self, x * (self.rank == 0)),
    )


@mistake(tp_size=2, use_ep=True)
def all_reduced_twice(patch):
    around(patch, Group, "all_reduce", lambda real, self, x: real(self, real(self, x)))


@mistake(tp_size=2, use_ep=True, sequence_parallel=True, m=2)
def all_reduced_under_sequence_parallelism(patch):
    """The classic: every rank adds other ranks' tokens to its own."""
    around(
        patch,
        AllGatherReduceScatter,
        "finalize",
        lambda real, self, partial, sent: self.group.all_reduce(real(self, partial, sent)),
    )


@mistake(tp_size=2)
def gate_up_sharded_as_one_matrix(patch):
    """Rank 0 gets all of gate, rank 1 all of up."""

    def contiguous(t, columns, intermediate):
        return t[:, 2 * columns.start : 2 * columns.stop].contiguous()

    patch.setattr(quant_base, "_rows_of", contiguous)


@mistake(tp_size=2)
def w2_shard_of_the_other_rank(patch):
    def other(real, self, w, columns, intermediate):
        rolled = w.w2.roll(intermediate // 2, 2)
        return real(self, w.replace(w2=rolled), columns, intermediate)

    around(patch, QuantMethod, "shard", other)


@mistake(dp_size=2, tokens="ragged", m=4)
def ragged_rows_taken_from_the_end(patch):
    def last(real, self, partial, sent):
        mine = self.group.reduce_scatter(partial)
        return mine[len(mine) - sent.counts[self.group.rank] :]

    around(patch, AllGatherReduceScatter, "finalize", last)


@mistake()
def tokens_rolled_by_finalize(patch):
    around(patch, Local, "finalize", lambda real, self, partial, sent: partial.roll(1, 0))


@mistake(dp_size=2, use_ep=True)
def another_rank_s_rows_returned(patch):
    around(
        patch,
        AllGatherReduceScatter,
        "finalize",
        lambda real, self, partial, sent: real(self, partial.roll(len(partial) // 2, 0), sent),
    )


# --- arithmetic


@mistake(says="rows wrong|all together", top_k=6, num_experts=8, m=16)
def sum_kept_in_bf16(patch):
    """The sum over the chosen experts is rounded at each step; the row declares float32."""
    add = torch.Tensor.index_add_

    def rounding(total, dim, index, source):
        return total.copy_(add(total, dim, index, source).bfloat16())

    def apply(real, self, x, routing):
        with pytest.MonkeyPatch.context() as meanwhile:  # the reference adds this way, too
            meanwhile.setattr(torch.Tensor, "index_add_", rounding)
            return real(self, x, routing)

    around(patch, TorchLoopExperts, "apply", apply)


@mistake()
def gelu_instead_of_silu(patch):
    patch.setattr(torch.nn.functional, "silu", torch.nn.functional.gelu)


@mistake(shared_experts=1)
def shared_experts_added_twice(patch):
    around(patch, SharedExperts, "forward", lambda real, self, x: real(self, x) * 2)


@mistake(shared_experts=1, tp_size=2)
def shared_experts_whole_on_every_tp_rank(patch):
    from harness.fixtures import layer_weights

    def whole(p, rank, w13, w2, quant, gate=None):
        weights = quant.quantize_weights(w13[None], w2[None])
        return SharedExperts(weights=weights, quant=quant, gate=gate)

    patch.setattr(layer_weights, "shard_shared", whole)


@mistake(shared_experts=1)
def shared_experts_forgotten(patch):
    around(patch, SharedExperts, "forward", lambda real, self, x: real(self, x) * 0)


# --- memory


@mistake(says=r"rows \(2\) are all NaN: never written")
def last_row_left_unwritten(patch):
    def all_but_one(real, self, x, routing):
        out = real(self, x, routing)
        kept = guarded_buffers.empty(out.shape, dtype=out.dtype, device=out.device)
        kept[:-1] = out[:-1]
        return kept

    around(patch, TorchLoopExperts, "apply", all_but_one)


@mistake(says="memory: 256 bytes after a buffer of 768 bytes were overwritten")
def a_row_too_many_written(patch):
    def beyond(real, self, x, routing):
        out = real(self, x, routing)
        torch.as_strided(out, (len(out) + 1, out.shape[1]), (out.shape[1], 1))[-1] = 0
        return out

    around(patch, TorchLoopExperts, "apply", beyond)


@mistake(says="NaN", experts="triton", dp_size=2, use_ep=True)
def slots_of_other_ranks_summed(patch):
    """Rows of the workspace that nobody computed are added to the output."""
    around(patch, triton, "combine", lambda real, y, w, ids: real(y, w, ids.clamp(min=0)))


@mistake(says="second call with 2 tokens: .*rows wrong")
def first_call_s_output_returned_again(patch):
    def stale(real, self, x, routing):
        if not hasattr(self, "kept"):
            self.kept = real(self, x, routing)
        return self.kept[: len(x.codes)]

    around(patch, TorchLoopExperts, "apply", lambda real, *a: stale(real, *a))


@mistake(says="output: dtype torch.float32, expected torch.bfloat16")
def output_in_another_dtype(patch):
    around(patch, Local, "finalize", lambda real, self, partial, sent: partial.float())


@mistake(says="memory: the layer changed its input x")
def output_written_over_the_input(patch):
    """Right numbers, but the caller's hidden states are gone."""

    def over(real, self, x, logits):
        out = real(self, x, logits)
        x.copy_(out.out)
        return out

    around(patch, layer.FusedMoE, "forward", over)


@mistake(says="rows wrong")
def input_scaled_in_place(patch):
    """The reference must not see what the layer did to its input."""
    around(patch, moe_kernel.MoEKernel, "apply", lambda real, self, x, r: real(self, x.mul_(2), r))
