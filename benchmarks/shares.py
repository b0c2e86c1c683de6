"""Shares of the bound that right and wrong outputs take: what `bounds_plot.py` draws.

Right outputs are those of real layers, run in real ranks as a case runs them; a row's share is its
distance from the reference over `row_tolerance` of `harness.checks.output`. Wrong ones are the
known mistakes on the same rows: those of the self-proof, which every case must reject, and the
diagnosis's others. Their share is the judgement's own `bound_used`, since one in a single
row is caught there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import groupby
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from harness import parallel_launch
from harness.checks.output import judge, row_tolerance
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.fixtures.run_calls import run_call
from harness.matrix.case import MoETestConfig
from harness.mutants import HYPOTHESES, Hypothesis, NotApplicable
from harness.mutants.sample import scene_of
from moe.experts import EXPERTS
from moe.platforms import platform
from moe.platforms.detect import devices, platform_of
from moe.quant import QUANT

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.reference.result import Answer

TIMEOUT = 1800.0  # seconds for all cases of one world size
SHAPES = {"cpu": (16, 256, 256), "cuda": (64, 512, 1024)}  # m, n, k; interpreted kernels are slow


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of one case on one rank, or of many together. right: of every row; wrong: (share, mistake)
    of every wrong answer of the self-proof, others: of every other known mistake. 1 is the bound,
    inf an output with NaN or Inf.
    """

    right: tuple[float, ...]
    wrong: tuple[tuple[float, str], ...]
    others: tuple[tuple[float, str], ...]


def cases(device: str, seeds: int) -> list[MoETestConfig]:
    """Every method with every member that takes it on this machine; alone and on two ranks."""
    chip = platform("cpu") if device == "cpu" else platform_of(devices())
    m, n, k = SHAPES[device]
    base = MoETestConfig(m=m, n=n, k=k, num_experts=8, top_k=2, experts="any", shared_experts=1)
    points = [base.replace(quant=q, experts=row.name) for q in QUANT.rows for row in EXPERTS]
    taken = [
        point
        for point in points
        if EXPERTS.row(point.experts).needs.refusal(point.layer_spec, chip) is None
    ]
    layouts = ({"dp_size": 1}, {"dp_size": 2, "use_ep": True})
    return [p.replace(seed=s, **on) for on in layouts for p in taken for s in range(seeds)]


def measured(all_cases: list[MoETestConfig], device: str) -> dict[tuple[str, str], Shares]:
    """By quantization method and member, over all ranks, seeds and layouts.

    Raises parallel.RankFailure where a layer raises.
    """
    found: dict[tuple[str, str], list[Shares]] = {}
    for world, group in groupby(all_cases, key=lambda case: case.world_size):
        together = list(group)
        ids = [case.id for case in together]
        transport = "gloo" if device == "cpu" else "nccl" if len(devices()) >= world else "staged"
        ranks = parallel_launch(
            *(world, in_rank, ids, device, transport),
            timeout=TIMEOUT,
            device=device,
            transport=transport,
        )
        for case, shares in (pair for rank in ranks for pair in zip(together, rank, strict=True)):
            found.setdefault((case.quant, case.experts), []).append(shares)
    return {key: _joined(parts) for key, parts in found.items()}


def in_rank(ids: list[str], device: str, transport: str) -> list[Shares]:
    """Collective: the cases one after the other, on this rank of a gang."""
    here = torch.device(device if device == "cpu" else f"cuda:{torch.cuda.current_device()}")
    rank, world = dist.get_rank(), dist.get_world_size()
    context = RankContext(rank=rank, world_size=world, device=here, transport=transport)
    return [of_case(MoETestConfig.from_id(text), context) for text in ids]


@torch.inference_mode()
def of_case(case: MoETestConfig, context: RankContext) -> Shares:
    """Collective. Both calls' rows on this rank; wrong answers to the first call."""
    subject, clock = make_subject(case, context), Clock(context=context)
    calls = [run_call(subject, context, clock, number) for number in (0, 1)]
    right = [share for call in calls for share in row_shares(call.output.out, call.answer)]
    scene = scene_of(case, context.rank, calls[0], subject.reference)
    wrong = wrong_shares(scene, [h for h in HYPOTHESES if h.battery])
    others = wrong_shares(scene, [h for h in HYPOTHESES if not h.battery])
    return Shares(right=tuple(right), wrong=wrong, others=others)


def row_shares(out: Tensor, answer: Answer) -> list[float]:
    """Each row's distance from the reference over its bound."""
    distance = (out.to(answer.out.dtype) - answer.out).norm(dim=1)
    return [float(share) for share in (distance / row_tolerance(answer)).nan_to_num(inf)]


def wrong_shares(scene: Scene, mistakes: list[Hypothesis]) -> tuple[tuple[float, str], ...]:
    """(share, name) of each that is a mistake here and changes a bit of these rows' output."""
    found = []
    for mistake in mistakes:
        try:
            out = mistake.compute(scene).to(scene.actual.dtype)
        except NotApplicable:
            continue
        answer = scene.first(len(out)).answer
        if not torch.equal(out, answer.out.to(out.dtype)):
            found.append((judge(out, answer).metrics.get("bound_used", inf), mistake.name))
    return tuple(found)


def _joined(parts: list[Shares]) -> Shares:
    return Shares(
        right=tuple(share for part in parts for share in part.right),
        wrong=tuple(pair for part in parts for pair in part.wrong),
        others=tuple(pair for part in parts for pair in part.others),
    )
