"""Time dispatch and combine of each all2all backend, beside a plain all-to-all of as many bytes.

`make bench-all2all`, or `python benchmarks/all2all.py [--world N] [--tokens T,T] [--hidden K]
[--experts E] [--top-k k] [--repeats R]`. With a GPU for each rank, NCCL sends; otherwise gloo
does on the CPU, and the times tell nothing of a GPU's link: they compare backends on one machine,
where Triton kernels are interpreted. The bytes are those of the rows that reach a rank's experts,
there and back, in bf16. On GPUs what needs no host is replayed from a CUDA graph: the plain
all-to-all, and symm_mem with a capacity of T rows for each rank. The others wait for the host.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from harness import parallel_launch
from moe.all2all import ALL2ALL
from moe.all2all.make import make_prepare_finalize
from moe.collectives import Group
from moe.layout import Layout
from moe.spec import LayerSpec
from moe.types import Activations, Routing

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe.all2all.base import PrepareFinalize

NAMES = tuple(
    row.name for row in ALL2ALL.built_in if row.needs.max_world is None and not row.needs.packages
)
PLAIN = "plain all-to-all"
REPLAYS = 20  # of a graph for one measurement
# Name in the table -> backend with a capacity of T rows, so that no call needs the host.
FIXED = {"symm_mem, capacity T": "symm_mem"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    tokens: int  # per rank
    hidden: int
    experts: int
    top_k: int
    repeats: int
    device: str


def timed(step: Callable[[], object], asked: Asked) -> float:
    """Return the median seconds of a step, after two that are not counted."""
    seconds = []
    for _ in range(asked.repeats + 2):
        dist.barrier()
        start = time.perf_counter()
        step()
        if asked.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def captured(step: Callable[[], object]) -> Callable[[], object]:
    """Return a function that replays a CUDA graph of the step REPLAYS times."""
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> None:
        for _ in range(REPLAYS):
            graph.replay()

    return replay


def without_host(step: Callable[[], object], asked: Asked) -> float:
    """Return the median seconds of a step that needs no host: on a GPU, replayed from a graph."""
    if asked.device != "cuda":
        return timed(step, asked)
    return timed(captured(step), asked) / REPLAYS


def measured(asked: Asked) -> dict[str, tuple[float, int]]:
    """Return name -> seconds and bytes of this rank. Runs in each rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    group = Group(handle=dist.group.WORLD, size=world, rank=rank)
    x, routing = made(asked, rank)
    spec = LayerSpec(
        m=asked.tokens,
        hidden=asked.hidden,
        intermediate=asked.hidden,
        num_experts=asked.experts,
        top_k=asked.top_k,
        layout=Layout(dp_size=world, use_ep=True),
    )
    found = {}
    for title, name in ({name: name for name in NAMES} | FIXED).items():
        capacity = asked.tokens if title in FIXED else None
        member = make_prepare_finalize(name, spec, rank, group, capacity=capacity)
        sent = member.prepare(x, routing)
        rows = int((sent.routing.topk_ids >= 0).any(dim=1).sum())
        member.finalize(sent.x.codes, sent)
        step = functools.partial(both_ways, member, x, routing)
        seconds = (without_host if title in FIXED else timed)(step, asked)
        found[title] = seconds, 2 * rows * asked.hidden * x.codes.element_size()
    found[PLAIN] = plain(group, x.codes, asked)
    return found


def both_ways(member: PrepareFinalize, x: Activations, routing: Routing) -> torch.Tensor:
    """Dispatch, and combine what arrived as if it were the experts' output."""
    sent = member.prepare(x, routing)
    return member.finalize(sent.x.codes, sent)


def plain(group: Group, rows: torch.Tensor, asked: Asked) -> tuple[float, int]:
    """Return seconds and bytes of two all-to-alls of T rows to each rank."""
    parts = [len(rows)] * group.size
    rows = rows.repeat(group.size, 1)

    def both() -> None:
        group.all_to_all(group.all_to_all(rows, parts, parts), parts, parts)

    return without_host(both, asked), 2 * rows.numel() * rows.element_size()


def made(asked: Asked, rank: int) -> tuple[Activations, Routing]:
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(asked.tokens, asked.hidden, generator=generator).bfloat16()
    scores = torch.rand(asked.tokens, asked.experts, generator=generator)
    weights, ids = scores.topk(asked.top_k)
    routing = Routing(topk_ids=ids.int().to(asked.device), topk_weights=weights.to(asked.device))
    return Activations(codes=x.to(asked.device)), routing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("world", 2), ("hidden", 1024), ("experts", 16), ("top-k", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", default="1,64,256")
    options = parser.parse_args()
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= options.world
    device = "cuda" if has_gpus else "cpu"
    via = "NCCL" if has_gpus else "gloo on the CPU: no GPU for each rank, so no link is measured"
    print(f"dispatch + combine, {options.world} ranks, K = {options.hidden}, bf16, over {via}")
    print("| tokens a rank | all2all | ms | MB handled | MB/s |\n|---|---|---|---|---|")
    for tokens in map(int, options.tokens.split(",")):
        asked = Asked(
            tokens=tokens,
            hidden=options.hidden,
            experts=options.experts,
            top_k=options.top_k,
            repeats=options.repeats,
            device=device,
        )
        by_rank = parallel_launch(options.world, measured, asked, device=device, timeout=300)
        for name in by_rank[0]:
            seconds = max(found[name][0] for found in by_rank)
            size = max(found[name][1] for found in by_rank) / 1e6
            print(
                f"| {tokens} | {name} | {seconds * 1e3:.3f} | {size:.3f} | {size / seconds:.0f} |"
            )


if __name__ == "__main__":
    importlib.import_module("benchmarks.all2all").main()  # ranks cannot import this as __main__
