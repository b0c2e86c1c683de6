"""Measure the memory of ranks that run a case: case ids as arguments, a line of bytes for each.

Each case runs in a process of its own, forked once torch is imported, after a small case with the
same members. What is printed is the growth of resident memory from then to its peak.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict

SMALL = {"m": 8, "n": 128, "k": 128, "num_experts": 4, "top_k": 2}


def resident(name: str) -> int:
    """Return the bytes that the kernel counts as VmRSS (now) or VmHWM (at the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def growth(case: MoETestConfig) -> int:
    context = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    run_case(case.replace(**SMALL), context)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    assert run_case(case, context).verdict is Verdict.PASSED
    return resident("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    for text in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            print(growth(MoETestConfig.from_id(text)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{text} did not pass")
