"""One fault for each stage, planted into the real stack; importable in a rank."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
import torch

from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from moe import intermediates
from moe.all2all import all_to_all, all_to_all_batched
from moe.all2all.all_to_all import AllToAll
from moe.all2all.all_to_all_batched import AllToAllBatched
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.collectives import Group
from moe.experts import triton, triton_steps
from moe.quant.int8_channel import Int8Channel
from moe.shared import SharedExperts
from tests.mistakes.mistake import edited

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.record.result import RankResult

N, K = 128, 128


def case(**fields) -> MoETestConfig:
    plain = {"m": 5, "n": N, "k": K, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


def _around(patch, owner, name: str, change: Callable) -> None:
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **options: change(real(*args, **options), *args))


def one_more(x: torch.Tensor) -> torch.Tensor:
    """The first finite element that is not small moved by two steps of bf16."""
    flat = x.clone()
    sound = (flat.float().abs() > flat.float().nan_to_num().abs().mean()).nonzero()
    row, column = (int(i) for i in sound[0])
    flat[row, column] *= 1 + 2.0**-6
    return flat


def input_codes(patch) -> None:
    def change(found, *_):
        return dataclasses.replace(found, codes=found.codes.roll(1, dims=1))

    _around(patch, Int8Channel, "quantize_input", change)


def first_product(patch) -> None:
    def change(found, x, w, *_):
        return one_more(found) if w.codes.shape[1] == 2 * N else found

    _around(patch, triton, "grouped_gemm", change)


def activation(patch) -> None:
    _around(patch, triton_steps, "activate", lambda found, *_: one_more(found))


def second_codes(patch) -> None:
    def change(found, *_):
        codes = found[0].view(torch.uint8).clone()
        codes[:, 5] = codes[:, 6]
        return codes.view(found[0].dtype), found[1]

    _around(patch, triton_steps, "quantize_rows", change)


def second_codes_under_one_scale(patch) -> None:
    def change(found, *_):
        return found.view(torch.uint8).roll(1, dims=1).view(found.dtype)

    _around(patch, triton_steps, "quantize_tensor", change)


def second_scales(patch) -> None:
    _around(patch, triton_steps, "quantize_rows", lambda found, *_: (found[0], found[1] * 1.01))


def second_product(patch) -> None:
    def change(found, x, w, *_):
        return one_more(found) if w.codes.shape[1:] == (K, N) else found

    _around(patch, triton, "grouped_gemm", change)


def weighted_sum(patch) -> None:
    _around(patch, triton, "combine", lambda found, *_: one_more(found))


def shared_output(patch) -> None:
    _around(patch, SharedExperts, "forward", lambda found, *_: one_more(found))


def a_token_for_each_slot(patch) -> None:
    """A token with two experts on a rank is sent there twice, each time with both ids."""
    edited(
        patch, AllToAll, "_goes", "held.any(dim=2).nonzero(as_tuple=True)", "held.nonzero().T[:2]"
    )


def a_token_left_out(patch) -> None:
    def change(found, *_):
        kept = torch.ones(len(found.tokens), dtype=torch.bool)
        kept[:1] = False
        ids = found.routing.topk_ids.masked_fill(~kept[:, None], -1)
        routing = dataclasses.replace(found.routing, topk_ids=ids)
        tokens = found.tokens.masked_fill(~kept, -1)
        return dataclasses.replace(found, routing=routing, tokens=tokens)

    _around(patch, AllToAll, "prepare", change)


def scales_in_another_order(patch) -> None:
    def change(found, x, *_):
        return found.roll(1, dims=0) if x.dtype == torch.float32 else found

    _around(patch, all_to_all, "_picked", change)


def sums_of_other_tokens(patch) -> None:
    edited(patch, all_to_all, "_added", "way.tokens[part], back", "way.tokens[part].flip(0), back")


def weights_of_other_slots(patch) -> None:
    edited(
        patch,
        all_to_all_batched,
        "_weighed",
        "way.weights[:, :, None]",
        "way.weights.flip(1)[..., None]",
    )


def rows_of_a_block_swapped(patch) -> None:
    """Codes lie where other rows of the block are said to lie."""

    def change(found, *_):
        found[:2] = found[:2].flip(0)
        return found

    _around(patch, AllToAllBatched, "_in_blocks", change)


def a_block_cut_short(patch) -> None:
    """Rows beyond two of each block are dropped, and give zeros."""
    _around(patch, AllToAllBatched, "prepare", lambda found, *_: without_overflow(found, 2))
    real = AllToAllBatched.finalize

    def finalize(self, partial, dispatched):
        is_used = dispatched.routing.topk_ids >= 0
        return real(self, torch.where(is_used, partial, 0.0).to(partial.dtype), dispatched)

    patch.setattr(AllToAllBatched, "finalize", finalize)


def without_overflow(found, room: int):
    """Blocks of which only the first `room` rows are said to be in use."""
    rows = len(found.tokens) // len(found.block_counts)
    is_kept = torch.arange(len(found.tokens)) % rows < room
    routing = dataclasses.replace(
        found.routing, topk_ids=found.routing.topk_ids.masked_fill(~is_kept[:, None], -1)
    )
    return dataclasses.replace(
        found,
        routing=routing,
        tokens=found.tokens.masked_fill(~is_kept, -1),
        block_counts=found.block_counts.clamp(max=room),
    )


def rows_in_another_order(patch) -> None:
    def change(found, *_):
        x = found.x.replace(codes=found.x.codes.roll(1, dims=0))
        return dataclasses.replace(found, x=x)

    _around(patch, AllGatherReduceScatter, "prepare", change)


def ids_of_padding_kept(patch) -> None:
    """Padding rows are sent to expert 0."""

    def change(found, *_):
        ids = found.routing.topk_ids
        routing = dataclasses.replace(found.routing, topk_ids=ids.clamp(min=0))
        return dataclasses.replace(found, routing=routing)

    _around(patch, AllGatherReduceScatter, "prepare", change)


def one_weight_doubled(patch) -> None:
    def change(found, *_):
        weights = found.routing.topk_weights.clone()
        weights[-1] *= 2
        routing = dataclasses.replace(found.routing, topk_weights=weights)
        return dataclasses.replace(found, routing=routing)

    _around(patch, AllGatherReduceScatter, "prepare", change)


def sum_between_ranks(patch) -> None:
    _around(patch, AllGatherReduceScatter, "finalize", lambda found, *_: found * 1.02)


def sum_over_tp(patch) -> None:
    _around(patch, Group, "all_reduce", lambda found, *_: found * 1.02)


def second_codes_alone(patch) -> None:
    """Right, and the scale of the second quantization is not handed out."""
    _kept_back(patch, "second_scale")


def input_codes_alone(patch) -> None:
    """Right, and the scale of the first quantization is not handed out."""
    _kept_back(patch, "input_scale")


def activation_alone(patch) -> None:
    """Right, and of the second quantization nothing is handed out."""
    _kept_back(patch, "second", "second_scale")


def second_codes_without_a_scale(patch) -> None:
    second_codes_alone(patch)
    second_codes_under_one_scale(patch)


def second_product_without_a_scale(patch) -> None:
    second_codes_alone(patch)
    second_product(patch)


def _kept_back(patch, *stages: str) -> None:
    real = intermediates.keep

    def keep(stage, *args, **options):
        if stage not in stages:
            real(stage, *args, **options)

    patch.setattr(intermediates, "keep", keep)


def nothing(_patch) -> None:
    """A right stack."""


def run(plant: Callable, text: str, world_size: int = 1) -> RankResult:
    """Run one case in this rank while a fault is in the stack."""
    torch.set_num_threads(1)
    here = RankContext(
        rank=int(os.environ["RANK"]) if world_size > 1 else 0,
        world_size=world_size,
        device=torch.device("cpu"),
        transport="gloo",
    )
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        return run_case(MoETestConfig.from_id(text), here)


def stages_of(result: RankResult) -> list[str]:
    """The stages that a result's messages name, in their order."""
    named = [text for text in result.messages if text.startswith("stage ")]
    return [text.removeprefix("stage ").partition(":")[0] for text in named]
