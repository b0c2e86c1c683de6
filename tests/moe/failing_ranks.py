"""What ranks do in the test of experts that fail on one of them, between prepare and finalize."""

from __future__ import annotations

import torch
import torch.distributed as dist

from moe import expert_shards, layer, micro_batches
from moe.collectives import make_groups
from moe.layout import Layout
from moe.quant import QUANT
from moe.spec import LayerSpec
from moe.types import Routing

K, N, EXPERTS = 64, 32, 4
LAYOUT = Layout(dp_size=2, use_ep=True)  # experts 0 and 1 on rank 0, 2 and 3 on rank 1


def kernel_of(all2all: str, experts: str, capacity: int | None):
    """The kernel of this rank's layer; its weights are those of every layer made here."""
    rank = dist.get_rank()
    spec = LayerSpec(m=4, hidden=K, intermediate=N, num_experts=EXPERTS, top_k=1, layout=LAYOUT)
    every = torch.Generator().manual_seed(0)
    w13 = torch.randn(EXPERTS, 2 * N, K, generator=every).bfloat16()
    w2 = torch.randn(EXPERTS, K, N, generator=every).bfloat16()
    ids = list(spec.experts_of(rank))
    weights = expert_shards.shard_weights(spec, rank, QUANT.load("none")(), w13[ids], w2[ids])
    members = layer.Members(experts=experts, all2all=all2all, quant="none")
    groups = make_groups(LAYOUT, rank, staged=False)
    kernel = layer.build(spec, rank, groups, members, weights).kernel
    kernel.prepare_finalize.capacity = capacity
    return kernel


def sent(call: int) -> tuple[torch.Tensor, Routing]:
    """Four other tokens for each call and rank; the tokens 0 and 1 go to rank 0, the rest to 1."""
    own = torch.Generator().manual_seed(10 * call + dist.get_rank())
    ids = torch.arange(4, dtype=torch.int32)[:, None]
    weights = torch.rand(4, 1, generator=own) + 0.5
    x = torch.randn(4, K, generator=own).bfloat16()
    return x, Routing(topk_ids=ids, topk_weights=weights)


def one_fails_with(members: tuple[tuple[str, str, int | None], ...]):
    """`one_fails` for (all2all, experts, capacity) of each."""
    return [one_fails(*names) for names in members]


def one_fails(all2all: str, experts: str, capacity: int | None = None):
    """Three calls, of which the experts of rank 1 fail in the second.

    Return this rank's error of that call or the rows of its output that are NaN, and whether the
    first and the third call give what they give in layers in which nothing failed.
    """
    kernel = kernel_of(all2all, experts, capacity)
    wanted = [kernel_of(all2all, experts, capacity).apply(*sent(call)) for call in (0, 2)]
    first = kernel.apply(*sent(0))
    told: str | list[int]
    real = kernel.experts.apply
    if dist.get_rank() == 1:
        kernel.experts.apply = failing
    try:
        told = kernel.apply(*sent(1)).isnan().all(dim=1).nonzero().flatten().tolist()
    except RuntimeError as error:
        told = f"{error} {getattr(error, '__notes__', [])}"
    kernel.experts.apply = real
    third = kernel.apply(*sent(2))
    return told, [torch.equal(a, b) for a, b in zip((first, third), wanted, strict=True)]


def one_of_two_batches_fails(all2all: str):
    """Two batches by turns, of which the experts of rank 1 fail in the second; then one call.

    Return this rank's error, or which rows of each batch are NaN, and whether the last call gives
    what it gives in a layer in which nothing failed.
    """
    kernel = kernel_of(all2all, "torch_loop", None)
    wanted = kernel_of(all2all, "torch_loop", None).apply(*sent(2))
    kernel.apply(*sent(0))
    told: str | list[list[int]]
    real = kernel.experts.apply
    if dist.get_rank() == 1:
        parts = iter([real, failing])
        kernel.experts.apply = lambda *given: next(parts)(*given)
    batches = [lambda call=call: kernel.apply(*sent(call)) for call in (1, 3)]
    try:
        outputs = micro_batches.overlapped(batches, torch.device("cpu"))
        told = [out.isnan().all(dim=1).nonzero().flatten().tolist() for out in outputs]
    except RuntimeError as error:
        told = f"{error} {getattr(error, '__notes__', [])}"
    kernel.experts.apply = real
    return told, torch.equal(kernel.apply(*sent(2)), wanted)


def failing(*_: object) -> torch.Tensor:
    raise RuntimeError("a row is out of range")
